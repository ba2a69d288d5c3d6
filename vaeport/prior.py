"""Draws from the prior that depend on (seed, row) alone.

Row r of a seed is made of its own counters of numpy's Philox4x64-10 generator (Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3", SC 2011), keyed by the seed, turned into normals by the Box-Muller transform, which takes a fixed
number of bits and rejects none. So a row is the same in whatever batch, piece, process or client it is drawn.
docs/sampling.md states the recipe for other languages, with test vectors.
"""

import numpy as np
from numpy.typing import NDArray

from vaeport.errors import InvalidInputError

SEED_LIMIT = 2**64
WORDS_PER_BLOCK = 4  # a Philox4x64 counter yields four 64-bit words


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
    check_draw(seed, first_row, rows)
    blocks = -(-latent_dim // WORDS_PER_BLOCK)
    generator = np.random.Philox(key=seed, counter=first_row * blocks)
    words = generator.random_raw(rows * blocks * WORDS_PER_BLOCK).reshape(rows, blocks * WORDS_PER_BLOCK)
    return _box_muller(words)[:, :latent_dim].astype(np.float32)


def check_draw(seed: int, first_row: int, rows: int) -> None:
    """Raise InvalidInputError unless 0 <= seed < 2^64 and the rows are among the 2^64 that a seed has."""
    if not 0 <= seed < SEED_LIMIT:
        raise InvalidInputError.of("seed", expected="0 <= seed < 2^64", got=seed)
    if not 0 <= first_row <= SEED_LIMIT - rows:
        raise InvalidInputError.of("first_row", expected=f"0 <= first_row <= 2^64 - {rows}", got=first_row)


def _box_muller(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Pairs of 64-bit words to pairs of standard normals, in place of each other; [rows, even] to the same shape."""
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53  # [0, 1), 53 bits
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:, 0::2]))  # 1 - u is in (0, 1]: the logarithm is finite
    angle = 2.0 * np.pi * uniform[:, 1::2]
    normals = np.empty_like(uniform)
    normals[:, 0::2] = radius * np.cos(angle)
    normals[:, 1::2] = radius * np.sin(angle)
    return normals
