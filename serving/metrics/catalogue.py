"""Every metric: its name, kind, labels, help and buckets. Units are seconds, bytes and rows; shares are
ratios from 0 to 1.

No label has a value that a caller can choose.
"""

from dataclasses import dataclass
from typing import Literal

SHORT_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CALL_SECONDS = (5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
FILL = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PERCENTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

# The values of labels. The first two lists begin with those of serving.batching, which the supervisor does not import.
OTHER = "other"  # stands for a value that is not in its list
REASONS = ("full", "drained", "gathered", "delay", "deadline", "retry")
REFUSALS = (
    *("queue_rows", "queue_bytes", "deadline_on_arrival", "deadline_in_queue", "deadline_computing", "stopping"),
    *("draining", "credentials", "permission", "peer_calls", "peer_bytes", "answers", OTHER),
)
START_REASONS = ("start", "crash", "hang", "reload", OTHER)
EXIT_CAUSES = ("stopped", "replaced", "failed_start", "crash", "hang", "device_lost", OTHER)
RELOAD_RESULTS = ("done", "failed", OTHER)
WORKER_STATES = ("starting", "ready", "unready", "draining", OTHER)


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric.

    Attributes:
        name: as it is scraped; counters end in `_total`.
        kind: in Prometheus' terms.
        help: one sentence, without a full stop.
        labels: the names of its labels.
        buckets: upper bounds of a histogram, ascending; infinity follows.
        over_workers: how a gauge of several workers becomes one number.
        source: the kind of process that reports it.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    over_workers: Literal["livesum", "livemax", "livemin"] = "livesum"
    source: Literal["worker", "supervisor"] = "worker"


GRAPH = ("model", "graph")

CALLS = Spec("vaeport_calls_total", "counter", "Calls that have ended, by status", ("method", "code"))
CALL_TIME = Spec(
    "vaeport_call_seconds", "histogram", "Seconds from a call's arrival until its end", ("method",), CALL_SECONDS
)
IN_FLIGHT = Spec("vaeport_calls_in_flight", "gauge", "Calls that are being answered, streams and watches included")
REFUSED = Spec("vaeport_refusals_total", "counter", "Requests refused before or instead of an answer", ("cause",))
QUEUE_TIME = Spec("vaeport_queue_seconds", "histogram", "Seconds a request waited for the engine", GRAPH, SHORT_SECONDS)
QUEUE_ROWS = Spec("vaeport_queue_rows", "gauge", "Rows that wait for the engine, of all workers", GRAPH)
QUEUE_BYTES = Spec("vaeport_queue_bytes", "gauge", "Bytes of the requests that wait, of all workers", GRAPH)
QUEUE_LIMIT = Spec("vaeport_queue_limit_rows", "gauge", "Rows that may wait, of all workers", GRAPH)
COMPUTE_TIME = Spec("vaeport_compute_seconds", "histogram", "Seconds the engine took for a batch", GRAPH, SHORT_SECONDS)
BATCH_ROWS = Spec("vaeport_batch_rows", "histogram", "Rows of a batch, padding not included", GRAPH, ROWS)
BATCH_FILL = Spec("vaeport_batch_fill_ratio", "histogram", "Rows of a batch by what it might have had", GRAPH, FILL)
PADDING = Spec(
    "vaeport_padding_rows_total", "counter", "Rows of zeros that the engine computed to fill a bucket", GRAPH
)
BATCHES = Spec("vaeport_batches_total", "counter", "Batches, by why they were taken then", (*GRAPH, "reason"))
BATCH_FAILURES = Spec("vaeport_batch_failures_total", "counter", "Batches on which the engine failed", GRAPH)
SCORES = Spec(
    "vaeport_score_percentile_ratio",
    "histogram",
    "Share of the held-out images that the model explains less well than a scored image",
    ("model", "version"),
    PERCENTILES,
)
UNRANKED = Spec(
    "vaeport_scores_unranked_total",
    "counter",
    "Scored images that do not compare with the held-out ones",
    ("model", "version"),
)
PACKAGE = Spec(
    "vaeport_package_info",
    "gauge",
    "1 for each package that is served",
    ("model", "version", "digest", "precision", "provider"),
    over_workers="livemax",
)

BUILD = Spec(
    "vaeport_build_info", "gauge", "1; the software", ("version", "python", "grpc", "onnxruntime"), source="supervisor"
)
READY = Spec("vaeport_ready", "gauge", "1 if the server takes calls, else 0", source="supervisor")
WORKERS = Spec("vaeport_workers", "gauge", "Worker processes", ("state",), source="supervisor")
STARTS = Spec("vaeport_worker_starts_total", "counter", "Workers started, by why", ("reason",), source="supervisor")
EXITS = Spec("vaeport_worker_exits_total", "counter", "Workers ended, by why", ("cause",), source="supervisor")
RELOADS = Spec("vaeport_reloads_total", "counter", "Reloads of the models", ("result",), source="supervisor")
CERTIFICATE = Spec(
    "vaeport_certificate_not_after_timestamp_seconds",
    "gauge",
    "Unix time at which the TLS certificate in use expires; absent without TLS",
    over_workers="livemin",
)
MEMORY = Spec("vaeport_resident_memory_bytes", "gauge", "Resident memory", ("process",), source="supervisor")
CPU = Spec("vaeport_cpu_seconds_total", "counter", "User and system CPU time", ("process",), source="supervisor")
DEVICE_MEMORY = Spec(
    "vaeport_device_memory_bytes",
    "gauge",
    "Memory of each GPU, whoever uses it; absent without one",
    ("device", "kind"),
    source="supervisor",
)

CATALOGUE = (
    *(CALLS, CALL_TIME, IN_FLIGHT, REFUSED),
    *(QUEUE_TIME, QUEUE_ROWS, QUEUE_BYTES, QUEUE_LIMIT),
    *(COMPUTE_TIME, BATCH_ROWS, BATCH_FILL, PADDING, BATCHES, BATCH_FAILURES),
    *(SCORES, UNRANKED, PACKAGE),
    *(BUILD, READY, WORKERS, STARTS, EXITS, RELOADS, CERTIFICATE, MEMORY, CPU, DEVICE_MEMORY),
)
