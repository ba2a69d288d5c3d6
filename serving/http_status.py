"""The supervisor's HTTP server: /metrics, /healthz and /readyz, for Prometheus, Kubernetes and people.

It holds no credentials and no payloads, and can change nothing. A stranger can cost it little: a request may take a few
seconds and a few kilobytes, and only a few run at a time: one more ends the oldest.
"""

import contextlib
import io
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MAX_CONNECTIONS = 16
REQUEST_SECONDS = 5.0  # for all of a request, and again for all of its answer
EVICTION_SECONDS = 0.5
REQUEST_BYTES = 8 * 1024
TEXT = "text/plain; charset=utf-8"

Scrape = Callable[[str], tuple[bytes, str]]
Probe = Callable[[], tuple[bool, str]]
Page = Callable[[str], tuple[HTTPStatus, bytes, str]]  # from the header Accept

log = logging.getLogger(__name__)


class HttpStatus:
    """Answers from when it is made until it is closed, in threads of its own.

    Args:
        host, port: where to listen; port 0 takes a free one.
        metrics: from the header `Accept` to the body and its content type.
        live: whether the process does its work, with a line for people. If not, the answer is 503.
        ready: whether the server takes calls, likewise.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, host: str, port: int, *, metrics: Scrape, live: Probe, ready: Probe) -> None:
        pages = {"/metrics": _page(metrics), "/healthz": _probe_page(live), "/readyz": _probe_page(ready)}
        self._server = _Server(host, port, pages)
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """As HOST:PORT."""
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if self._server.address_family == socket.AF_INET6 else f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _page(scrape: Scrape) -> Page:
    return lambda accept: (HTTPStatus.OK, *scrape(accept))


def _probe_page(probe: Probe) -> Page:
    def page(_accept: str) -> tuple[HTTPStatus, bytes, str]:
        good, text = probe()
        return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, f"{text}\n".encode(), TEXT

    return page


def _nothing(_accept: str) -> tuple[HTTPStatus, bytes, str]:
    return HTTPStatus.NOT_FOUND, b"here are /metrics, /healthz and /readyz\n", TEXT


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(self, host: str, port: int, pages: dict[str, Page]) -> None:
        self.pages = pages
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: dict[socket.socket, None] = {}  # the oldest first
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(target[:2], _Handler)  # type: ignore[arg-type] # of an internet family, host and port

    def server_bind(self) -> None:
        # Not HTTPServer's method, which asks the resolver for a name that is not needed here, and may wait for it.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False) and not self._make_room():
            self.shutdown_request(request)  # without an answer: writing one may block, and this is the only listener
            return
        self._open[request] = None
        super().process_request(request, client_address)

    def _make_room(self) -> bool:
        """End the oldest connection: idle connections must not keep the probes of an orchestrator out."""
        with contextlib.suppress(StopIteration, RuntimeError, OSError):  # it has just ended by itself
            next(iter(self._open)).shutdown(socket.SHUT_RDWR)
        return self._room.acquire(timeout=EVICTION_SECONDS)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's
        log.debug("http: a connection from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "vaeport", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(_head(self.connection))  # the whole request has one deadline, not each line of it
        self.connection.settimeout(REQUEST_SECONDS)

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0], _nothing)
        try:
            status, body, content_type = page(self.headers.get("Accept", ""))
        except Exception:
            log.exception("http: %s failed", self.path)
            status, body, content_type = HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n", TEXT
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        log.debug("http: %s", format % args)


def _head(connection: socket.socket) -> bytes:
    """A request up to the empty line after its headers, or what has come of it when time or room runs out."""
    head, end = bytearray(), time.monotonic() + REQUEST_SECONDS
    while b"\r\n\r\n" not in head and len(head) < REQUEST_BYTES:
        connection.settimeout(max(0.001, end - time.monotonic()))
        part = connection.recv(REQUEST_BYTES - len(head))
        if not part:
            break
        head += part
    return bytes(head)
