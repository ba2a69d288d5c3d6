"""The supervisor's own metrics, and the text of all that is scraped; without gRPC, ONNX Runtime or numpy."""

import os
import platform
import resource
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from serving.metrics import catalogue
from serving.metrics.catalogue import EXIT_CAUSES, OTHER, RELOAD_RESULTS, START_REASONS, WORKER_STATES, Spec
from serving.metrics.folder import MetricsFolder
from serving.metrics.gpus import device_memory
from serving.metrics.status import Status
from vaeport._version import __version__

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


class SupervisorMetrics:
    """Counts events, and answers scrapes, both from any thread.

    Args:
        folder: where the workers count.
        status: asked at each scrape.
    """

    def __init__(self, folder: Path, status: Callable[[], Status]) -> None:
        self._folder = MetricsFolder(folder)
        self._events = _Events(status)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._folder)
        self._registry.register(self._events)

    def worker_started(self, reason: str) -> None:
        """Count a start; `reason` is one of catalogue.START_REASONS."""
        self._events.count(catalogue.STARTS, reason if reason in START_REASONS else OTHER)

    def worker_exited(self, pid: int, cause: str) -> None:
        """Count an end; `cause` is one of catalogue.EXIT_CAUSES. The process must have been waited for, and no other
        started since.
        """
        self._folder.retire(pid)
        self._events.count(catalogue.EXITS, cause if cause in EXIT_CAUSES else OTHER)

    def reloaded(self, result: str) -> None:
        """Count a reload; `result` is one of catalogue.RELOAD_RESULTS."""
        self._events.count(catalogue.RELOADS, result if result in RELOAD_RESULTS else OTHER)

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that the header `Accept` asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Events(Collector):
    """Counters in memory, and gauges that are read when they are scraped."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status
        self._lock = threading.Lock()
        self._counts = {
            catalogue.STARTS: Counter(dict.fromkeys(START_REASONS, 0)),
            catalogue.EXITS: Counter(dict.fromkeys(EXIT_CAUSES, 0)),
            catalogue.RELOADS: Counter(dict.fromkeys(RELOAD_RESULTS, 0)),
        }
        self._workers_cpu = 0.0

    def count(self, spec: Spec, label: str) -> None:
        with self._lock:
            self._counts[spec][label] += 1

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield _gauge(catalogue.BUILD, {_build(): 1.0})
        yield _gauge(catalogue.READY, {(): float(status.ready)})
        states = Counter(state if state in WORKER_STATES else OTHER for state in status.workers.values())
        yield _gauge(catalogue.WORKERS, {(state,): float(states[state]) for state in WORKER_STATES})
        with self._lock:
            for spec, counts in self._counts.items():
                yield _counter(spec, {(label,): float(count) for label, count in counts.items()})
            yield from self._processes(tuple(status.workers))
        if memory := device_memory():
            yield _gauge(catalogue.DEVICE_MEMORY, memory)

    def _processes(self, pids: Sequence[int]) -> Iterator[Metric]:
        usage = [_usage(pid) for pid in pids]
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)  # those that have been waited for
        cpu = ended.ru_utime + ended.ru_stime + sum(seconds for _, seconds in usage)
        self._workers_cpu = max(self._workers_cpu, cpu)  # a worker that ends between the two readings is in neither
        own_memory, own_cpu = _usage(os.getpid())
        resident = sum([size for size, _ in usage], 0.0)
        yield _gauge(catalogue.MEMORY, {("supervisor",): own_memory, ("workers",): resident})
        yield _counter(catalogue.CPU, {("supervisor",): own_cpu, ("workers",): self._workers_cpu})


def _usage(pid: int) -> tuple[float, float]:
    """Resident bytes and CPU seconds of a process; zeros if it has ended."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name may hold anything
    except (OSError, IndexError):
        return 0.0, 0.0
    ticks = int(after_name[11]) + int(after_name[12])  # utime and stime of proc(5), fields 14 and 15
    return resident * float(resource.getpagesize()), ticks / os.sysconf("SC_CLK_TCK")


def _build() -> tuple[str, ...]:
    runtime = next(filter(None, map(_installed, RUNTIMES)), "")
    return __version__, platform.python_version(), _installed("grpcio"), runtime


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _gauge(spec: Spec, values: Mapping[tuple[str, ...], float]) -> Metric:
    return _fill(GaugeMetricFamily(spec.name, spec.help, labels=spec.labels), values)


def _counter(spec: Spec, values: Mapping[tuple[str, ...], float]) -> Metric:
    return _fill(CounterMetricFamily(spec.name, spec.help, labels=spec.labels), values)


def _fill(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily | CounterMetricFamily:
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
