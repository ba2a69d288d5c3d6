"""The model on a server, for asyncio: `vaeport.AsyncClient`, with the methods, results and errors of `vaeport.Client`.

The calls themselves are in vaeport.calls, for both clients; this module says how a task waits for them.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, SupportsIndex

import numpy as np
from grpc import aio
from numpy.typing import ArrayLike, NDArray

from vaeport.base_client import IN_FLIGHT, BaseClient
from vaeport.chunks import CHUNK_ROWS, Chunker, check_chunk_rows, join
from vaeport.flows import Ask, ClosedError, Flow, Open, Pause, Read, Result, Step, Work
from vaeport.inputs import Images
from vaeport.prior import Draw
from vaeport.results import Encoding, Scores, ServerInfo
from vaeport.streams import SampleChunks, check_version, chunk_flows, chunk_flows_of
from vaeport.v1 import vae_pb2_grpc


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments, methods, results and errors; methods are awaited, streams iterated.

    The arguments and methods are described in `Client`. Use it in an `async with` block, or await `close`. It connects
    with its first call, and belongs to the event loop of that call. A cancelled call ends on the server as well. Slow
    local work, such as reading picture files, is done in a thread. Streams also take async iterators.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; running and later calls end with UnavailableError. Closing twice is fine."""
        self._calls.closed = True
        self._closed.set()
        if self._channel is not None:
            await self._channel.close()

    async def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width), as far as this client knows; `info` asks again."""
        return (await self._run(self._calls.served())).model.image_shape

    async def latent_dim(self) -> int:
        """The number of latent dimensions, as far as this client knows; `info` asks again."""
        return (await self._run(self._calls.served())).model.latent_dim

    async def info(self) -> ServerInfo:
        """Everything the server offers; if a model is named, only that model."""
        return await self._run(self._calls.info())

    async def encode(self, images: Images | Iterator[Images] | AsyncIterator[Images]) -> Encoding:
        """The posterior of each image."""
        if isinstance(images, Iterator | AsyncIterator):
            return join([encoding async for encoding in self.encode_stream(images)])
        return await self._run(self._calls.encode(images))

    def encode_stream(
        self, images: Iterable[Images] | AsyncIterable[Images], *, chunk_rows: int = CHUNK_ROWS
    ) -> AsyncIterator[Encoding]:
        """The posteriors of a stream of images, in order, a chunk at a time."""
        return self._encode_stream(images, check_chunk_rows(chunk_rows))

    async def decode(self, latents: ArrayLike) -> NDArray[np.float32]:
        """The image of each latent: float32 [N, C, H, W] in [0, 1]."""
        return await self._run(self._calls.decode(latents))

    async def sample(
        self, count: int, *, seed: SupportsIndex | None = None, temperature: float = 1.0, first_row: int = 0
    ) -> NDArray[np.float32]:
        """Images from the prior: float32 [count, C, H, W] in [0, 1]."""
        return await self._run(self._calls.sample(Draw.of(count, seed, first_row, temperature)))

    def sample_stream(
        self,
        count: int,
        *,
        seed: SupportsIndex | None = None,
        temperature: float = 1.0,
        first_row: int = 0,
        chunk_rows: int = CHUNK_ROWS,
    ) -> AsyncIterator[NDArray[np.float32]]:
        """The images of `sample` in order, a chunk at a time: float32 [rows, C, H, W]."""
        return self._sample_stream(Draw.of(count, seed, first_row, temperature), check_chunk_rows(chunk_rows))

    async def reconstruct(self, images: Images) -> NDArray[np.float32]:
        """decode(encode(images).mean): float32 [N, C, H, W] in [0, 1]."""
        return await self._run(self._calls.reconstruct(images))

    async def interpolate(self, a: Images, b: Images, steps: int, *, spherical: bool = False) -> NDArray[np.float32]:
        """The images on the way from `a` to `b`: float32 [steps, C, H, W] in [0, 1]."""
        return await self._run(self._calls.interpolate(a, b, steps, spherical=spherical))

    async def score(
        self, images: Images, *, importance_samples: int = 1, seed: SupportsIndex | None = None, first_row: int = 0
    ) -> Scores:
        """How well the model explains each image, in nats."""
        return await self._run(self._calls.score(images, importance_samples, seed, first_row))

    def _connect(self) -> None:
        """Do nothing yet: a channel belongs to a loop, and is made in it later."""
        self._closed = asyncio.Event()
        self._channel: aio.Channel | None = None
        self._stub: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _open_channel(self) -> Any:
        """The methods of the server, on a channel of the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise RuntimeError("an AsyncClient belongs to the event loop in which it was first used; make one for each")
        if self._channel is None:
            self._loop = loop
            if self._credentials is None:
                self._channel = aio.insecure_channel(self._uri, self._options)
            else:
                self._channel = aio.secure_channel(self._uri, self._credentials, self._options)
            self._stub = vae_pb2_grpc.VaeServiceStub(self._channel)
        return self._stub

    async def _encode_stream(
        self, images: Iterable[Images] | AsyncIterable[Images], chunk_rows: int
    ) -> AsyncIterator[Encoding]:
        served = await self._run(self._calls.served())
        chunker = Chunker(served.model, min(chunk_rows, served.max_rows))
        if isinstance(images, AsyncIterable):
            flows = chunk_flows_of(self._calls, chunker, images)
        else:
            flows = _awaited(chunk_flows(self._calls, chunker, images))
        version = ""
        async with contextlib.aclosing(self._in_order(flows)) as encodings:
            async for encoding in encodings:
                version = check_version(self.address, version, encoding.version)
                yield encoding

    async def _sample_stream(self, draw: Draw, chunk_rows: int) -> AsyncIterator[NDArray[np.float32]]:
        chunks = SampleChunks(self._calls, draw, chunk_rows)
        try:
            while (chunk := await self._run(chunks.next())) is not None:
                yield chunk
        finally:
            chunks.cancel()

    async def _run(self, flow: Flow[Result]) -> Result:
        """Carry out a flow in this task."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._perform(step)
                except Exception as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Ask):
            return await self._answer(self._send(step))
        if isinstance(step, Open):
            return self._send(step.call)
        if isinstance(step, Read):
            message = await self._answer(step.stream.read())
            return None if message is aio.EOF else message
        if isinstance(step, Pause):
            end = time.monotonic() + step.seconds
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), step.seconds)
            step.over(time.monotonic() - end)  # images that are not awaited may have held up the loop
            return None
        if isinstance(step, Work):
            return await asyncio.to_thread(step.function)
        async with contextlib.aclosing(self._in_order(_awaited(step.flows))) as results:
            return [result async for result in results]

    async def _in_order(self, flows: AsyncIterator[Flow[Result]]) -> AsyncGenerator[Result, None]:
        """The results of flows, in order, a few at a time, until the first failure in order; the others are dropped.

        A result is given as soon as it is there, and does not wait for the next flow.
        """
        running: deque[asyncio.Task[Result]] = deque()
        free, changed = asyncio.Semaphore(IN_FLIGHT - 1), asyncio.Event()

        async def begin_all() -> None:
            async for flow in flows:
                running.append(asyncio.create_task(self._run(flow)))
                changed.set()
                await asyncio.sleep(0)  # for it to be sent, should the next one take long
                await free.acquire()

        beginning = asyncio.create_task(begin_all())
        beginning.add_done_callback(lambda _: changed.set())
        try:
            while running or not beginning.done():
                if not running:
                    changed.clear()
                    await changed.wait()
                    continue
                result = await running[0]
                running.popleft()
                yield result
                free.release()
            await beginning
        finally:
            beginning.cancel()
            for task in running:
                task.cancel()
            await asyncio.gather(beginning, *running, return_exceptions=True)

    def _send(self, ask: Ask) -> Any:
        method = getattr(self._open_channel(), ask.rpc)
        try:
            return method(ask.request, **ask.options())
        except aio.UsageError as error:
            if self._calls.closed:
                raise ClosedError from error
            raise

    async def _answer(self, call: Any) -> Any:
        """A call's response. Closing a channel cancels its calls, which must not look like their callers' doing."""
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._calls.closed and task is not None and not task.cancelling():
                raise ClosedError from None
            raise


async def _awaited(items: Iterable[Flow[Result]]) -> AsyncIterator[Flow[Result]]:
    for item in items:
        yield item
