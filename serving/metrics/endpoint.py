"""The supervisor's side: the folder in which workers count, and the address where it is scraped."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serving.http_status import HttpStatus, Probe
from serving.metrics.room import MULTIPROCESS
from serving.metrics.status import Status
from serving.settings import SettingsError

if TYPE_CHECKING:
    from serving.metrics.supervisor import SupervisorMetrics

log = logging.getLogger(__name__)


@contextlib.contextmanager
def http_endpoint(host: str, port: int, status: Callable[[], Status], live: Probe) -> Iterator["SupervisorMetrics"]:
    """Serve /metrics, /healthz and /readyz. Workers must be started inside, because they inherit the folder.

    Args:
        host, port: where to listen; port 0 takes a free one.
        status: returns what the supervisor knows; called from other threads.
        live: returns whether it does its work, with a line for people; likewise.

    Raises:
        SettingsError: it cannot listen there.
    """

    def ready() -> tuple[bool, str]:
        reason = status().reason
        return not reason, f"not ready: {reason}" if reason else "ready"

    with tempfile.TemporaryDirectory(prefix="vaeport-metrics-") as folder, _environment(MULTIPROCESS, folder):
        from serving.metrics.supervisor import SupervisorMetrics  # prometheus_client reads MULTIPROCESS at import

        metrics = SupervisorMetrics(Path(folder), status)
        try:
            server = HttpStatus(host, port, metrics=metrics.scrape, live=live, ready=ready)
        except OSError as error:
            raise SettingsError(f"--http-host {host} --http-port {port}: cannot listen there: {error}") from error
        with server:
            log.info("metrics and probes on http://%s", server.address)
            yield metrics


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
