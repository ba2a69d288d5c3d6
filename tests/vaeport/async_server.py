"""A server in the test's own loop, which holds calls until it is told, and knows who has left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from tests.vaeport.toy_server import described, encoded
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import from_tensor


class Holding(vae_pb2_grpc.VaeServiceServicer):
    """Answers Encode when `go_on` is set.

    `inside` has the first pixels of what is held, `answered` and `left` those of what was answered or cancelled.
    """

    def __init__(self) -> None:
        self.info = described("1")
        self.go_on = asyncio.Event()
        self.changed = asyncio.Event()
        self.inside: list[int] = []
        self.answered: list[int] = []
        self.left: list[int] = []
        self.most = 0

    async def Info(self, request: vae_pb2.InfoRequest, context: Any) -> vae_pb2.InfoResponse:  # noqa: N802
        """At once."""
        return self.info

    async def Encode(self, request: vae_pb2.EncodeRequest, context: Any) -> vae_pb2.EncodeResponse:  # noqa: N802
        """When it is told."""
        first = int(from_tensor("images", request.images).flat[0])
        self.inside.append(first)
        self.most = max(self.most, len(self.inside))
        self.changed.set()
        try:
            await self.go_on.wait()
            self.answered.append(first)
            return encoded(request, self.info.models[0].version)
        except asyncio.CancelledError:
            self.left.append(first)
            raise
        finally:
            self.inside.remove(first)
            self.changed.set()

    async def until(self, condition: Any) -> None:
        """Wait for something that becomes true when a call comes or goes."""
        async with asyncio.timeout(30):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@contextlib.asynccontextmanager
async def holding() -> AsyncIterator[tuple[str, Holding]]:
    """One, and where it is."""
    server, servicer = aio.server(), Holding()  # type: ignore[abstract]  # what it lacks is UNIMPLEMENTED
    vae_pb2_grpc.add_VaeServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(None)
