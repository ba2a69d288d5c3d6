"""A server in a thread that does what a test has written down, call by call."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from tests.vaeport.toy_server import described, encoded
from vaeport.v1 import vae_pb2, vae_pb2_grpc

Step = Callable[["Scripted", Any, grpc.ServicerContext], Any]


def answer(script: "Scripted", request: vae_pb2.EncodeRequest, context: grpc.ServicerContext) -> vae_pb2.EncodeResponse:
    """As a server should, with the first pixel of each image."""
    return encoded(request, script.info.models[0].version)


def fail(code: grpc.StatusCode, text: str = "why", **trailing: str) -> Step:
    """End the call with a status, and trailing metadata whose names have _ for -."""

    def step(script: "Scripted", request: object, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(tuple((key.replace("_", "-"), value) for key, value in trailing.items()))
        context.abort(code, text)

    return step


class Scripted(vae_pb2_grpc.VaeServiceServicer):
    """Takes the next step for each Encode, the last one for ever; records what came."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.info = described("1")
        self.infos, self.info_metadata = 0, dict[str, Any]()
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.seconds_left: list[float] = []

    def Info(self, request: vae_pb2.InfoRequest, context: grpc.ServicerContext) -> vae_pb2.InfoResponse:  # noqa: N802
        """Whatever `info` is at the moment."""
        self.infos += 1
        self.info_metadata = dict(context.invocation_metadata())
        return self.info

    def Encode(self, request: vae_pb2.EncodeRequest, context: grpc.ServicerContext) -> vae_pb2.EncodeResponse:  # noqa: N802
        """The next step."""
        self._record(request, context)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        response: vae_pb2.EncodeResponse = step(self, request, context)
        return response

    def Sample(self, request: vae_pb2.SampleRequest, context: grpc.ServicerContext) -> vae_pb2.SampleResponse:  # noqa: N802
        """Never."""
        self._record(request, context)
        context.abort(grpc.StatusCode.UNAVAILABLE, "no samples today")
        raise AssertionError

    def _record(self, request: object, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.seconds_left.append(context.time_remaining() or 0.0)


@contextlib.contextmanager
def scripted(
    *steps: Step,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
    health: HealthServicer | None = None,
    script: Scripted | None = None,
) -> Iterator[tuple[str, Scripted]]:
    """A server that follows the steps, or another script, and where it is."""
    script = script or Scripted(*(steps or (answer,)))  # type: ignore[abstract]  # what it lacks is UNIMPLEMENTED
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    vae_pb2_grpc.add_VaeServiceServicer_to_server(script, server)
    if health is not None:
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}", script
    finally:
        server.stop(None).wait()
