"""The servers that are compared, each in a process of its own, on a core of its own.

ours    python -m serving
empty   its own edge (messages, guard, health), with an Encode that answers at once with a fixed message
plain   what one writes in an afternoon: grpc.aio, a float32 tensor in, ONNX Runtime as it comes in the handler
tuned   the same by someone who knows ONNX Runtime: threads that do not spin, and no more of them than there are cores
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
from grpc import aio
from numpy.typing import NDArray

from serving.batching import Batcher, Limits
from serving.core import Core
from serving.edge import Edge
from serving.edge import server as edge_server
from serving.edge.server import VAE_SERVICE
from serving.edge.servicer import VaeServicer
from serving.models import ServedModel
from vaeport.extras import import_onnxruntime
from vaeport.graphs import CPU_PROVIDER, choose_device, load_graphs
from vaeport.machine import usable_cores
from vaeport.model import model_info
from vaeport.package import Package, open_package
from vaeport.scoring import ScoringSpec
from vaeport.v1 import vae_pb2
from vaeport.versions import default_package
from vaeport.wire import from_tensor, to_tensor

LATENT_DIM = 20


@dataclass(frozen=True, slots=True)
class Server:
    """A running one."""

    address: str
    process: psutil.Process
    ready_seconds: float

    def cpu_seconds(self) -> float:
        """User and system time so far, of all its processes."""
        return sum(sum(process.cpu_times()[:2]) for process in self._all())

    def resident_bytes(self) -> int:
        """Resident bytes of its largest process."""
        return int(max(process.memory_info().rss for process in self._all()))

    def _all(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


@contextlib.contextmanager
def running(kind: str, models: Path, core: int | None, *arguments: str) -> Iterator[Server]:
    """Start one of them on a free port and a core, and end it afterwards; None is any core."""
    if kind == "ours":
        command = ["-m", "serving", "--models", str(models), "--port", "0", "--device", "cpu", *arguments]
    else:
        command = ["-m", "benchmarks.serving.servers", kind, str(models), *arguments]
    with started(command, core) as server:
        yield server


@contextlib.contextmanager
def started(command: list[str], core: int | None) -> Iterator[Server]:
    """Run Python with such arguments, on a core, as a server that prints "ready" and its address."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        assert process.stdout is not None
        word, _, address = process.stdout.readline().strip().partition(" ")
        if word != "ready":
            raise RuntimeError(f"python {' '.join(command)} did not start")
        yield Server(address, psutil.Process(process.pid), time.perf_counter() - start)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


class _Empty(VaeServicer):
    _response = vae_pb2.EncodeResponse(
        model="mnist",
        version="1",
        mean=to_tensor(np.zeros((1, LATENT_DIM), np.float32)),
        log_var=to_tensor(np.zeros((1, LATENT_DIM), np.float32)),
        timings=vae_pb2.Timings(queue_seconds=0.001, compute_seconds=0.001, batch_rows=8),
    )

    async def Encode(self, _request: vae_pb2.EncodeRequest, _context: object) -> vae_pb2.EncodeResponse:  # noqa: N802
        return self._response


async def _serve_empty(package: Package, port: int) -> None:
    async def compute(_: object) -> tuple[()]:
        raise AssertionError("it is never called")

    info, scoring = model_info(package, choose_device("cpu")), ScoringSpec.of(package.manifest)
    idle = Batcher(compute, Limits(max_batch_rows=1, max_queue_rows=1, max_queue_bytes=1))
    served = ServedModel(info, scoring, idle, idle)
    edge_server.VaeServicer = _Empty  # type: ignore[attr-defined]
    await serve(Core([served], max_request_rows=1024), port)


async def serve(core: Core, port: int = 0) -> None:
    """Answer on a port, 0 for a free one, until SIGTERM."""
    address = f"127.0.0.1:{port or _free_port()}"
    server = Edge(core, address)
    await server.start()
    print(f"ready {address}", flush=True)
    await _until_signal()
    await server.stop(1.0)


Encoder = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]


def _as_it_comes(package: Package) -> Encoder:
    session = import_onnxruntime().InferenceSession(str(package.path / "encoder.onnx"), providers=[CPU_PROVIDER])

    def encode(images: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        outputs: Sequence[NDArray[np.float32]] = session.run(None, {"image": images})
        return outputs

    return encode


def _tuned(package: Package, threads: int) -> Encoder:
    return load_graphs(package, choose_device("cpu"), threads)["encoder"]


async def _serve_handler(encoder: Encoder, port: int) -> None:
    async def encode(request: vae_pb2.EncodeRequest, _: object) -> vae_pb2.EncodeResponse:
        mean, log_var = encoder(from_tensor("images", request.images).astype(np.float32, copy=False))
        return vae_pb2.EncodeResponse(mean=to_tensor(mean), log_var=to_tensor(log_var))

    server = aio.server(options=[("grpc.max_receive_message_length", 1 << 26)])
    handler = grpc.unary_unary_rpc_method_handler(
        encode, vae_pb2.EncodeRequest.FromString, vae_pb2.EncodeResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(VAE_SERVICE, {"Encode": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await _until_signal()
    await server.stop(None)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until_signal() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


@contextlib.contextmanager
def _beside(options: argparse.Namespace) -> Iterator[None]:
    """The other processes on the same port; they have started when this one does."""
    command = [sys.executable, "-m", "benchmarks.serving.servers", options.kind, str(options.models)]
    shared = [f"--port={options.port}", f"--threads={options.threads}"]
    with contextlib.ExitStack() as stack:
        for _ in range(options.processes - 1):
            other = stack.enter_context(subprocess.Popen([*command, *shared], stdout=subprocess.PIPE))
            stack.callback(other.terminate)
            assert other.stdout is not None
            if not other.stdout.readline().startswith(b"ready"):
                raise RuntimeError(f"one of {options.processes} processes did not start")
        yield


def main() -> None:
    """Run one of those that are not ours."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # until the loop has a handler: the others must not be left
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("empty", "plain", "tuned"))
    parser.add_argument("models", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="on the port")
    parser.add_argument("--threads", type=int, default=0, help="of each that is tuned; its share of the cores")
    options = parser.parse_args()
    options.port = options.port or _free_port()
    options.threads = options.threads or max(1, usable_cores() // options.processes)
    package = open_package(default_package(next(options.models.iterdir())))
    with _beside(options):
        if options.kind == "empty":
            asyncio.run(_serve_empty(package, options.port))
        else:
            encoder = _as_it_comes(package) if options.kind == "plain" else _tuned(package, options.threads)
            asyncio.run(_serve_handler(encoder, options.port))


if __name__ == "__main__":
    main()
