"""The outermost layer around every method, outside the guard: it sees what callers see, and when."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc

Answer = Callable[[Any, Any], Awaitable[Any]]


class CallObserver(Protocol):
    """Is told of the calls of one method."""

    def began(self, context: Any, /) -> object:
        """A call has come, with this grpc.aio.ServicerContext. The result is passed to `ended`."""

    def ended(self, note: Any, code: str, seconds: float, /) -> None:
        """The call has ended, `seconds` later, with the status named `code`."""


def observed(answer: Answer, observers: Sequence[CallObserver]) -> Answer:
    """`answer` with observers; it aborts the call for every error."""
    if not observers:
        return answer
    clock = time.perf_counter
    beginnings, endings = [each.began for each in observers], [each.ended for each in observers]

    async def watched(request: Any, context: Any) -> Any:
        started = clock()
        notes = [began(context) for began in beginnings]
        code = "CANCELLED"
        try:
            response = await answer(request, context)
            code = _name(context.code(), "OK")
            return response
        except asyncio.CancelledError:
            # grpc.aio cancels the task in both cases; a call that the guard found to be over has no status either.
            if context.time_remaining() is not None and context.time_remaining() <= 0:
                code = "DEADLINE_EXCEEDED"
            raise
        except Exception:
            code = _name(context.code(), "UNKNOWN")
            raise
        finally:
            seconds = clock() - started
            for ended, note in zip(endings, notes, strict=True):
                ended(note, code, seconds)

    return watched


def _name(code: grpc.StatusCode | None, default: str) -> str:
    return default if code is None else code.name
