"""Large messages are read and written on a thread, so that no other call waits for that.

The thread holds the interpreter for one copy at a time: 1,024 colour images of 64x64 are 50 MB, some 40 ms a copy.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, ParamSpec, TypeVar

from vaeport.wire import MAX_AXES

LARGE_BYTES = 256 * 1024  # take a fifth of a millisecond: less than a thread needs to get the interpreter back

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Written:
    """An answer that has been serialised already; the guard takes it in place of a message."""

    data: bytes


async def on_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a pure function on the thread; if the caller is cancelled, the result is dropped."""
    future = _thread().submit(function, *args, **kwargs)
    return await asyncio.wrap_future(future)


def is_large(shape: Sequence[int]) -> bool:
    """Whether a received tensor is large, by the shape that it claims. Its reader checks what it really holds."""
    return len(shape) <= MAX_AXES and prod(shape) >= LARGE_BYTES


def size_of(answer: Any) -> int:
    """Bytes of an answer: a message, or one that has been written out."""
    return len(answer.data) if type(answer) is Written else int(answer.ByteSize())


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="large messages")
