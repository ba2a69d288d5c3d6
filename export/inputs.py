"""What the graphs are compared on: real rows, random ones, corners of the range, and the worst that a search finds."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
AnyRows = NDArray[Any]  # as a graph takes them: float32 or uint8

SEED = 0
RANDOM_ROWS = 257
EXTREME = 10.0  # of a latent: the prior goes beyond it once in 10^22 draws
FAR = (1e2, 1e3)  # of a latent: nobody draws it, and a caller may send it
FAR_ROWS, FAR_SPREAD = 32, 30.0  # random ones, so many times as wide as the prior
DENORMAL = np.float32(1e-40)
SEARCH_STEPS, SEARCH_ROWS, SEARCH_KEPT = 24, 64, 8  # steps, not seconds: the same run gives the same bytes
SEARCH_ELEMENTS = 1 << 17  # in a step, of images; 64 rows of 64x64 in colour would take minutes


def random_images(shape: tuple[int, ...], seed: int = SEED) -> Rows:
    """Uniform in [0, 1]."""
    return np.random.default_rng(seed).random((RANDOM_ROWS, *shape), np.float32)


def random_latents(shape: tuple[int, ...], seed: int = SEED) -> Rows:
    """From the prior."""
    return np.random.default_rng(seed).standard_normal((RANDOM_ROWS, *shape), np.float32)


def corner_images(shape: tuple[int, ...]) -> Rows:
    """Black, white, a checkerboard and its inverse, one pixel in the middle and in the corner, all but denormal."""
    rows = np.zeros((7, *shape), np.float32)
    rows[1] = 1.0
    rows[2] = np.indices(shape).sum(0) % 2
    rows[3] = 1.0 - rows[2]
    rows[4][tuple(length // 2 for length in shape)] = 1.0
    rows[5][(0,) * len(shape)] = 1.0
    rows[6] = DENORMAL
    return rows


def corner_latents(shape: tuple[int, ...]) -> Rows:
    """The prior's mean, and EXTREME in all dimensions, in one after the other, and with random signs."""
    (latent_dim,) = shape
    axes = np.eye(latent_dim, dtype=np.float32)
    signs = np.random.default_rng(SEED).choice(np.array([-1, 1], np.float32), (8, latent_dim))
    ones = np.ones((1, latent_dim), np.float32)
    return np.concatenate(
        [0 * ones, np.float32(EXTREME) * np.concatenate([ones, -ones, axes, -axes, signs]), DENORMAL * ones]
    )


def far_latents(shape: tuple[int, ...], seed: int = SEED) -> Rows:
    """Far beyond the prior: FAR in all dimensions and with random signs, and random rows FAR_SPREAD times as wide."""
    (latent_dim,) = shape
    random = np.random.default_rng(seed)
    ones = np.ones((1, latent_dim), np.float32)
    signs = random.choice(np.array([-1, 1], np.float32), (2, latent_dim))
    wide = np.float32(FAR_SPREAD) * random.standard_normal((FAR_ROWS, latent_dim), np.float32)
    return np.concatenate([*(np.float32(far) * np.concatenate([ones, -ones, signs]) for far in FAR), wide])


def inputs_for(role: str, shape: tuple[int, ...], real: Rows | None, seed: int = SEED) -> dict[str, Rows]:
    """Rows [rows, *shape] by the name of their kind.

    Args:
        role: "encoder" or "decoder".
        shape: of a row.
        real: held-out images or their posterior means; None where there are none.
        seed: of the random ones.
    """
    named = {} if real is None else {"real": real}
    if role == "encoder":
        return {**named, "random": random_images(shape, seed), "corner": corner_images(shape)}
    latents = {"random": random_latents(shape, seed), "extreme": corner_latents(shape), "far": far_latents(shape, seed)}
    return {**named, **latents}


def search_rows(elements: int) -> int:
    """The rows that a step of the search tries, for images of `elements` elements."""
    return max(SEARCH_KEPT, min(SEARCH_ROWS, SEARCH_ELEMENTS // elements))


def search(
    start: Rows, badness: Callable[[Rows], NDArray[np.float64]], low: float, high: float, tried: int = SEARCH_ROWS
) -> Rows:
    """The worst rows that random changes lead to: each step changes the best so far, and keeps what is worse.

    Args:
        start: rows to start from.
        badness: of each row, to be maximised.
        low, high: the range of a value.
        tried: rows that a step makes.

    Returns:
        SEARCH_KEPT rows, the worst first.
    """
    random = np.random.default_rng(SEED)
    rows, scores = start, badness(start)
    for step in range(SEARCH_STEPS):
        order = np.argsort(-scores, kind="stable")[:SEARCH_KEPT]
        rows, scores = rows[order], scores[order]
        parents = np.resize(rows, (tried, *rows.shape[1:]))
        noise = random.standard_normal(parents.shape, np.float32) * (high - low) * 0.5 ** (1 + step / 4)
        chosen = random.random(parents.shape) < random.choice([0.02, 0.2, 1.0], (tried, *[1] * (rows.ndim - 1)))
        changed = np.clip(parents + noise.astype(np.float32) * chosen, low, high).astype(np.float32)
        rows, scores = np.concatenate([rows, changed]), np.concatenate([scores, badness(changed)])
    return rows[np.argsort(-scores, kind="stable")[:SEARCH_KEPT]]


def batches_of(rows: int, sizes: Iterable[int]) -> dict[int, NDArray[np.intp]]:
    """For each batch size the rows that are in it: the first ones, again from the start if there are too few."""
    return {size: np.fromiter(itertools.islice(itertools.cycle(range(rows)), size), np.intp) for size in sizes}
