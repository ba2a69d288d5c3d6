"""Spans of a real server, sent to a collector as OpenTelemetry's own clients send them."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

import vaeport
from tests.serving.test_edge import free_address
from tests.support import ServerProcess


class Collector(TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: SimpleQueue[Any] = SimpleQueue()

    def Export(self, request: Any, context: object) -> Any:  # noqa: N802 - the name of the proto
        self.sent.put(request)
        return ExportTraceServiceResponse()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server, collector = grpc.server(ThreadPoolExecutor(2)), Collector()
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield collector
    server.stop(0).wait()


def test_spans_reach_the_collector_also_those_of_the_last_moment(
    models: Path, start_server: Callable[..., ServerProcess], collector: Collector
) -> None:
    server = start_server("--models", str(models), "--traces", "--http-port", "0")
    with vaeport.Client(server.address) as client:
        client.encode(np.zeros((2, 1, 8, 8), np.float32))
    assert server.terminate() == 0  # the exporter would have waited for seconds
    spans, services = set[str](), set[str]()
    while not collector.sent.empty():
        for resource in collector.sent.get().resource_spans:
            services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            spans |= {span.name for scope in resource.scope_spans for span in scope.spans}
    assert services == {"vaeport"}
    assert spans == {"vaeport.v1.VaeService/Info", "vaeport.v1.VaeService/Encode", "queue", "compute", "batch encoder"}
    assert re.search("Warning|Traceback", server.read_log()) is None


def test_a_collector_that_is_not_there_holds_up_nothing(
    models: Path, start_server: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{free_address()}")
    server = start_server("--models", str(models), "--traces")
    with vaeport.Client(server.address) as client:
        assert client.encode(np.zeros((2, 1, 8, 8), np.float32)).mean.shape == (2, 5)
    start = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - start < 9  # its own patience is 10 seconds, and then 30
