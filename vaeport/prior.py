"""Draws from the prior that depend only on (seed, row).

Row r of a seed uses its own counters of numpy's Philox4x64-10 generator (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011), keyed by the seed. The Box-Muller transform, which takes a fixed number of bits and rejects
none, turns them into normals. So a row is the same in every batch, piece, process or client.
docs/sampling.md states the recipe for other languages, with test vectors.
"""

import math
import operator
import secrets
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from vaeport.arrays import check_rows
from vaeport.errors import InvalidInputError

SEED_LIMIT = 2**64
MAX_TEMPERATURE = 1e6  # no prior is that wide; and no latent overflows, since no normal here exceeds 9 (53 bits)
WORDS_PER_BLOCK = 4  # a Philox4x64 counter yields four 64-bit words


@dataclass(frozen=True, slots=True)
class Draw:
    """What to draw from the prior, checked; the same checks in the server, in the client and in-process.

    Attributes:
        count: rows, at least 1.
        seed: 0 <= seed < 2^64.
        first_row: index of the first row; the rows are among the 2^64 that a seed has.
        temperature: standard deviation, 0 to MAX_TEMPERATURE.
    """

    count: int
    seed: int
    first_row: int
    temperature: np.float32

    @classmethod
    def of(cls, count: int, seed: SupportsIndex | None, first_row: int, temperature: float = 1.0) -> "Draw":
        """Check the numbers; a seed of None is drawn.

        Raises:
            InvalidInputError: a number is outside its range, or is not a number.
        """
        seed = secrets.randbelow(SEED_LIMIT) if seed is None else as_integer("seed", seed)
        count, first_row = as_integer("count", count), as_integer("first_row", first_row)
        check_rows("count", count)
        if not 0 <= seed < SEED_LIMIT:
            raise InvalidInputError.of("seed", expected="0 <= seed < 2^64", got=seed)
        if not 0 <= first_row <= SEED_LIMIT - count:
            raise InvalidInputError.of("first_row", expected=f"0 <= first_row <= 2^64 - {count}", got=first_row)
        try:
            single = np.array(temperature, np.float64).item()
        except (TypeError, ValueError, OverflowError):
            single = math.nan
        if not 0.0 <= single <= MAX_TEMPERATURE:  # false for NaN
            raise InvalidInputError.of("temperature", expected=f"0 to {MAX_TEMPERATURE:g}", got=temperature)
        return cls(count, seed, first_row, np.float32(single))

    def latents(self, latent_dim: int) -> NDArray[np.float32]:
        """The rows, scaled: float32 [count, latent_dim]."""
        blocks = -(-latent_dim // WORDS_PER_BLOCK)
        generator = np.random.Philox(key=self.seed, counter=self.first_row * blocks)
        words = generator.random_raw(self.count * blocks * WORDS_PER_BLOCK).reshape(self.count, -1)
        return _box_muller(words)[:, :latent_dim].astype(np.float32) * self.temperature


def standard_normal(seed: int, first_row: int, rows: int, latent_dim: int) -> NDArray[np.float32]:
    """Rows `first_row` to `first_row + rows` of the seed's standard normals.

    Args:
        seed: 0 <= seed < 2^64.
        first_row: index of the first row, not negative.
        rows: number of rows; first_row + rows <= 2^64.
        latent_dim: normals per row.

    Returns:
        float32 [rows, latent_dim].

    Raises:
        InvalidInputError: a number outside its range.
    """
    return Draw.of(rows, seed, first_row).latents(latent_dim)


def _box_muller(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Pairs of 64-bit words to pairs of standard normals, [rows, even] to the same shape."""
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53  # [0, 1), 53 bits
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, 0::2]))  # 1 - u is in (0, 1]: the logarithm is finite
    angle = 2.0 * np.pi * uniform[:, 1::2]
    normals = np.empty_like(uniform)
    normals[:, 0::2] = radius * np.cos(angle)
    normals[:, 1::2] = radius * np.sin(angle)
    return normals


def as_integer(field: str, value: SupportsIndex) -> int:
    """A Python integer from any kind of integer, numpy's included.

    Raises:
        InvalidInputError: it is not an integer.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidInputError.of(field, expected="an integer", got=repr(value)) from None
