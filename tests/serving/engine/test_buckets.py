"""Batch sizes, padding and cutting, as functions of numbers and arrays."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.buckets import bucket_of, bucket_sizes, cut, fill


@pytest.mark.parametrize(
    ("max_rows", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (8, (1, 2, 4, 8)),
        (9, (1, 2, 4, 8, 9)),
        (100, (1, 2, 4, 8, 16, 32, 64, 100)),
    ],
)
def test_sizes_are_powers_of_two_and_the_largest(max_rows: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(max_rows) == sizes


@pytest.mark.parametrize("max_rows", [1, 5, 64, 100])
def test_the_bucket_of_a_batch_is_the_smallest_that_holds_it(max_rows: int) -> None:
    sizes = bucket_sizes(max_rows)
    for rows in range(1, max_rows + 1):
        bucket = bucket_of(rows, sizes)
        assert bucket in sizes
        assert rows <= bucket < 2 * rows
        assert not any(rows <= size < bucket for size in sizes)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 30))
def test_cutting_loses_and_moves_no_row(lengths: list[int], rows: int) -> None:
    starts = np.cumsum([0, *lengths])
    pieces = [np.arange(start, stop) for start, stop in itertools.pairwise(starts)]
    parts = [np.concatenate(part) for part in cut(pieces, rows)]
    assert np.array_equal(np.concatenate(parts), np.arange(sum(lengths)))
    assert [len(part) for part in parts[:-1]] == [rows] * (len(parts) - 1)
    assert 1 <= len(parts[-1]) <= rows


def test_cutting_copies_nothing() -> None:
    piece = np.arange(5)
    assert all(np.shares_memory(part, piece) for parts in cut([piece], 2) for part in parts)


def test_a_batch_of_floats_takes_bytes_as_fractions_and_is_padded_with_zeros() -> None:
    room = np.full((5, 2), 9, np.float32)
    assert fill(room, [np.array([[0, 255]], np.uint8), np.array([[0.5, 1], [0.25, 0]], np.float32)]) == 3
    assert room.tolist() == [[0, 1], [0.5, 1], [0.25, 0], [0, 0], [0, 0]]


def test_a_batch_of_bytes_stays_bytes_and_takes_nothing_else() -> None:
    room = np.full((3, 1), 9, np.uint8)
    assert fill(room, [np.array([[7], [255]], np.uint8)]) == 2
    assert room.tolist() == [[7], [255], [0]]
    with pytest.raises(TypeError):
        fill(room, [np.ones((1, 1), np.float32)])
