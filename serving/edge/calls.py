"""One line in the log for each call, for who asks for it with `--log-calls`: what came of it, never what was in it."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import grpc

from serving.edge.request_id import request_id_of
from vaeport.wire import REQUEST_ID_KEY

LogCalls = Literal["none", "failed", "all"]
Answer = Callable[[Any, Any], Awaitable[Any]]

log = logging.getLogger(__name__)


def logged(method: str, answer: Answer, which: LogCalls) -> Answer:
    """`answer`, which answers calls of `method`; those of the kind `which` leave a line when they end."""
    if which == "none":
        return answer

    async def with_line(request: Any, context: Any) -> Any:
        started = time.perf_counter()
        status = "OK"
        try:
            return await answer(request, context)
        except BaseException:
            status = _status_of(context)
            raise
        finally:
            if which == "all" or status != "OK":
                _log(method, status, context, time.perf_counter() - started)

    return with_line


def _status_of(context: Any) -> str:
    """Of a call that was aborted, or that the caller or its deadline has ended."""
    code = context.code()
    if isinstance(code, grpc.StatusCode) and code is not grpc.StatusCode.OK:
        return code.name
    remaining = context.time_remaining()
    return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"


def _log(method: str, status: str, context: Any, seconds: float) -> None:
    told = dict(context.trailing_metadata() or ()).get(REQUEST_ID_KEY)  # the caller of a failed call has this one
    request_id = told or request_id_of(context.invocation_metadata() or ())
    milliseconds = round(seconds * 1000, 3)
    log.info(
        "%s %s in %g ms, request id %s, from %s",
        method,
        status,
        milliseconds,
        request_id,
        context.peer(),
        extra={
            "method": method,
            "status": status,
            "request_id": request_id,
            "peer": context.peer(),
            "milliseconds": milliseconds,
        },
    )
