"""What a worker counts: calls, batches, scores, and what waits.

Every call pays for what is done here, so labels are looked up once, and a batch is observed as a whole.
"""

import asyncio
import atexit
from collections.abc import Callable, Mapping

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.values import close_all_multiprocess_files

from serving.batching import Batcher, Refusal, Run
from serving.metrics import catalogue
from serving.metrics.catalogue import OTHER, REASONS, REFUSALS, Spec
from serving.metrics.made import Made, ManyHistogram
from vaeport.results import ModelInfo, Scores

SAMPLING_SECONDS = 1.0  # a scrape sees the gauges as they were at most so long ago
PERCENT = 100.0


class Recorder:
    """All metrics of a worker.

    Args:
        registry: for who wants to read them in this process; by default they are in the files alone.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._made = Made(registry or CollectorRegistry())
        counter = self._made.counter(catalogue.REFUSED)
        self._refused = {cause: counter.labels(cause).inc for cause in REFUSALS}
        self._in_flight = 0
        atexit.register(close_all_multiprocess_files)  # not before: the last calls end with the loop

    def refused(self, cause: str) -> None:
        """A request was refused; a cause that is not in the catalogue counts as other."""
        self._refused.get(cause, self._refused[OTHER])()

    def of_method(self, method: str) -> "MethodRecorder":
        """Counts the calls of a method that this server has; what a stranger asks for must not become a label."""
        return MethodRecorder(method, self._made, self._count)

    def of_graph(self, model: str, graph: str, padded: Callable[[int], int] | None = None) -> "GraphRecorder":
        """Observes the batcher of a graph; `padded` says how many rows it computes for so many, if not just those."""
        return GraphRecorder((model, graph), self._made, self.refused, padded or (lambda rows: rows))

    def scored(self, model: ModelInfo, scores: Scores) -> None:
        """Some images have been scored."""
        labels, rows = (model.name, model.version), len(scores.elbo)
        percentile = scores.percentile
        ranked = [] if percentile is None else (percentile[~np.isnan(percentile)] / PERCENT).tolist()
        self._made.histogram(catalogue.SCORES).labels(*labels).observe_many(ranked)
        self._made.counter(catalogue.UNRANKED).labels(*labels).inc(rows - len(ranked))

    def served(self, model: ModelInfo, precision: str) -> None:
        """A package takes requests."""
        info = self._made.gauge(catalogue.PACKAGE)
        info.labels(model.name, model.version, model.digest, precision, model.providers[0]).set(1)
        self._made.histogram(catalogue.SCORES).labels(model.name, model.version)  # a rate needs the zero before the
        self._made.counter(catalogue.UNRANKED).labels(model.name, model.version)  # first of them

    def sample(self, batchers: Mapping[tuple[str, str], Batcher]) -> None:
        """Set the gauges, now and every second as long as the loop runs. The keys are (model, graph)."""
        self._made.gauge(catalogue.IN_FLIGHT).set(self._in_flight)
        for labels, batcher in batchers.items():
            self._made.gauge(catalogue.QUEUE_ROWS).labels(*labels).set(batcher.queued_rows)
            self._made.gauge(catalogue.QUEUE_BYTES).labels(*labels).set(batcher.queued_bytes)
            self._made.gauge(catalogue.QUEUE_LIMIT).labels(*labels).set(batcher.max_queue_rows)
        asyncio.get_running_loop().call_later(SAMPLING_SECONDS, self.sample, batchers)

    def _count(self, change: int) -> None:
        self._in_flight += change


class MethodRecorder:
    """Counts the calls of one method; see `Recorder.of_method`."""

    def __init__(self, method: str, made: Made, in_flight: Callable[[int], None]) -> None:
        self._method = method
        self._calls = made.counter(catalogue.CALLS)
        self._observe = made.histogram(catalogue.CALL_TIME).labels(method).observe
        self._counts = {"OK": self._calls.labels(method, "OK").inc}
        self._in_flight = in_flight

    def began(self, _context: object) -> None:
        """No note is needed."""
        self._in_flight(1)

    def ended(self, _note: object, code: str, seconds: float) -> None:
        """See CallObserver."""
        self._in_flight(-1)
        self._observe(seconds)
        count = self._counts.get(code)
        if count is None:
            count = self._counts[code] = self._calls.labels(self._method, code).inc
        count()


class GraphRecorder:
    """Observes the batcher of one graph; see `Recorder.of_graph`."""

    def __init__(
        self, labels: tuple[str, str], made: Made, refused: Callable[[str], None], padded: Callable[[int], int]
    ) -> None:
        def histogram(spec: Spec) -> ManyHistogram:
            return made.histogram(spec).labels(*labels)

        self._refused, self._padded = refused, padded
        self._queue, self._compute = histogram(catalogue.QUEUE_TIME), histogram(catalogue.COMPUTE_TIME)
        self._rows, self._fill = histogram(catalogue.BATCH_ROWS), histogram(catalogue.BATCH_FILL)
        self._padding = made.counter(catalogue.PADDING).labels(*labels)
        self._failures = made.counter(catalogue.BATCH_FAILURES).labels(*labels)
        batches = made.counter(catalogue.BATCHES)
        self._batches = {reason: batches.labels(*labels, reason) for reason in REASONS}

    def arrived(self) -> None:
        """No note is needed."""

    def refused(self, cause: Refusal) -> None:
        """As `Recorder.refused`."""
        self._refused(cause)

    def computed(self, run: Run) -> None:
        """See Observer."""
        if began := run.began:
            self._queue.observe_many([run.started - piece.request.arrived for piece in began])
        self._batches[run.reason].inc()
        self._rows.observe(run.rows)
        self._fill.observe(run.rows / run.limit)
        self._compute.observe(run.seconds)
        if run.failure:
            self._failures.inc()
        if padding := self._padded(run.rows) - run.rows:
            self._padding.inc(padding)
