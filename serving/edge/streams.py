"""Answers to a stream of requests: several at a time, in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

IN_FLIGHT = 4  # requests of one stream that are computed at a time; the rest are not read yet


async def in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Answer]], in_flight: int
) -> AsyncGenerator[Answer, None]:
    """The answer to each request, in the order of the requests.

    Args:
        requests: read no faster than they are answered.
        answer: answers one request.
        in_flight: how many requests are answered at a time.

    Raises:
        Exception: the error of the first request, in order, that fails, or of the reading; raised after the answers
            before it. The later requests are cancelled.
    """
    running: asyncio.Queue[asyncio.Future[Answer] | None] = asyncio.Queue()
    room = asyncio.Semaphore(in_flight)
    started: set[asyncio.Future[Answer]] = set()

    async def read() -> None:
        try:
            await room.acquire()
            async for request in requests:
                future = asyncio.ensure_future(answer(request))
                started.add(future)
                running.put_nowait(future)
                await room.acquire()
            running.put_nowait(None)
        except Exception as error:  # an error has its place in the order, too
            failed: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            started.add(failed)
            running.put_nowait(failed)

    reader = asyncio.create_task(read())
    try:
        while (future := await running.get()) is not None:
            answered = await future
            started.discard(future)
            room.release()
            yield answered
    finally:
        reader.cancel()
        for future in started:
            future.cancel()
        await asyncio.gather(reader, *started, return_exceptions=True)
