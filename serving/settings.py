"""The settings of a server: one frozen object, made once in `main`; the text of each field is its --help."""

import math
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

MAX_REQUEST_ROWS = 1024


class SettingsError(ValueError):
    """A combination that cannot work; refused before anything starts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Serve the newest version of every model in a folder over gRPC, until SIGTERM or Ctrl-C."""

    models: Path = Path("models")
    """Folder of packages, MODELS/<name>/<version>, as `python -m export` makes them."""

    host: str = "127.0.0.1"
    """Address to listen on. Any other than loopback needs TLS, or --insecure."""

    port: int = 50051
    """TCP port; 0 takes a free one. The address is printed on standard output when the server is ready."""

    listen: str = ""
    """unix:PATH listens on a socket in the file system instead of host and port, with one worker."""

    socket_mode: str = "600"
    """Permissions of that socket, in octal: users who may write to it may call."""

    insecure: bool = False
    """Listen in plain text on an address that other machines can reach, which is refused otherwise."""

    tls_cert: Path | None = None
    """The server's certificate in PEM, followed by those between it and its authority. A renewed file is taken within
    seconds, for new connections; one that cannot be used changes nothing, and is named in the log."""

    tls_key: Path | None = None
    """Its private key in PEM, without a passphrase."""

    tls_client_ca: Path | None = None
    """The authorities, in PEM, of clients' certificates: clients without such a certificate cannot connect (mTLS)."""

    tokens: Path | None = None
    """The file of bearer tokens; `python -m serving token` makes them. With it every call but health needs a token, and
    admin calls need one for admin; without it admin calls are closed. A changed file is taken within seconds."""

    max_calls_per_peer: int = 0
    """Calls that one caller may have running, per worker; 0 is no limit. A caller is the name of a token or of a client
    certificate, or else a host; behind a proxy, all may share one. More calls get RESOURCE_EXHAUSTED."""

    max_bytes_per_peer: int = 0
    """Bytes of one caller's running requests, likewise, and of the answers that it has not read, those of streams too.
    A single larger one may come alone. For the answers, 0 means a quarter of --max-queue-bytes."""

    max_concurrent_streams: int = 1024
    """Calls that one connection may have running; the client holds further ones back until some have ended."""

    max_connections: int = 0
    """Connections that each worker keeps, at some 16 KB each; further ones are closed at once. 0 means as many as the
    limit of open files allows."""

    max_connection_age_seconds: float = 60.0
    """Seconds after which a client is asked to reconnect; its running calls may finish. This spreads callers over the
    workers, and renewed certificates reach everyone. A worker that is replaced stays that long and loses no call. 0
    never asks: calls in progress when a worker is replaced may end as CANCELLED, which our client retries."""

    max_connection_idle_seconds: float = 0.0
    """Seconds without a call after which a connection is closed; the client reconnects for its next call. 0 means
    never."""

    keepalive_seconds: float = 60.0
    """Seconds of silence after which the server pings a connection, and closes it if no answer comes within 20 seconds.
    0 never pings, and so keeps connections to machines that are gone."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. cuda refuses to start if CUDA cannot compute; auto uses CUDA if it can, and logs the choice."""

    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """The precision to compute in. Every model must have it; the server never takes another by itself."""

    workers: int = 0
    """Processes that share the port; 0 means one for each usable core, or for each GPU. Each loads all models."""

    watch: float = 0.0
    """Seconds between looks at the folder of models; a change in what is to be served is applied at once. 0 never
    looks; SIGHUP reloads in any case."""

    hang_seconds: float = 30.0
    """A worker that is silent, or has been computing one batch, for this many seconds is replaced; an engine that has
    not answered by then is NOT_SERVING."""

    threads: int = 0
    """CPU threads of each worker's engine; 0 shares the cores this process may use among the workers."""

    tf32: bool = False
    """On CUDA: round the factors of products to 11 bits. Faster, but no longer within the limits that were proven, so
    the self-test uses wider ones."""

    gpu_mem_limit_mb: int = 0
    """On CUDA: MiB that each graph may take of the GPU's memory, weights included; 0 is no limit. A model has three
    graphs."""

    batch_buckets: tuple[int, ...] = ()
    """On CUDA: the batch sizes, in rows, to which batches are padded, ascending to --max-batch-rows. By default the
    powers of two."""

    cuda_graphs: bool = False
    """On CUDA: capture a CUDA graph for each batch size, and replay it. Not tried on a GPU so far."""

    default_model: str = ""
    """The model for requests that name none. Not needed with a single model."""

    require_signature: Path | None = None
    """A public key in PEM. Every package must have a valid signature by it, MODELS/<name>/<version>.sig, or the server
    does not start."""

    max_batch_rows: int = 512
    """The most rows that the engine computes at a time."""

    max_queue_rows: int = 4096
    """Rows that wait for the engine, per graph and worker; requests beyond that get RESOURCE_EXHAUSTED."""

    max_queue_bytes: int = 512 * 2**20
    """Bytes of the requests that wait, per graph and worker, likewise. A single larger request may wait alone. While
    answers of as many bytes have not been read, new calls get RESOURCE_EXHAUSTED, per worker."""

    max_delay_ms: float = 0.0
    """Milliseconds that a free engine waits for a fuller batch. With 0 it does not wait: batches grow under load."""

    lame_duck_seconds: float = 1.0
    """Seconds after the first signal in which calls are still taken, while the health says NOT_SERVING."""

    log_format: Literal["text", "json"] = "text"
    """Format of the log on standard error, one line per event: for people, or JSON for programs. It never holds what
    callers send."""

    log_calls: Literal["none", "failed", "all"] = "none"
    """Calls to log, one line each, with status, request id, peer and milliseconds. none logs only our own bugs."""

    canary_seconds: float = 5.0
    """Seconds between two canaries: batches of one row through every graph, with known results. A model whose canary
    fails is NOT_SERVING until a later one passes."""

    grace: float = 30.0
    """Seconds that accepted calls may still take once new ones are refused, after --lame-duck-seconds; a second signal
    ends at once."""

    http_port: int | None = None
    """TCP port of /metrics (Prometheus), /healthz and /readyz; 0 takes a free one, which the log names. None: no
    metrics. Anyone who can reach the port can read them."""

    http_host: str = "127.0.0.1"
    """Address of --http-port."""

    traces: bool = False
    """Send OpenTelemetry traces. Needs the extra [traces]; the standard variables OTEL_* say where to send them and
    which ones."""

    def check(self) -> None:
        """Raise SettingsError for what cannot work."""
        if self.http_port is not None and not 0 <= self.http_port <= 65535:
            raise SettingsError(f"--http-port: expected 0 to 65535, got {self.http_port}")
        if self.traces and find_spec("opentelemetry") is None:
            raise SettingsError("--traces: needs OpenTelemetry; install the extra [traces]")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port: expected 0 to 65535, got {self.port}")
        if self.workers < 0:
            raise SettingsError(f"--workers: expected 0 or more, got {self.workers}")
        if not 0 <= self.watch < math.inf:
            raise SettingsError(f"--watch: expected 0 or more seconds, got {self.watch}")
        if not 2 <= self.hang_seconds < math.inf:  # beats come each second
            raise SettingsError(f"--hang-seconds: expected at least 2 seconds, got {self.hang_seconds}")
        self._check_listen()
        self._check_access()
        if self.threads < 0:
            raise SettingsError(f"--threads: expected 0 or more, got {self.threads}")
        if self.require_signature is not None and not self.require_signature.is_file():
            raise SettingsError(f"--require-signature: expected the file of a public key, got {self.require_signature}")
        if self.max_batch_rows < 1:
            raise SettingsError(f"--max-batch-rows: expected at least 1, got {self.max_batch_rows}")
        if self.gpu_mem_limit_mb < 0:
            raise SettingsError(f"--gpu-mem-limit-mb: expected 0 or more, got {self.gpu_mem_limit_mb}")
        if self.batch_buckets:
            self._check_buckets(self.batch_buckets)
        if self.max_queue_rows < MAX_REQUEST_ROWS:
            raise SettingsError(
                f"--max-queue-rows: expected at least {MAX_REQUEST_ROWS}, a whole request, got {self.max_queue_rows}"
            )
        if self.max_queue_bytes < 1:
            raise SettingsError(f"--max-queue-bytes: expected at least 1, got {self.max_queue_bytes}")
        if not 0 <= self.max_delay_ms < math.inf:
            raise SettingsError(f"--max-delay-ms: expected 0 or more milliseconds, got {self.max_delay_ms}")
        if not 0 <= self.lame_duck_seconds < math.inf:
            raise SettingsError(f"--lame-duck-seconds: expected 0 or more seconds, got {self.lame_duck_seconds}")
        if not 0 < self.canary_seconds < math.inf:
            raise SettingsError(f"--canary-seconds: expected more than 0 seconds, got {self.canary_seconds}")
        if not self.grace >= 0:
            raise SettingsError(f"--grace: expected 0 or more seconds, got {self.grace}")

    @property
    def mode_of_socket(self) -> int:
        """--socket-mode as a number."""
        return int(self.socket_mode, 8)

    def _check_listen(self) -> None:
        if self.listen and (not self.listen.startswith("unix:") or self.listen == "unix:"):
            raise SettingsError(f"--listen: expected unix:PATH, got {self.listen}")
        if self.listen and self.workers > 1:
            raise SettingsError("--listen: a socket in the file system cannot be shared; expected --workers 1")
        if not re.fullmatch("[0-7]{3}", self.socket_mode):
            raise SettingsError(f"--socket-mode: expected octal permissions such as 600 or 660, got {self.socket_mode}")

    def _check_access(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("--tls-cert and --tls-key: expected both")
        if self.tls_client_ca and not self.tls_cert:
            raise SettingsError("--tls-client-ca: expected --tls-cert and --tls-key with it")
        if self.insecure and self.tls_cert:
            raise SettingsError("--insecure: makes no sense together with --tls-cert; expected one of them")
        for name in ("max_calls_per_peer", "max_bytes_per_peer", "max_connections"):
            if (most := getattr(self, name)) < 0:
                raise SettingsError(f"--{name.replace('_', '-')}: expected 0 or more, got {most}")
        if not 1 <= self.max_concurrent_streams < 2**31:
            raise SettingsError(f"--max-concurrent-streams: expected at least 1, got {self.max_concurrent_streams}")
        for name in ("max_connection_age_seconds", "max_connection_idle_seconds", "keepalive_seconds"):
            if not 0 <= (seconds := getattr(self, name)) < math.inf:
                raise SettingsError(f"--{name.replace('_', '-')}: expected 0 or more seconds, got {seconds}")

    def _check_buckets(self, buckets: tuple[int, ...]) -> None:
        if buckets[0] < 1 or list(buckets) != sorted(set(buckets)) or buckets[-1] != self.max_batch_rows:
            raise SettingsError(
                f"--batch-buckets: expected to ascend to --max-batch-rows {self.max_batch_rows}, got {list(buckets)}"
            )
