"""The pages that the supervisor serves, over real sockets."""

import http.client
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from serving import http_status
from serving.http_status import MAX_CONNECTIONS, REQUEST_BYTES, HttpStatus


@dataclass
class Told:
    """What the pages say."""

    live: bool = True
    ready: bool = True
    broken: bool = False

    def metrics(self, accept: str) -> tuple[bytes, str]:
        if self.broken:
            raise OSError("no such folder")
        return f"accept {accept}\n".encode(), "text/special"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Told, HttpStatus]]:
    """One server for all; closing takes half a second."""
    told = Told()
    live, ready = lambda: (told.live, "alive"), lambda: (told.ready, f"ready {told.ready}")
    with HttpStatus("127.0.0.1", 0, metrics=told.metrics, live=live, ready=ready) as server:
        yield told, server


@pytest.fixture
def server(pair: tuple[Told, HttpStatus]) -> HttpStatus:
    return pair[1]


@pytest.fixture
def told(pair: tuple[Told, HttpStatus]) -> Iterator[Told]:
    yield pair[0]
    pair[0].live, pair[0].ready, pair[0].broken = True, True, False


def ask(
    server: HttpStatus, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(server.address, timeout=10)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    answer = response.status, response.getheader("Content-Type", ""), response.read()
    connection.close()
    return answer


def send(server: HttpStatus, data: bytes) -> bytes:
    """What comes back until the server closes."""
    with connected(server) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def connected(server: HttpStatus) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_probes_say_yes_and_no(server: HttpStatus, told: Told) -> None:
    text = "text/plain; charset=utf-8"
    assert ask(server, "/healthz") == (200, text, b"alive\n")
    assert ask(server, "/readyz?verbose") == (200, text, b"ready True\n")
    told.ready = False
    assert ask(server, "/readyz") == (503, text, b"ready False\n")
    assert ask(server, "/healthz")[0] == 200
    told.live = False
    assert ask(server, "/healthz")[0] == 503


def test_metrics_are_given_in_the_format_that_is_asked_for(server: HttpStatus) -> None:
    status, kind, body = ask(server, "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert (status, kind, body) == (200, "text/special", b"accept application/openmetrics-text\n")


def test_head_has_no_body(server: HttpStatus) -> None:
    answer = send(server, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"Content-Length: 6\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(server: HttpStatus, method: str) -> None:
    assert ask(server, "/metrics", method)[0] == 501


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/%2e%2e/metrics"])
def test_other_paths_are_not_found(server: HttpStatus, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_a_page_that_fails_says_nothing_of_why(
    server: HttpStatus, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    told.broken = True
    status, _, body = ask(server, "/metrics")
    assert (status, body) == (500, b"see the log\n")
    assert "no such folder" in caplog.text


@pytest.mark.parametrize("data", [b"\r\n\r\n", b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\0\r\n\r\n"])
def test_what_is_no_request_harms_nothing(server: HttpStatus, data: bytes) -> None:
    assert b"200" not in send(server, data)
    assert ask(server, "/healthz")[0] == 200


def test_a_request_is_only_so_large(server: HttpStatus) -> None:
    head = b"GET /healthz HTTP/1.1\r\nX: "
    with connected(server) as connection:
        connection.sendall(head + b"x" * (REQUEST_BYTES - len(head)))  # no end of the headers in it
        connection.settimeout(10)
        assert connection.recv(10)  # answered without waiting for more
    assert ask(server, "/healthz")[0] == 200


def test_a_slow_request_has_one_deadline_for_all_of_it(server: HttpStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_status, "REQUEST_SECONDS", 0.3)
    stop = threading.Event()
    with connected(server) as connection:

        def drip() -> None:
            while not stop.wait(0.05):  # always sooner than the timeout
                try:
                    connection.sendall(b"X")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass
        finally:
            stop.set()
            thread.join()


def test_connections_are_bounded_and_those_who_only_sit_there_make_room_for_a_probe(server: HttpStatus) -> None:
    idle = [connected(server) for _ in range(MAX_CONNECTIONS)]
    for _ in range(3):
        assert ask(server, "/healthz")[0] == 200
    assert idle[0].recv(1) == b""
    for connection in idle:
        connection.close()
    assert ask(server, "/healthz")[0] == 200


def test_ipv6_addresses_are_bracketed(told: Told) -> None:
    with HttpStatus("::1", 0, metrics=told.metrics, live=lambda: (True, ""), ready=lambda: (True, "")) as server:
        assert server.address.startswith("[::1]:")
        assert ask(server, "/metrics")[0] == 200


def test_a_port_that_is_taken_is_an_error(server: HttpStatus, told: Told) -> None:
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        HttpStatus("127.0.0.1", port, metrics=told.metrics, live=lambda: (True, ""), ready=lambda: (True, ""))
