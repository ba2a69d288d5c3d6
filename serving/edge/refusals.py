"""Why the edge refuses a call before anything is computed, and how the metrics count it."""

from serving.edge.peers import TooManyBytesError, TooManyCallsError
from serving.edge.unread import TooManyAnswersError
from vaeport.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError


class DrainingError(UnavailableError):
    """The server takes no new calls."""

    def __init__(self) -> None:
        super().__init__("the server is draining")


CAUSES: dict[type[Exception], str] = {
    DrainingError: "draining",
    UnauthenticatedError: "credentials",
    PermissionDeniedError: "permission",
    TooManyCallsError: "peer_calls",
    TooManyBytesError: "peer_bytes",
    TooManyAnswersError: "answers",
}


def cause_of(error: Exception) -> str | None:
    """The cause, of serving.metrics.catalogue, for which the edge refused a call; None if it did not."""
    return CAUSES.get(type(error))
