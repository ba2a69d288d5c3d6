"""The listening sockets of this process: gRPC opens them and has no way to close them before everything else.

When a listening socket is closed, the kernel resets the connections that nobody has accepted yet, and their callers get
an error although other workers listen on the same port. So before that, the kernel is told to drop new handshakes
(their SYN) on this socket: what is under way is completed and accepted by gRPC meanwhile, and whose SYN was dropped
sends it again within a second, by itself, and finds another worker then.
"""

import ctypes
import logging
import os
import socket
import struct
from pathlib import Path

SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the module socket does not name it

# A classic BPF program over the TCP header: byte 13 has the flags, and bit 1 of them is SYN. See bpf(2) of the BSDs and
# Documentation/networking/filter.rst of Linux: (code, jump if true, jump if false, operand).
DROP_SYN = (
    (0x30, 0, 0, 13),  # A = the flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # yes: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # no: let it pass
)

log = logging.getLogger(__name__)


def refuse_handshakes(port: int) -> bool:
    """Drop new handshakes on the sockets of this process that listen on a TCP port; False if that is not possible."""
    try:
        listening = _listening(port)
        for listener in listening:
            with listener:
                _attach(listener)
    except OSError as error:
        log.warning("cannot hold up new connections before the port is closed; a few may be reset: %s", error)
        return False
    return bool(listening)


def _listening(port: int) -> list[socket.socket]:
    """Duplicates of the sockets of this process that listen on a port. The caller closes them."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        candidate = _duplicate(int(path.name))
        if candidate is None:
            continue
        if _listens(candidate, port):
            found.append(candidate)
        else:
            candidate.close()
    return found


def _duplicate(descriptor: int) -> socket.socket | None:
    """A socket of our own for the same thing; None if it is no socket, or was closed meanwhile."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None


def _listens(candidate: socket.socket, port: int) -> bool:
    if candidate.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return candidate.getsockname()[1] == port and bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _attach(listener: socket.socket) -> None:
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in DROP_SYN)
    buffer = ctypes.create_string_buffer(program)
    listener.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(DROP_SYN), ctypes.addressof(buffer))
    )
