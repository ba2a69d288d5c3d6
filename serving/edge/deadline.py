"""The deadline of a call, from the wire's clock to the loop's."""

import asyncio
from typing import Protocol

LONGEST_SECONDS = 365 * 24 * 3600.0  # clients that want no deadline send one of centuries, which no clock can hold


class Context(Protocol):
    """The part of a grpc.aio.ServicerContext that is used here."""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""


def deadline_of(context: Context) -> float | None:
    """When the caller stops waiting, in seconds on the running loop's clock; None if there is no deadline."""
    remaining = context.time_remaining()
    if remaining is None or remaining > LONGEST_SECONDS:
        return None
    return asyncio.get_running_loop().time() + remaining


def within(seconds: float | None, deadline: float | None) -> float | None:
    """The earlier of a deadline and `seconds` from now; None means no limit."""
    if seconds is None or seconds > LONGEST_SECONDS:
        return deadline
    own = asyncio.get_running_loop().time() + seconds
    return own if deadline is None else min(own, deadline)
