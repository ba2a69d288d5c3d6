"""What a client does, apart from how it waits: calls as generators, which a thread or an event loop carries out.

A flow yields what to do next, is sent the outcome or has the error thrown in, and returns its result. All decisions of
the client (what to send, what to retry, when, what the answers mean) are flows, in vaeport.calls; vaeport.Client
carries them out by blocking, vaeport.AsyncClient by awaiting.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias, TypeVar

from vaeport.retries import Attempts
from vaeport.wire import REQUEST_ID_KEY

Metadata = tuple[tuple[str, str], ...]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request; the response comes back, or a grpc.RpcError.

    Attributes:
        rpc: the method's name in the service.
        request: the message.
        attempts: the attempts that this is the next one of; they say how long it may take, and whether it waits for a
            connection.
        metadata: sent with the request.
    """

    rpc: str
    request: object
    attempts: Attempts
    metadata: Metadata

    @property
    def request_id(self) -> str:
        """The request's id in the server's log."""
        return dict(self.metadata)[REQUEST_ID_KEY]

    def options(self) -> dict[str, Any]:
        """The arguments of gRPC's methods besides the request, as of now."""
        timeout = self.attempts.timeout()
        return {"timeout": timeout, "wait_for_ready": self.attempts.wait_for_ready, "metadata": self.metadata}


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request that a stream answers; the stream comes back at once."""

    call: Ask


@dataclass(frozen=True, slots=True)
class Read:
    """Take the next message of a stream; None comes back at its end, or a grpc.RpcError."""

    stream: Any


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for some seconds, or until the client is closed.

    Attributes:
        attempts: that this pause separates; if nobody looks in time, the excess is not counted against them.
    """

    seconds: float
    attempts: Attempts | None = None

    def over(self, late: float) -> None:
        """It has taken `late` seconds longer."""
        if self.attempts is not None:
            self.attempts.excuse(max(0.0, late))


@dataclass(frozen=True, slots=True)
class Work:
    """Compute something that takes long enough to keep others waiting, such as reading picture files."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Together:
    """Carry out several flows, a few at a time; their results come back in order, or the first failure in order."""

    flows: "Iterator[Flow[Any]]"


Step: TypeAlias = Ask | Open | Read | Pause | Work | Together
Flow: TypeAlias = Generator[Step, Any, Result]


class ClosedError(Exception):
    """Thrown into a flow whose client has been closed."""


def together(flows: "Iterable[Flow[Result]]") -> "Flow[list[Result]]":
    """The results of all flows, in order; a single flow is simply carried out."""
    left = iter(flows)
    first, second = next(left, None), next(left, None)
    if first is None:
        return []
    if second is None:
        return [(yield from first)]
    results: list[Result] = yield Together(chain((first, second), left))
    return results
