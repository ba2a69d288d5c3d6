"""A row of the prior depends on the seed and its index alone, and is the same on every machine and for ever."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vaeport.errors import InvalidInputError
from vaeport.prior import Draw, standard_normal

ROWS = 40


@given(
    seed=st.integers(0, 2**64 - 1),
    first_row=st.integers(0, 2**64 - ROWS),
    latent_dim=st.integers(1, 9),
    start=st.integers(0, ROWS - 1),
    count=st.integers(1, ROWS),
)
def test_any_piece_of_the_rows_equals_the_rows_of_the_whole(
    seed: int, first_row: int, latent_dim: int, start: int, count: int
) -> None:
    whole = standard_normal(seed, first_row, ROWS, latent_dim)
    stop = min(start + count, ROWS)
    assert np.array_equal(standard_normal(seed, first_row + start, stop - start, latent_dim), whole[start:stop])


# The vectors of docs/sampling.md. A change here is a change of every seeded sample that anyone has kept.
VECTORS = {
    (7, 0, 3): [-0.5702505, 1.9461275, -0.8648583],
    (7, 1, 3): [-0.13685097, -0.39271408, -0.60916084],
    (2**64 - 1, 2**64 - 1, 3): [2.0293813, 0.43074495, 0.237206],
}


@pytest.mark.parametrize(("where", "expected"), VECTORS.items())
def test_the_documented_vectors(where: tuple[int, int, int], expected: list[float]) -> None:
    seed, row, latent_dim = where
    assert standard_normal(seed, row, 1, latent_dim)[0] == pytest.approx(expected, rel=1e-6)


def test_the_recipe_of_the_docs_from_the_words_of_the_generator() -> None:
    seed, row, latent_dim = 3, 11, 6
    words = np.random.Philox(key=seed, counter=2 * row).random_raw(8)  # 6 latents need 2 blocks of 4 words
    u = [int(word >> np.uint64(11)) / 2**53 for word in words]
    normals = []
    for first, second in zip(u[0::2], u[1::2], strict=True):
        radius = np.sqrt(-2 * np.log(1 - first))
        normals += [radius * np.cos(2 * np.pi * second), radius * np.sin(2 * np.pi * second)]
    assert standard_normal(seed, row, 1, latent_dim)[0] == pytest.approx(normals[:latent_dim], rel=1e-6)


def test_the_values_are_standard_normal_and_independent() -> None:
    values = standard_normal(1, 0, 20_000, 5)
    for column in values.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(values.T) - np.eye(5)).max() < 0.03
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.03


def test_different_seeds_and_rows_differ() -> None:
    drawn = [standard_normal(seed, row, 1, 4).tobytes() for seed in range(20) for row in range(20)]
    assert len(set(drawn)) == 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count: expected at least 1 row, got 0 rows"),
        ({"count": 1.5}, "count: expected an integer, got 1.5"),
        ({"seed": -1}, r"seed: expected 0 <= seed < 2\^64, got -1"),
        ({"seed": 2**64}, "seed: "),
        ({"seed": 1.5}, "seed: expected an integer"),
        ({"first_row": -1}, "first_row: "),
        ({"first_row": 2**64 - 1}, r"first_row: expected 0 <= first_row <= 2\^64 - 2"),
        ({"first_row": "0"}, "first_row: expected an integer"),
        *(
            ({"temperature": bad}, "temperature: expected 0 to 1e\\+06")
            for bad in (-0.1, math.nan, math.inf, 3e38, 10**400)
        ),
        ({"temperature": None}, "temperature: "),
    ],
)
def test_numbers_outside_their_range_are_refused(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"count": 2, "seed": 0, "first_row": 0, "temperature": 1.0}
    Draw.of(**good)
    with pytest.raises(InvalidInputError, match=message):
        Draw.of(**{**good, **changes})


def test_numpy_s_integers_are_integers() -> None:
    numbers = (np.uint64(2**64 - 1), np.int64(2**62), np.int32(2))
    assert np.array_equal(standard_normal(*numbers, 5), standard_normal(2**64 - 1, 2**62, 2, 5))  # type: ignore[arg-type]


def test_the_hottest_latents_are_finite() -> None:
    assert np.isfinite(Draw.of(1000, 1, 0, 1e6).latents(20)).all()
