"""Rows that wait: what is counted, whose come next, and how many come first."""

import asyncio
import math

import pytest

from serving.batching.delivery import Request
from serving.batching.queue import Limits, Queue
from tests.serving.batching.toys import rows


@pytest.fixture
def queue() -> Queue:
    """Batches of 16 rows; up to 2 rows are a small request."""
    return Queue(Limits(max_batch_rows=16, max_queue_rows=100, max_queue_bytes=1000))


async def add(queue: Queue, count: int, deadline: float = math.inf) -> Request:
    request = Request(rows(*range(count)), count, 0.0, deadline, asyncio.get_running_loop().create_future())
    queue.add(request)
    return request


def sizes(queue: Queue) -> tuple[list[int], int]:
    """Rows of each piece of the next batch, and how many requests left. It begins at 0, and a row takes 1 s."""
    pieces, late = queue.take(0.0, float)
    return [piece.stop - piece.start for piece in pieces], len(late)


async def test_a_batch_is_filled_from_both_lanes_half_each(queue: Queue) -> None:
    for count in (100, *[1] * 20):
        await add(queue, count)
    assert sizes(queue) == ([1] * 8 + [8], 0)
    assert (queue.rows, queue.bytes) == (104, 800 + 12 * 8)


async def test_what_one_lane_does_not_need_the_other_has(queue: Queue) -> None:
    await add(queue, 50)
    await add(queue, 1)
    assert sizes(queue) == ([1, 15], 0)
    for _ in range(20):
        await add(queue, 1)
    assert [sizes(queue)[0] for _ in range(4)] == [[1] * 8 + [8], [1] * 8 + [8], [1] * 4 + [12], [7]]
    assert queue.rows == 0


async def test_whoever_is_late_leaves_and_its_room_goes_to_others(queue: Queue) -> None:
    late = [await add(queue, count, deadline=2.9) for count in (1, 12)]
    await add(queue, 14)
    await add(queue, 2)
    assert sizes(queue) == ([2, 14], 2)
    assert (queue.rows, queue.bytes) == (0, 0)
    assert not any(request.done.done() for request in late)  # which is the batcher's to do


async def test_a_request_that_is_in_time_but_its_rest_is_not_leaves_too(queue: Queue) -> None:
    await add(queue, 20, deadline=19.9)  # 16 rows now, 4 rows after that
    assert sizes(queue) == ([], 1)
    await add(queue, 20, deadline=20.0)
    assert sizes(queue) == ([16], 0)


async def test_a_batch_has_as_many_large_rows_as_its_earliest_deadline_allows(queue: Queue) -> None:
    await add(queue, 50)
    await add(queue, 1, deadline=5.0)
    assert sizes(queue) == ([1, 3], 0)  # with a tenth to spare
    await add(queue, 1, deadline=1.0)
    assert sizes(queue) == ([1], 0)
    assert sizes(queue) == ([16], 0)


async def test_a_large_request_in_a_hurry_is_not_made_late_by_those_behind_it(queue: Queue) -> None:
    await add(queue, 4, deadline=8.0)
    await add(queue, 12)
    assert sizes(queue) == ([4, 3], 0)
    assert sizes(queue) == ([9], 0)


async def test_what_deadlines_take_from_large_requests_is_owed_to_them(queue: Queue) -> None:
    await add(queue, 100)
    for _ in range(2):
        await add(queue, 1, deadline=1.2)
        assert sizes(queue) == ([1], 0)
    await add(queue, 1, deadline=1.2)
    assert queue.rows_until(1) == 16  # so who comes now is told
    assert sizes(queue) == ([16], 1)
    await add(queue, 1, deadline=1.2)
    assert sizes(queue) == ([1], 0)


@pytest.mark.parametrize(
    ("waiting", "new", "expected"),
    [
        ([], 1, 1),
        ([], 50, 50),
        ([1, 1], 1, 3),
        ([10], 1, 1),  # they share a batch
        ([50], 1, 1),  # which has no more of the large one, if need be
        ([50, *[1] * 10], 1, 19),  # 11 small rows take two, of which the first has 8 large ones
        ([1] * 10, 50, 60),
        ([1] * 40, 10, 32),
        ([50], 30, 80),
    ],
)
async def test_rows_until_a_request_is_computed(queue: Queue, waiting: list[int], new: int, expected: int) -> None:
    for count in waiting:
        await add(queue, count)
    assert queue.rows_until(new) == expected


async def test_a_removed_request_takes_its_bytes_along_once(queue: Queue) -> None:
    first, second = await add(queue, 20), await add(queue, 1)
    assert sizes(queue)[0] == [1, 15]
    queue.remove(first)
    queue.remove(first)
    queue.remove(second)
    assert (queue.rows, queue.bytes, queue.waiting()) == (0, 0, [])


async def test_batches_that_shrink_leave_everybody_who_waits_in_place(queue: Queue) -> None:
    for count in (2, 9, 1, 2):
        await add(queue, count)
    queue.limit_batches(1)  # less than what is a small request
    assert [sizes(queue)[0] for _ in range(14)] == [[1]] * 14
    assert (queue.rows, queue.bytes) == (0, 0)
    assert queue.rows_until(5) == 5
