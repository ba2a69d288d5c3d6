"""Calls of many parts take turns: in order, in time or not at all, and nobody leaves anything behind."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from serving.batching import Gate, Refusal
from tests.serving.batching.toys import Clock, settle
from vaeport.errors import DeadlineExceededError, OverloadedError

SIZE = 8


class Toy:
    """A gate of parts of 4 rows, each of which takes the graph a second by its own account, and who came through."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.refusals: list[Refusal] = []
        self.gate = Gate(
            lambda rows: rows / 4,
            part_rows=4,
            max_rows=100,
            max_bytes=10 * SIZE,
            refused=self.refusals.append,
            clock=self.clock,
        )
        self.order: list[str] = []
        self.computed: dict[str, Callable[[int], None]] = {}
        self.ends: dict[str, asyncio.Event] = {}

    async def call(self, name: str, rows: int, seconds: float | None = None, before: float = 0.0) -> None:
        self.ends[name] = asyncio.Event()
        deadline = None if seconds is None else self.clock.now + seconds
        async with self.gate.turn(rows, SIZE, deadline, before) as self.computed[name]:
            self.order.append(name)
            await self.ends[name].wait()

    async def start(self, name: str, rows: int, seconds: float | None = None) -> "asyncio.Task[None]":
        call = asyncio.create_task(self.call(name, rows, seconds))
        await settle()
        return call

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settle()


@pytest.fixture
async def toy() -> AsyncIterator[Toy]:
    made = Toy()
    yield made
    assert (made.gate.rows, made.gate.bytes) == (0, 0)
    assert made.clock.timers == []


async def test_turns_come_in_order_one_at_a_time(toy: Toy) -> None:
    calls = [await toy.start(name, 8) for name in "abc"]
    assert (toy.order, toy.gate.rows, toy.gate.bytes) == (["a"], 24, 3 * SIZE)
    toy.computed["a"](4)
    assert toy.gate.rows == 20
    for number, name in enumerate("abc"):
        assert toy.order == list("abc")[: number + 1]
        await toy.end(name)
    await asyncio.gather(*calls)


async def test_who_is_cancelled_leaves_at_once_wherever_he_is(toy: Toy) -> None:
    calls = [await toy.start(name, 8) for name in "abcd"]
    calls[2].cancel()
    await settle()
    assert (toy.order, toy.gate.rows) == (["a"], 24)
    calls[0].cancel()
    await settle()
    assert (toy.order, toy.gate.rows) == (["a", "b"], 16)
    toy.ends["b"].set()
    await asyncio.sleep(0)  # the turn of d comes, and he leaves before he has woken up
    calls[3].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (toy.order[:2], toy.gate.rows) == (["a", "b"], 0)
    last = await toy.start("e", 8)
    assert toy.order[-1] == "e"
    await toy.end("e")
    await last


async def test_a_deadline_that_cannot_be_met_is_refused_on_arrival(toy: Toy) -> None:
    first = await toy.start("a", 40, seconds=10.0)  # alone, one may try
    with pytest.raises(DeadlineExceededError, match=r"in 12\.9 s; .* after 40 that are promised .* would take 12 s"):
        await toy.call("b", 8, seconds=12.9)
    with pytest.raises(DeadlineExceededError):
        await toy.call("b", 8, seconds=13.5, before=1.0)
    toy.computed["a"](20)
    second = await toy.start("b", 8, seconds=7.6)
    assert toy.refusals == [Refusal.DEADLINE_ON_ARRIVAL] * 2
    await toy.end("a")
    await toy.end("b")
    await asyncio.gather(first, second)


async def test_a_deadline_at_the_gate_is_answered_when_it_cannot_be_met_any_more(toy: Toy) -> None:
    first = await toy.start("a", 4)
    late, patient = await toy.start("b", 8, seconds=4.0), await toy.start("c", 8)
    toy.clock.advance(1.9)
    await settle()
    assert not late.done()
    toy.clock.advance(0.2)
    await settle()
    with pytest.raises(DeadlineExceededError, match="before 8 rows had their turn"):
        await late
    assert (toy.refusals, toy.gate.rows) == ([Refusal.DEADLINE_IN_QUEUE], 12)
    await toy.end("a")
    await toy.end("c")
    await asyncio.gather(first, patient)
    assert toy.order == ["a", "c"]


async def test_too_much_work_or_too_many_bytes_are_refused_at_once(toy: Toy) -> None:
    first = await toy.start("a", 200)  # alone, it may
    with pytest.raises(OverloadedError, match=r"200 rows are promised .* 4 more would exceed 100") as refused:
        await toy.call("b", 4, seconds=0.0)
    assert refused.value.retry_after == 50.0
    await toy.end("a")
    await first
    calls = [await toy.start(str(number), 8) for number in range(10)]
    with pytest.raises(OverloadedError, match="hold 80 bytes, and 8 more would exceed 80"):
        await toy.call("b", 4)
    assert toy.refusals == [Refusal.QUEUE_ROWS, Refusal.QUEUE_BYTES]
    for number in range(10):
        await toy.end(str(number))
    await asyncio.gather(*calls)


async def test_parts_that_take_longer_than_the_graph_says_are_believed_until_long_after(toy: Toy) -> None:
    first = await toy.start("a", 12)
    for _ in range(3):
        toy.clock.advance(3.0)
        toy.computed["a"](4)
    await toy.end("a")
    await first
    with pytest.raises(DeadlineExceededError, match="would take 6 s"):
        await toy.call("b", 8, seconds=5.0)
    toy.clock.advance(61.0)
    again = await toy.start("b", 8, seconds=5.0)
    await toy.end("b")
    await again
