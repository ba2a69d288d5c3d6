"""Frames of HTTP/2, byte by byte, for what no client library would send (RFC 9113 and RFC 7541)."""

import socket
import struct
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
FRAME_HEAD = 9  # bytes before the payload


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame: 24 bits of length, 8 of kind, 8 of flags, 32 of stream."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def hpack(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Headers as literals, neither indexed nor compressed."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def grpc_headers(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The header block of a gRPC call."""
    return hpack(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *more,
        ]
    )


def message(data: bytes) -> bytes:
    """A message in gRPC's framing, uncompressed."""
    return b"\0" + struct.pack(">I", len(data)) + data


class Connection:
    """A socket to a server, in a `with` block. `opened` has sent the preface and empty settings."""

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout)

    @classmethod
    def opened(cls, address: str, timeout: float = 10.0) -> Self:
        """A connection on which calls can be made."""
        connection = cls(address, timeout)
        connection.send(PREFACE + frame(SETTINGS))
        return connection

    def send(self, data: bytes) -> None:
        """All of it."""
        self.socket.sendall(data)

    def until_end(self) -> bytes:
        """What the server sends until it closes the connection, or until the timeout."""
        received = bytearray()
        try:
            while data := self.socket.recv(65536):
                received += data
        except OSError:  # reset, or the timeout
            pass
        return bytes(received)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _text(value: bytes) -> bytes:
    return _integer(len(value)) + value


def _integer(value: int) -> bytes:
    """With a prefix of seven bits."""
    if value < 127:
        return bytes([value])
    digits, value = bytearray([127]), value - 127
    while value >= 128:
        digits.append(value % 128 + 128)
        value //= 128
    return bytes([*digits, value])
