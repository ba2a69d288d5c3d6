"""Streams as flows: samples chunk by chunk, taken up again at their next row when a call ends before its time; and
images that come one by one, as chunks that are encoded several at a time."""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from vaeport import messages
from vaeport.calls import Calls
from vaeport.chunks import Chunker, chunks_of
from vaeport.errors import UnavailableError
from vaeport.flows import Ask, ClosedError, Flow, Open, Pause, Read
from vaeport.prior import Draw
from vaeport.results import Encoding
from vaeport.retries import Attempts


class SampleChunks:
    """The chunks of one `sample_stream`, for one reader.

    The timeout is the time that the reader waits for one chunk. A call of the stream ends with it, too, and is resumed,
    so that a slow reader or a long stream is not a failure.

    Args:
        calls: the client's calls.
        draw: what is to come.
        chunk_rows: the most images in a chunk.
    """

    def __init__(self, calls: Calls, draw: Draw, chunk_rows: int) -> None:
        self._calls = calls
        self._left: Draw | None = draw
        self._chunk_rows = chunk_rows
        self._version = ""
        self._ask: Ask | None = None  # the running call, and its stream
        self._stream: Any = None

    def next(self) -> Flow[NDArray[np.float32] | None]:
        """The next chunk, float32 [rows, C, H, W]; None after the last."""
        if self._left is None:
            yield from self._finish()
            return None
        calls, old = self._calls, self._ask is not None
        attempts = calls.retries.begin(calls.timeout)
        while not calls.closed:
            try:
                response = yield from self._read(self._left, attempts)
            except grpc.RpcError as failed:
                ask, self._ask = self._ask, None
                assert ask is not None
                if not old or failed.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    yield from calls.pause_after(failed, ask, attempts)
                old = False
            except ClosedError:
                break
            else:
                calls.retries.succeeded()
                return self._take(self._left, response)
        raise calls.closed_error()

    def cancel(self) -> None:
        """End the running call, if any: its reader has left."""
        if self._stream is not None:
            self._stream.cancel()

    def _read(self, left: Draw, attempts: Attempts) -> Flow[Any]:
        """The next message, from a new call if none is running."""
        if self._ask is None:
            served = yield from self._calls.served()
            request = messages.sample_stream_request(served, left, self._chunk_rows)
            self._ask = self._calls.ask_of("SampleStream", request, attempts)
            self._stream = yield Open(self._ask)
        return (yield Read(self._stream))

    def _finish(self) -> Flow[None]:
        """Let the call end by itself, so that the server counts it as complete; a failure no longer matters."""
        with contextlib.suppress(grpc.RpcError, ClosedError):
            if self._ask is not None:
                yield Read(self._stream)
        self._ask = None

    def _take(self, left: Draw, response: Any) -> NDArray[np.float32]:
        """The images of a message; reduces what is left."""
        if response is None or response.first_row != left.first_row:
            raise UnavailableError(f"{self._calls.address}: the stream went on at another row than {left.first_row}")
        self._version = check_version(self._calls.address, self._version, response.version)
        images = messages.images_of([response])
        rows = left.count - len(images)
        self._left = replace(left, first_row=left.first_row + len(images), count=rows) if rows > 0 else None
        return images


def chunk_flows(calls: Calls, chunker: Chunker, images: Iterable[Any]) -> Iterator[Flow[Encoding]]:
    """A flow for each chunk of the images; if `images` fails, the last flow fails."""
    try:
        yield from map(calls.encode_chunk, chunks_of(images, chunker))
    except Exception as error:
        yield _failed(error)


async def chunk_flows_of(calls: Calls, chunker: Chunker, images: AsyncIterable[Any]) -> AsyncIterator[Flow[Encoding]]:
    """Like `chunk_flows`, for async iterators."""
    failure = None
    try:
        async for item in images:
            for chunk in chunker.add(item):
                yield calls.encode_chunk(chunk)
    except Exception as error:
        failure = error
    for chunk in chunker.flush():
        yield calls.encode_chunk(chunk)
    if failure is not None:
        yield _failed(failure)


def _failed(error: Exception) -> Flow[Any]:
    """A flow that fails: the error has its place in the order, after the chunks before it."""
    yield Pause(0.0)
    raise error


def check_version(address: str, before: str, now: str) -> str:
    """The version that answers a stream; UnavailableError if another one did `before`: their results do not mix."""
    if before not in ("", now):
        raise UnavailableError(f"{address}: the model changed during the stream, from version {before} to {now}")
    return now
