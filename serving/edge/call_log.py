"""One line in the log for each call, with `--log-calls`: its outcome, never its content."""

import logging
from typing import Any, Literal

from serving.edge.request_id import request_id_of
from vaeport.wire import REQUEST_ID_KEY

LogCalls = Literal["none", "failed", "all"]

log = logging.getLogger(__name__)


class CallLog:
    """Observes the calls of one method, and logs each one, or only those that failed."""

    def __init__(self, method: str, which: LogCalls) -> None:
        self._method = method
        self._all = which == "all"

    def began(self, context: Any) -> Any:
        """The note is the call's context."""
        return context

    def ended(self, context: Any, code: str, seconds: float) -> None:
        """See CallObserver."""
        if self._all or code != "OK":
            _log(self._method, code, context, seconds)


def _log(method: str, status: str, context: Any, seconds: float) -> None:
    told = dict(context.trailing_metadata() or ()).get(REQUEST_ID_KEY)  # the id that a failed call's caller was given
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
