"""Answers to a stream of requests: several at a time, in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from serving.edge.large_messages import size_of
from serving.edge.unread import UnreadAnswers

Request = TypeVar("Request")
Answer = TypeVar("Answer")

IN_FLIGHT = 4  # requests of one stream that are computed at a time; the rest are not read yet


async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Answer]],
    in_flight: int,
    waiting: Callable[[Answer], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> AsyncGenerator[Answer, None]:
    """The answer to each request, in the order of the requests.

    Args:
        requests: read no faster than they are answered.
        answer: answers one request.
        in_flight: how many requests are answered at a time.
        waiting: lasts while an answer waits for those before it.

    Raises:
        Exception: the error of the first request, in order, that fails, or of the reading; raised after the answers
            before it. The later requests are cancelled.
    """
    running: asyncio.Queue[tuple[asyncio.Future[Answer], asyncio.Event] | None] = asyncio.Queue()
    room = asyncio.Semaphore(in_flight)
    started: set[asyncio.Future[Answer]] = set()

    async def answered_in_turn(request: Request, turn: asyncio.Event) -> Answer:
        answered = await answer(request)
        with waiting(answered):
            await turn.wait()
        return answered

    async def read() -> None:
        try:
            await room.acquire()
            async for request in requests:
                turn = asyncio.Event()
                future = asyncio.ensure_future(answered_in_turn(request, turn))
                started.add(future)
                running.put_nowait((future, turn))
                await room.acquire()
            running.put_nowait(None)
        except Exception as error:  # an error has its place in the order, too
            failed: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            started.add(failed)
            running.put_nowait((failed, asyncio.Event()))

    reader = asyncio.create_task(read())
    try:
        while (following := await running.get()) is not None:
            future, turn = following
            turn.set()
            answered = await future
            started.discard(future)
            room.release()
            yield answered
    finally:
        reader.cancel()
        for future in started:
            future.cancel()
        await asyncio.gather(reader, *started, return_exceptions=True)


def within_limits(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Answer]],
    answers: UnreadAnswers,
    context: object,
) -> AsyncGenerator[Answer, None]:
    """As `in_order`, while there is room for unread answers; those that wait for their turn count as unread."""

    async def with_room() -> AsyncIterator[Request]:
        async for request in requests:
            await answers.room(context)
            yield request

    return in_order(with_room(), answer, IN_FLIGHT, lambda one: answers.held(context, size_of(one)))
