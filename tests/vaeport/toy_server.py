"""A server process that can be killed, stopped and replaced, with the smallest model there is.

    python -m tests.vaeport.toy_server ADDRESS [VERSION] [SECONDS]

It shares its port with others (SO_REUSEPORT), prints the port when it is there, takes SECONDS for each answer, and on
SIGTERM does what gRPC calls a graceful stop. The mean of an image is its first pixel.
"""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from grpc import aio

from tests.support import ROOT
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import from_tensor, to_tensor

GRACE_SECONDS = 0.5
SHAPE = (1, 2, 2)


def described(version: str, shape: tuple[int, ...] = SHAPE, max_rows: int = 100) -> vae_pb2.InfoResponse:
    """One model, `toy`."""
    model = vae_pb2.ModelInfo(name="toy", version=version, image_shape=shape, latent_dim=1)
    limits = vae_pb2.Limits(max_request_rows=max_rows)
    return vae_pb2.InfoResponse(models=[model], limits=limits, default_model="toy")


def encoded(request: vae_pb2.EncodeRequest, version: str) -> vae_pb2.EncodeResponse:
    """The first pixel of each image."""
    first = to_tensor(from_tensor("images", request.images)[:, 0, 0, :1].astype(np.float32))
    return vae_pb2.EncodeResponse(model="toy", version=version, mean=first, log_var=first)


class Toy(vae_pb2_grpc.VaeServiceServicer):
    """Info and Encode, which takes a while."""

    def __init__(self, version: str, seconds: float) -> None:
        self.version, self.seconds = version, seconds

    async def Info(self, request: vae_pb2.InfoRequest, context: Any) -> vae_pb2.InfoResponse:  # noqa: N802
        """At once."""
        return described(self.version)

    async def Encode(self, request: vae_pb2.EncodeRequest, context: Any) -> vae_pb2.EncodeResponse:  # noqa: N802
        """After a while."""
        await asyncio.sleep(self.seconds)
        return encoded(request, self.version)


async def serve(address: str, version: str, seconds: float) -> None:
    """Until SIGTERM."""
    toy = Toy(version, seconds)  # type: ignore[abstract]  # what it lacks is UNIMPLEMENTED
    server = aio.server(options=[("grpc.so_reuseport", 1)])
    vae_pb2_grpc.add_VaeServiceServicer_to_server(toy, server)
    port = server.add_insecure_port(address)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(port, flush=True)
    await stop.wait()
    await server.stop(GRACE_SECONDS)


@contextlib.contextmanager
def toy_process(address: str = "127.0.0.1:0", version: str = "1", seconds: float = 0.0) -> Iterator["ToyProcess"]:
    """A toy server, killed in the end."""
    toy = ToyProcess(address, version, seconds)
    try:
        yield toy
    finally:
        toy.kill()


class ToyProcess:
    """A toy server in a process of its own; `address` is where it listens."""

    def __init__(self, address: str = "127.0.0.1:0", version: str = "1", seconds: float = 0.0) -> None:
        command = [sys.executable, "-m", "tests.vaeport.toy_server", address, version, str(seconds)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        port = self.process.stdout.readline().strip()
        assert port, f"no server at {address}"
        self.address = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def stop(self) -> None:
        """Gracefully, and wait for it."""
        self.process.terminate()
        assert self.process.wait(30) == 0

    def kill(self) -> None:
        """At once."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


if __name__ == "__main__":
    where, version, seconds = [*sys.argv[1:], *("1", "0")[len(sys.argv) - 2 :]]
    asyncio.run(serve(where, version, float(seconds)))
