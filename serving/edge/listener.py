"""The sockets of a port: gRPC can neither close its listening sockets before the others, nor close the others gently.

When a listening socket is closed, the kernel resets the connections that have not been accepted yet, and their callers
get an error although other workers listen on the same port. So before that, the kernel is told to drop new handshakes
(their SYN) on this socket. Handshakes under way are completed and accepted by gRPC meanwhile; a client whose SYN was
dropped sends it again by itself within a second, and then reaches another worker.
"""

import contextlib
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

Where = int | str
"""A TCP port, or the path that a socket in the file system was bound to."""

log = logging.getLogger(__name__)


def refuse_handshakes(where: Where) -> bool:
    """Drop new handshakes on this process's listening sockets of a port; False if that is not possible."""
    listening = _descriptors(where, listening=True)
    try:
        for descriptor in listening:
            with _duplicate(descriptor) as listener:
                if listener.family != socket.AF_UNIX:  # which has no handshakes
                    _attach(listener)
    except OSError as error:
        log.warning("cannot hold up new connections before the port is closed; a few may be reset: %s", error)
        return False
    return bool(listening)


def close_listeners(where: Where) -> None:
    """Stop listening on a port: new connections go to other processes that listen on it, or are refused.

    gRPC must not notice, since it would close its connections as well: its descriptors are given another socket, which
    is never used.
    """
    with socket.socket() as idle:
        for descriptor in _descriptors(where, listening=True):
            os.dup2(idle.fileno(), descriptor, inheritable=False)


def end_connections(where: Where) -> None:
    """Close our end of all connections of a port once everything that was sent has been received."""
    for descriptor in _descriptors(where, listening=False):
        with contextlib.suppress(OSError), _duplicate(descriptor) as connection:
            connection.shutdown(socket.SHUT_WR)


def count_connections(where: Where) -> int:
    """How many connections of a port this process has."""
    return len(_descriptors(where, listening=False))


def _descriptors(where: Where, *, listening: bool) -> list[int]:
    """The sockets of this process on a port of its own, those that listen or the others."""
    found = []
    for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        with contextlib.suppress(OSError), _duplicate(descriptor) as candidate:  # not a socket, or closed meanwhile
            if _is_on(candidate, where) and _listens(candidate) is listening:
                found.append(descriptor)
    return found


def _duplicate(descriptor: int) -> socket.socket:
    """The same socket under a descriptor of our own; OSError if `descriptor` is not a socket."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _is_on(candidate: socket.socket, where: Where) -> bool:
    if candidate.type != socket.SOCK_STREAM:
        return False
    if candidate.family == socket.AF_UNIX:
        return bool(candidate.getsockname() == where)
    is_tcp = candidate.family in (socket.AF_INET, socket.AF_INET6)
    return is_tcp and bool(candidate.getsockname()[1] == where)


def _listens(candidate: socket.socket) -> bool:
    return bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _attach(listener: socket.socket) -> None:
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in DROP_SYN)
    buffer = ctypes.create_string_buffer(program)
    listener.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(DROP_SYN), ctypes.addressof(buffer))
    )
