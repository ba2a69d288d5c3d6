"""One line in the log for each call, for who asks for it with `--log-calls`: what came of it, never what was in it."""

import logging
from typing import Any, Literal

from serving.edge.request_id import request_id_of
from vaeport.wire import REQUEST_ID_KEY

LogCalls = Literal["none", "failed", "all"]

log = logging.getLogger(__name__)


class CallLog:
    """Observes the calls of one method, and leaves a line for each that failed, or for all."""

    def __init__(self, method: str, which: LogCalls) -> None:
        self._method = method
        self._all = which == "all"

    def began(self, context: Any) -> Any:
        """The call is known by its context."""
        return context

    def ended(self, context: Any, code: str, seconds: float) -> None:
        """See CallObserver."""
        if self._all or code != "OK":
            _log(self._method, code, context, seconds)


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
