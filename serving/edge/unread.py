"""A bound on unread answers: gRPC keeps answers in memory until their callers have read them, without a limit.

An answer counts from the moment it is written out until its call has ended; gRPC holds it twice meanwhile. The answers
of a stream, several of which are made at a time, count while they wait to be sent and while they are sent; where there
is no room, a stream makes no more. Only ending the connection can free an answer before it is read: grpc.aio has no way
to end a call whose message is being sent. A connection that reads nothing at all does not answer the server's pings
either, and is closed for that.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from vaeport.errors import OverloadedError

COUNTED_BYTES = 16 * 1024  # smaller answers do not count: a call itself takes about as much
RETRY_SECONDS = 0.1
LOOK_SECONDS = 0.05  # between two looks of a stream for room: to wake all who wait at each answer would cost more


class TooManyAnswersError(OverloadedError):
    """Too many bytes of answers have not been read."""


class UnreadAnswers:
    """The bytes of answers on their way.

    Args:
        most: the most bytes for new calls to be admitted. The answers of admitted calls may exceed it.
        most_of_one: the most bytes of one caller, likewise.
        caller_of: the name of a caller, by a grpc.aio.ServicerContext.

    Attributes:
        total: bytes of all callers.
    """

    def __init__(self, most: int, most_of_one: int, caller_of: Callable[[Any], str]) -> None:
        self.total = 0
        self._most = most
        self._most_of_one = most_of_one
        self._caller_of = caller_of
        self._of: dict[str, int] = {}
        self._full: set[str] = set()  # the callers that are at their limit

    def check(self, context: object) -> None:
        """Raise TooManyAnswersError if a new call of this caller, or of any, must wait for answers to be read."""
        if reason := self._reason_to_wait(context):
            raise TooManyAnswersError(reason, RETRY_SECONDS)

    def send(self, context: object, size: int) -> None:
        """Count an answer of `size` bytes until the running task, the one of its call, has ended."""
        if size < COUNTED_BYTES:
            return
        task = asyncio.current_task()
        assert task is not None
        caller = self._caller_of(context)
        self._add(caller, size)
        task.add_done_callback(partial(self._sent, caller, size))

    @contextmanager
    def held(self, context: object, size: int) -> Iterator[None]:
        """Count an answer of a stream, of `size` bytes, for as long as this lasts."""
        if size < COUNTED_BYTES:
            yield
            return
        caller = self._caller_of(context)
        self._add(caller, size)
        try:
            yield
        finally:
            self._add(caller, -size)

    async def room(self, context: object) -> None:
        """Wait until a stream of this caller may make another answer."""
        while self._reason_to_wait(context):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)

    def _reason_to_wait(self, context: object) -> str:
        """Why this caller must wait for answers to be read; "" if it need not."""
        if self.total >= self._most:
            return f"{self.total} bytes of answers are on their way, of at most {self._most}"
        if self._full and (caller := self._caller_of(context)) in self._full:
            return f"{caller} has not read {self._of[caller]} bytes of answers, of at most {self._most_of_one}"
        return ""

    def _sent(self, caller: str, size: int, _task: object) -> None:
        self._add(caller, -size)

    def _add(self, caller: str, size: int) -> None:
        self.total += size
        held = self._of.get(caller, 0) + size
        if held:
            self._of[caller] = held
        else:
            del self._of[caller]
        (self._full.add if held >= self._most_of_one else self._full.discard)(caller)
