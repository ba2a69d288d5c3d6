"""OpenTelemetry traces of a worker: a span for each call, and one for each batch that is linked with the calls in it.

    the caller's span
    └── vaeport.v1.VaeService/Encode      server span; its context comes with the metadata `traceparent`
        ├── queue                         from arrival until the engine began
        ├── compute                       the engine, as this call saw it; linked to the batch
        └── batch encoder                 in the trace of the first call of the batch, linked with all of them

A batch belongs to many calls. Its span is in the trace of one of them, so that it is sampled with that trace; links
connect it with the others, both ways. Names, sizes and times are recorded, never a payload.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import Token
from typing import Any

from grpc import StatusCode as GrpcStatus
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from serving.batching import Refusal, Run
from vaeport._version import __version__
from vaeport.errors import bounded

CLOSING_SECONDS = 2.0  # for unsent spans; a missing collector must not delay the end

# Only these statuses are errors of the server: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
SERVER_ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}

Note = tuple[Span, Token[Context]]


class Tracer:
    """Makes the spans of a worker.

    Args:
        provider: where spans go; by default to the collector that the standard OTEL_* variables name.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider or _standard_provider()
        self._tracer = self._provider.get_tracer("vaeport", __version__)

    def of_method(self, method: str) -> "MethodTracer":
        """Observes the calls of a method, "/package.Service/Method"."""
        return MethodTracer(self._tracer, method)

    def of_graph(self, model: str, graph: str) -> "GraphTracer":
        """Observes the batcher of a graph."""
        return GraphTracer(self._tracer, model, graph)

    def close(self) -> None:
        """Send the remaining spans, for two seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSING_SECONDS)


class MethodTracer:
    """A server span for each call of one method."""

    def __init__(self, tracer: trace.Tracer, method: str) -> None:
        self._tracer = tracer
        self._name = method.removeprefix("/")
        service, _, name = self._name.partition("/")
        self._attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

    def began(self, context: Any) -> Note:
        """Start the span, and make it the current one of this task."""
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        parent = propagate.extract(metadata)
        span = self._tracer.start_span(self._name, parent, SpanKind.SERVER, self._attributes)
        return span, otel_context.attach(trace.set_span_in_context(span))

    def ended(self, note: Note, code: str, _seconds: float) -> None:
        """End the span; see CallObserver."""
        span, token = note
        otel_context.detach(token)
        span.set_attribute("rpc.grpc.status_code", GrpcStatus[code].value[0])
        if code in SERVER_ERRORS:
            span.set_status(Status(StatusCode.ERROR, code))
        span.end()


class GraphTracer:
    """A span for each batch of one graph, and the spans of its calls that depend on the batch."""

    def __init__(self, tracer: trace.Tracer, model: str, graph: str) -> None:
        self._tracer = tracer
        self._name = f"batch {graph}"
        self._attributes = {"vaeport.model": model, "vaeport.graph": graph}

    def arrived(self) -> Span:
        """The span of the call that will wait."""
        return trace.get_current_span()

    def refused(self, cause: Refusal) -> None:
        """Do nothing: the status of the call says it."""

    def computed(self, run: Run) -> None:
        """See Observer."""
        calls = [(piece, piece.request.note) for piece in run.pieces]
        recording = [(piece, span) for piece, span in calls if isinstance(span, Span) and span.is_recording()]
        if not recording:
            return
        clock = _wall_clock()
        start, end = clock(run.started), clock(run.started + run.seconds)
        batch = self._batch(run, [span for _, span in recording], start)
        batch.end(end)
        link = Link(batch.get_span_context())
        began = run.began
        for piece, span in recording:
            span.add_link(link.context)
            here = trace.set_span_in_context(span)
            if piece in began:
                self._tracer.start_span("queue", here, start_time=clock(piece.request.arrived)).end(start)
            rows = {"vaeport.rows": piece.stop - piece.start}
            self._tracer.start_span("compute", here, attributes=rows, links=[link], start_time=start).end(end)

    def _batch(self, run: Run, calls: list[Span], start: int) -> Span:
        sizes = {"vaeport.rows": run.rows, "vaeport.requests": len(run.pieces)}
        attributes = {**self._attributes, **sizes, "vaeport.reason": run.reason.value}
        links = [Link(call.get_span_context()) for call in calls]
        first = trace.set_span_in_context(calls[0])
        batch = self._tracer.start_span(self._name, first, attributes=attributes, links=links, start_time=start)
        if run.failure:
            batch.set_status(Status(StatusCode.ERROR, bounded(run.failure)))
        return batch


def _wall_clock() -> Callable[[float], int]:
    """A function from seconds on the loop's clock to nanoseconds since 1970."""
    loop_now, wall_now = asyncio.get_running_loop().time(), time.time_ns()
    return lambda seconds: wall_now + int((seconds - loop_now) * 1e9)


def _standard_provider() -> TracerProvider:
    """The provider that the environment describes; if it names no service, that is `vaeport`."""
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "vaeport"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
