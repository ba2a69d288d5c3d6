"""The metrics of the catalogue, as prometheus_client makes them.

If PROMETHEUS_MULTIPROC_DIR is set before this is imported, their values are in files of that folder, else in memory.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.metrics.catalogue import Spec


class ManyHistogram(Histogram):
    """A histogram that takes many values at once, at the cost of one write per bucket they fall in."""

    def observe_many(self, values: Sequence[float]) -> None:
        """Like `observe` for each of the values, none of which may be NaN."""
        array = np.asarray(values, np.float64)
        counts = np.bincount(np.searchsorted(self._upper_bounds, array))
        for bucket in np.flatnonzero(counts):
            self._buckets[bucket].inc(int(counts[bucket]))
        self._sum.inc(float(array.sum()))


Metric = TypeVar("Metric", Counter, Gauge, ManyHistogram)


class Instruments:
    """The metrics of a worker, each made when it is first needed: one without labels is 0 from then on.

    Args:
        registry: to read them in this process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._metrics: dict[str, Counter | Gauge | ManyHistogram] = {}

    def counter(self, spec: Spec) -> Counter:
        """The counter of that name."""
        return self._get(Counter, spec)

    def gauge(self, spec: Spec) -> Gauge:
        """The gauge of that name."""
        return self._get(Gauge, spec)

    def histogram(self, spec: Spec) -> ManyHistogram:
        """The histogram of that name."""
        return self._get(ManyHistogram, spec)

    def _get(self, kind: type[Metric], spec: Spec) -> Metric:
        metric = self._metrics.get(spec.name)
        if metric is None:
            metric = self._metrics[spec.name] = _make(spec, self._registry)
        assert isinstance(metric, kind)
        return metric


def _make(spec: Spec, registry: CollectorRegistry) -> Counter | Gauge | ManyHistogram:
    if spec.kind == "counter":
        return Counter(spec.name, spec.help, spec.labels, registry=registry)
    if spec.kind == "gauge":
        return Gauge(spec.name, spec.help, spec.labels, registry=registry, multiprocess_mode=spec.over_workers)
    return ManyHistogram(spec.name, spec.help, spec.labels, registry=registry, buckets=spec.buckets)
