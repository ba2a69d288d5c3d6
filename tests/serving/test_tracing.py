"""Spans of real calls, kept in memory."""

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from serving.batching import Batcher, Limits, Turn
from serving.core import Core
from serving.edge import Edge
from serving.settings import Settings
from serving.telemetry import Telemetry
from serving.tracing import Tracer
from tests.serving.edge.test_observed import until
from tests.serving.test_edge import free_address
from tests.serving.toys import toy_model
from tests.support import ROOT
from vaeport.v1 import vae_pb2
from vaeport.wire import to_tensor

SERVICE = "vaeport.v1.VaeService"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)


class Held:
    """An encoder that waits until it is let go, and fails if told to."""

    def __init__(self) -> None:
        self.go, self.began = asyncio.Event(), asyncio.Event()
        self.broken = False

    async def __call__(self, pieces: Any) -> tuple[np.ndarray[Any, Any], ...]:
        self.began.set()
        await self.go.wait()
        if self.broken:
            raise RuntimeError("the engine broke")
        mean = np.zeros((sum(map(len, pieces)), 2), np.float32)
        return mean, mean


class Traced:
    """A server whose spans are kept, and a channel to it."""

    def __init__(self, provider: TracerProvider) -> None:
        self.spans = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        telemetry = Telemetry(tracer=Tracer(provider))
        self.engine = Held()
        limits, toy = Limits(max_batch_rows=4, max_queue_rows=4096, max_queue_bytes=10**6), toy_model()
        self.encoder = Batcher(self.engine, limits, turn=Turn(), observer=telemetry.of_graph("toy", "encoder"))
        self._unused = toy.encoder
        address = free_address()
        self._core = Core([replace(toy, encoder=self.encoder)], max_request_rows=8)
        self._edge = Edge(self._core, address, telemetry=telemetry)
        self.channel = aio.insecure_channel(address)

    async def start(self) -> None:
        await self._edge.start()

    async def stop(self) -> None:
        await self.channel.close()
        await self._edge.stop(0.0)
        await self._core.close()
        await self._unused.close()

    def encode(self, rows: int = 1, **options: Any) -> Any:
        call: Any = self.channel.unary_unary(f"/{SERVICE}/Encode", vae_pb2.EncodeRequest.SerializeToString)
        return call(vae_pb2.EncodeRequest(images=to_tensor(np.zeros((rows, 1, 2, 3), np.float32))), **options)

    async def ended(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """The spans of that name, once so many have ended."""

        def found() -> list[ReadableSpan]:
            return [span for span in self.spans.get_finished_spans() if span.name == name]

        await until(lambda: len(found()) >= count)  # the server ends a call after its caller has the answer
        assert len(found()) == count
        return found()


@pytest.fixture
async def traced() -> AsyncIterator[Traced]:
    traced = Traced(TracerProvider(shutdown_on_exit=False))
    await traced.start()
    yield traced
    await traced.stop()


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return format_span_id(span.parent.span_id)


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_span_id(span.context.span_id)


def links_of(span: ReadableSpan) -> set[str]:
    return {format_span_id(link.context.span_id) for link in span.links}


async def test_a_call_is_in_its_callers_trace_and_has_what_became_of_it(traced: Traced) -> None:
    traced.engine.go.set()
    before = time.time_ns()
    await traced.encode(rows=3, metadata=SAMPLED)
    (call,) = await traced.ended(f"{SERVICE}/Encode")
    (queue,), (compute,), (batch,) = [await traced.ended(name) for name in ("queue", "compute", "batch encoder")]
    assert call.context is not None
    assert (format_trace_id(call.context.trace_id), parent_of(call)) == (TRACE, CALLER)
    assert call.kind is SpanKind.SERVER
    assert dict(call.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": "Encode",
        "rpc.grpc.status_code": 0,
    }
    assert [parent_of(child) for child in (queue, compute, batch)] == [id_of(call)] * 3
    assert links_of(call) == links_of(compute) == {id_of(batch)}
    assert links_of(batch) == {id_of(call)}
    assert dict(batch.attributes or {}) == {
        "vaeport.model": "toy",
        "vaeport.graph": "encoder",
        "vaeport.reason": "drained",
        "vaeport.rows": 3,
        "vaeport.requests": 1,
    }
    times = [call.start_time, queue.start_time, queue.end_time, compute.start_time, compute.end_time, call.end_time]
    seconds = [((moment or 0) - before) * 1e-9 for moment in times]
    assert all(later > earlier - 0.2 for earlier, later in itertools.pairwise([0.0, *seconds]))  # of two clocks
    assert seconds[-1] < 10


async def test_calls_of_one_batch_are_linked_with_it_both_ways(traced: Traced) -> None:
    first = traced.encode()
    await traced.engine.began.wait()
    others = [traced.encode(metadata=(("traceparent", f"00-{TRACE}-{number:016x}-01"),)) for number in (1, 2, 3)]
    await until(lambda: traced.encoder.queued_rows == 3)
    traced.engine.go.set()
    await asyncio.gather(first, *others)
    calls = await traced.ended(f"{SERVICE}/Encode", 4)
    batches = await traced.ended("batch encoder", 2)
    assert [batch.attributes["vaeport.requests"] for batch in batches if batch.attributes] == [1, 3]
    shared = {id_of(call) for call in calls if call.parent is not None}
    assert links_of(batches[1]) == shared
    assert [links_of(call) for call in calls if call.parent is not None] == [{id_of(batches[1])}] * 3
    assert parent_of(batches[1]) in shared


async def test_a_split_call_is_linked_with_each_of_its_batches_and_waits_once(traced: Traced) -> None:
    traced.engine.go.set()
    await traced.encode(rows=7)
    batches, (call,) = await traced.ended("batch encoder", 2), await traced.ended(f"{SERVICE}/Encode")
    assert links_of(call) == {id_of(batch) for batch in batches}
    await traced.ended("queue", 1)
    rows = [span.attributes["vaeport.rows"] for span in await traced.ended("compute", 2) if span.attributes]
    assert rows == [4, 3]


async def test_errors_are_recorded_where_they_are_the_servers(traced: Traced) -> None:
    traced.engine.go.set()
    with pytest.raises(aio.AioRpcError):
        await traced.encode(rows=9)  # more than a request may have
    (mistake,) = await traced.ended(f"{SERVICE}/Encode")
    assert (mistake.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert mistake.status.status_code is StatusCode.UNSET
    traced.engine.broken = True
    with pytest.raises(aio.AioRpcError):
        await traced.encode()
    (batch,) = await traced.ended("batch encoder")
    assert (batch.status.status_code, batch.status.description) == (StatusCode.ERROR, "RuntimeError: the engine broke")
    _, failed = await traced.ended(f"{SERVICE}/Encode", 2)
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "INTERNAL")


async def test_a_call_whose_caller_leaves_or_whose_time_is_over_ends(traced: Traced) -> None:
    leaving = traced.encode(timeout=30)
    await traced.engine.began.wait()
    leaving.cancel()
    (cancelled,) = await traced.ended(f"{SERVICE}/Encode")
    assert (cancelled.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]
    assert cancelled.status.status_code is StatusCode.UNSET
    with pytest.raises(aio.AioRpcError):
        await traced.encode(timeout=0.1)
    _, late = await traced.ended(f"{SERVICE}/Encode", 2)
    assert (late.status.status_code, late.status.description) == (StatusCode.ERROR, "DEADLINE_EXCEEDED")
    traced.engine.go.set()
    await traced.encode()
    assert len(await traced.ended(f"{SERVICE}/Encode", 3)) == 3
    assert len(traced.spans.get_finished_spans()) == 3 + 3  # who had left has no part in the batches


async def test_what_the_caller_does_not_sample_leaves_no_span() -> None:
    traced = Traced(TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False))
    await traced.start()
    traced.engine.go.set()
    await traced.encode()
    await traced.encode(metadata=SAMPLED)
    assert {span.name for span in traced.spans.get_finished_spans()} >= {"queue", "compute", "batch encoder"}
    await traced.ended(f"{SERVICE}/Encode", 1)
    assert len(traced.spans.get_finished_spans()) == 4
    await traced.stop()


async def test_no_span_holds_a_payload(traced: Traced) -> None:
    traced.engine.go.set()
    await traced.encode(metadata=(("authorization", "Bearer secret-token"), *SAMPLED))
    await traced.ended(f"{SERVICE}/Encode")
    text = " ".join(span.to_json() for span in traced.spans.get_finished_spans())
    assert "secret" not in text
    assert "authorization" not in text


def test_without_the_flag_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, serving.worker, serving.supervisor, serving.commands; from serving.settings import Settings\n"
        "from serving.telemetry import Telemetry; telemetry = Telemetry.of(Settings())\n"
        "assert telemetry.of_method('a') == [] and telemetry.of_graph('a', 'b') is None\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'opentelemetry', 'prometheus_client'})"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert output == "set()\n"


def test_without_the_extra_the_flag_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving import settings
    from serving.settings import SettingsError

    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    Settings().check()
    with pytest.raises(SettingsError, match=r"--traces: needs OpenTelemetry; install the extra \[traces\]"):
        Settings(traces=True).check()
