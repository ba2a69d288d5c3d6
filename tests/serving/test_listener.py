"""The sockets of a port, closed in an order that loses nobody."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from serving.edge.listener import close_listeners, count_connections, end_connections, refuse_handshakes

PATIENCE_SECONDS = 10.0


def listening(port: int = 0) -> socket.socket:
    """A socket that listens on a port with others."""
    listener = socket.socket()
    listener.settimeout(PATIENCE_SECONDS)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


@pytest.fixture
def open_sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def test_who_waits_to_be_accepted_is_kept_and_who_comes_later_goes_to_another(open_sockets: ExitStack) -> None:
    old = open_sockets.enter_context(listening())
    port = port_of(old)
    early = [open_sockets.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
    assert refuse_handshakes(port)
    late = [open_sockets.enter_context(socket.socket()) for _ in range(8)]
    for caller in late:
        caller.setblocking(False)
        assert caller.connect_ex(("127.0.0.1", port)) != 0  # under way: its SYN is dropped
    accepted = [open_sockets.enter_context(old.accept()[0]) for _ in early]
    assert {one.getpeername() for one in accepted} == {one.getsockname() for one in early}
    new = open_sockets.enter_context(listening(port))
    close_listeners(port_of(new))  # both: they are of this process
    newer = open_sockets.enter_context(listening(port))
    found = {open_sockets.enter_context(newer.accept()[0]).getpeername() for _ in late}  # their SYN is sent again
    assert found == {caller.getsockname() for caller in late}


def test_a_port_without_listeners_is_refused_and_its_connections_live_on(open_sockets: ExitStack) -> None:
    old = open_sockets.enter_context(listening())
    port = port_of(old)
    caller = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
    accepted = open_sockets.enter_context(old.accept()[0])
    close_listeners(port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert not refuse_handshakes(port)
    assert count_connections(port) == 1
    caller.sendall(b"question")
    assert accepted.recv(100) == b"question"


def test_an_ended_connection_delivers_what_was_sent(open_sockets: ExitStack) -> None:
    old = open_sockets.enter_context(listening())
    port = port_of(old)
    caller = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
    accepted = open_sockets.enter_context(old.accept()[0])
    accepted.sendall(b"answer")
    end_connections(port)
    assert caller.recv(100) == b"answer"
    assert caller.recv(100) == b""
    caller.close()
    accepted.close()
    assert count_connections(port) == 0


def test_other_ports_and_other_sockets_are_left_alone(open_sockets: ExitStack) -> None:
    mine, other = (open_sockets.enter_context(listening()) for _ in range(2))
    datagrams = open_sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    datagrams.bind(("127.0.0.1", port_of(mine)))
    refuse_handshakes(port_of(mine))
    close_listeners(port_of(mine))
    end_connections(port_of(mine))
    caller = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port_of(other)), PATIENCE_SECONDS))
    assert open_sockets.enter_context(other.accept()[0]).getpeername() == caller.getsockname()
    assert datagrams.getsockname()[1] != 0
