"""Limits of what one caller may have running: calls, and bytes of their requests."""

from collections import deque

from serving.edge.streams import IN_FLIGHT
from vaeport.errors import OverloadedError

RETRY_SECONDS = 0.1  # a guess: the caller knows best when its own calls end


class TooManyCallsError(OverloadedError):
    """A caller has as many calls running as it may."""


class TooManyBytesError(OverloadedError):
    """A caller's running calls hold as many bytes of requests as they may."""


class Peers:
    """The running calls and bytes of each caller.

    Args:
        max_calls: the most calls of one caller at a time; 0 means no limit.
        max_bytes: the most bytes of the requests of these calls; 0 means no limit. A single larger request may come
            alone.
    """

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self._calls: dict[str, int] = {}
        self._bytes: dict[str, int] = {}

    def __len__(self) -> int:
        """The number of callers with a running call."""
        return len(self._calls)

    def enter(self, caller: str) -> "Hold":
        """Count a call, until `Hold.end`.

        Raises:
            OverloadedError: the caller has as many as it may.
        """
        calls = self._calls.get(caller, 0)
        if self.max_calls and calls >= self.max_calls:
            raise TooManyCallsError(f"{caller} has {calls} calls in hand, and may have no more", RETRY_SECONDS)
        self._calls[caller] = calls + 1
        return Hold(self, caller)

    def add(self, caller: str, size: int) -> None:
        """Count the bytes of a request; raises OverloadedError if they are too many."""
        held = self._bytes.get(caller, 0)
        if self.max_bytes and held and held + size > self.max_bytes:
            raise TooManyBytesError(
                f"{caller} has {held} bytes of requests in hand, and may have {self.max_bytes}", RETRY_SECONDS
            )
        self._bytes[caller] = held + size

    def subtract(self, caller: str, calls: int, size: int) -> None:
        """Count calls and bytes no more; a caller with nothing left is forgotten."""
        for counts, less in ((self._calls, calls), (self._bytes, size)):
            left = counts.get(caller, 0) - less
            if left:
                counts[caller] = left
            else:
                counts.pop(caller, None)


class Hold:
    """The bytes that one call holds."""

    __slots__ = ("_caller", "_peers", "_sizes")

    def __init__(self, peers: Peers, caller: str) -> None:
        self._peers = peers
        self._caller = caller
        self._sizes: deque[int] = deque()

    def take(self, size: int) -> None:
        """Count a message. A stream holds its last IN_FLIGHT messages: it answers in order, and reads no faster.

        Raises:
            OverloadedError: too many bytes.
        """
        if len(self._sizes) == IN_FLIGHT:
            self._peers.subtract(self._caller, 0, self._sizes.popleft())
        self._peers.add(self._caller, size)
        self._sizes.append(size)

    def end(self) -> None:
        """The call has ended."""
        self._peers.subtract(self._caller, 1, sum(self._sizes))
