"""What a worker counts: calls, batches, scores, and what waits.

This work slows every call, and writing a value to a shared file takes a microsecond. So what comes with each call or
batch is kept in lists, and written twice a second: if a process is killed, its last half second is lost.
All of it belongs to the loop's thread.
"""

import asyncio
import atexit
from collections import Counter as Tally
from collections.abc import Callable, Mapping

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.values import close_all_multiprocess_files

from serving.batching import Batcher, Refusal, Run
from serving.metrics import catalogue
from serving.metrics.catalogue import OTHER, REASONS, REFUSALS, Spec
from serving.metrics.instruments import Instruments, ManyHistogram
from vaeport.results import ModelInfo, Scores

WRITING_SECONDS = 0.5  # the longest time from counting until it can be scraped; also the age of a gauge
PERCENT = 100.0
USUAL_CODES = ("OK", "INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


class Recorder:
    """All metrics of a worker.

    Args:
        registry: to read them in this process; by default they are only in the files.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._instruments = Instruments(registry or CollectorRegistry())
        counter = self._instruments.counter(catalogue.REFUSED)
        self._refused = {cause: counter.labels(cause).inc for cause in REFUSALS}
        self._parts: list[MethodRecorder | GraphRecorder] = []
        atexit.register(close_all_multiprocess_files)  # not before: the last calls end with the loop

    def of_method(self, method: str) -> "MethodRecorder":
        """Counts the calls of a known method; a name that a stranger sends must not become a label."""
        part = MethodRecorder(method, self._instruments)
        self._parts.append(part)
        return part

    def of_graph(self, model: str, graph: str, padded: Callable[[int], int] | None = None) -> "GraphRecorder":
        """Observes the batcher of a graph; `padded` gives the rows that it computes for a batch, padding included."""
        part = GraphRecorder((model, graph), self._instruments, self.refused, padded or (lambda rows: rows))
        self._parts.append(part)
        return part

    def refused(self, cause: str) -> None:
        """Count a refused request; a cause that is not in the catalogue counts as other."""
        self._refused.get(cause, self._refused[OTHER])()

    def scored(self, model: ModelInfo, scores: Scores) -> None:
        """Count the scores of some images."""
        labels, rows = (model.name, model.version), len(scores.elbo)
        percentile = scores.percentile
        ranked = [] if percentile is None else (percentile[~np.isnan(percentile)] / PERCENT).tolist()
        self._instruments.histogram(catalogue.SCORES).labels(*labels).observe_many(ranked)
        self._instruments.counter(catalogue.UNRANKED).labels(*labels).inc(rows - len(ranked))

    def served(self, model: ModelInfo, precision: str) -> None:
        """Note that a package takes requests."""
        info = self._instruments.gauge(catalogue.PACKAGE)
        info.labels(model.name, model.version, model.digest, precision, model.providers[0]).set(1)
        # A rate needs the zero before the first of them.
        self._instruments.histogram(catalogue.SCORES).labels(model.name, model.version)
        self._instruments.counter(catalogue.UNRANKED).labels(model.name, model.version)

    def keep_writing(
        self,
        batchers: Mapping[tuple[str, str], Batcher],
        not_after: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Write now, and then regularly as long as the loop runs.

        Args:
            batchers: their queues are measured, by (model, graph).
            not_after: when the certificate in use ends, as Unix time; None without TLS.
        """
        for labels, batcher in batchers.items():
            self._instruments.gauge(catalogue.QUEUE_ROWS).labels(*labels).set(batcher.queued_rows)
            self._instruments.gauge(catalogue.QUEUE_BYTES).labels(*labels).set(batcher.queued_bytes)
            self._instruments.gauge(catalogue.QUEUE_LIMIT).labels(*labels).set(batcher.max_queue_rows)
        if (end := not_after()) is not None:
            self._instruments.gauge(catalogue.CERTIFICATE).set(end)
        self.write()
        asyncio.get_running_loop().call_later(WRITING_SECONDS, self.keep_writing, batchers, not_after)

    def write(self) -> None:
        """Write what has been counted."""
        in_flight = 0
        for part in self._parts:
            part.write()
            in_flight += part.in_flight
        self._instruments.gauge(catalogue.IN_FLIGHT).set(in_flight)


class MethodRecorder:
    """Counts the calls of one method; see `Recorder.of_method`."""

    def __init__(self, method: str, instruments: Instruments) -> None:
        self.in_flight = 0
        self._method = method
        self._calls = instruments.counter(catalogue.CALLS)
        for code in USUAL_CODES:
            self._calls.labels(method, code)  # a rate needs the zero before the first call
        self._histogram = instruments.histogram(catalogue.CALL_TIME).labels(method)
        self._codes: list[str] = []
        self._seconds: list[float] = []

    def began(self, _context: object) -> None:
        """No note is needed."""
        self.in_flight += 1

    def ended(self, _note: object, code: str, seconds: float) -> None:
        """See CallObserver."""
        self.in_flight -= 1
        self._codes.append(code)
        self._seconds.append(seconds)

    def write(self) -> None:
        """Write what has been counted."""
        if self._codes:
            self._histogram.observe_many(self._seconds)
            for code, count in Tally(self._codes).items():
                self._calls.labels(self._method, code).inc(count)
            self._codes.clear()
            self._seconds.clear()


class GraphRecorder:
    """Observes the batcher of one graph; see `Recorder.of_graph`."""

    in_flight = 0

    def __init__(
        self,
        labels: tuple[str, str],
        instruments: Instruments,
        refused: Callable[[str], None],
        padded: Callable[[int], int],
    ) -> None:
        def histogram(spec: Spec) -> ManyHistogram:
            return instruments.histogram(spec).labels(*labels)

        self._refused, self._padded = refused, padded
        self._queue, self._compute = histogram(catalogue.QUEUE_TIME), histogram(catalogue.COMPUTE_TIME)
        self._rows, self._fill = histogram(catalogue.BATCH_ROWS), histogram(catalogue.BATCH_FILL)
        self._padding = instruments.counter(catalogue.PADDING).labels(*labels)
        self._failures = instruments.counter(catalogue.BATCH_FAILURES).labels(*labels)
        batches = instruments.counter(catalogue.BATCHES)
        self._batches = {reason: batches.labels(*labels, reason) for reason in REASONS}
        self._waits: list[float] = []
        self._runs: list[tuple[str, int, int, float, bool]] = []  # not the Run: that holds its callers' rows

    def arrived(self) -> None:
        """No note is needed."""

    def refused(self, cause: Refusal) -> None:
        """Like `Recorder.refused`."""
        self._refused(cause)

    def computed(self, run: Run) -> None:
        """See Observer."""
        self._waits += [run.started - piece.request.arrived for piece in run.began]
        self._runs.append((run.reason, run.rows, run.limit, run.seconds, run.failure != ""))

    def write(self) -> None:
        """Write what has been counted."""
        if not self._runs:
            return
        reasons, rows, limits, seconds, failed = zip(*self._runs, strict=True)
        self._queue.observe_many(self._waits)
        self._compute.observe_many(seconds)
        self._rows.observe_many(rows)
        self._fill.observe_many([count / limit for count, limit in zip(rows, limits, strict=True)])
        for reason, count in Tally(reasons).items():
            self._batches[reason].inc(count)
        self._failures.inc(sum(failed))
        self._padding.inc(sum(self._padded(count) - count for count in rows))
        self._waits.clear()
        self._runs.clear()
