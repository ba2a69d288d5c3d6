"""Answers to a stream of requests: several at a time, in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Answer]], in_flight: int
) -> AsyncGenerator[Answer, None]:
    """The answer to each request, in the order of the requests.

    Args:
        requests: read no faster than they are answered.
        answer: answers one.
        in_flight: how many are being answered at a time.

    Raises:
        Exception: of the first request, in order, that has no answer, or of the reading; after the answers before it.
            The others are cancelled.
    """
    running: asyncio.Queue[asyncio.Future[Answer] | None] = asyncio.Queue(in_flight - 1)  # and one is awaited
    started: set[asyncio.Future[Answer]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                future = asyncio.ensure_future(answer(request))
                started.add(future)
                await running.put(future)
            await running.put(None)
        except Exception as error:  # it has its place in the order, too
            failed: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            started.add(failed)
            await running.put(failed)

    reader = asyncio.create_task(read())
    try:
        while (future := await running.get()) is not None:
            yield await future
            started.discard(future)
    finally:
        reader.cancel()
        for future in started:
            future.cancel()
        await asyncio.gather(reader, *started, return_exceptions=True)
