"""Grey pixels as probabilities of a 1: drawn for each use, drawn once, or cut at a half.

The threshold makes another, easier data set than the draws: the numbers of the two are not comparable.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import ConfigError
from training.data.images import Images, Source

THRESHOLD = 0.5


def binarize(x: Tensor, binarization: str, generator: torch.Generator | None) -> Tensor:
    """Images of float32 in [0, 1] as the network is to see them now, of the same shape.

    "threshold" gives 1 above a half and else 0; "dynamic" gives 1 with the pixel as its probability, drawn from
    `generator`, which must be on the device of `x`; "none" and "static", whose draw `load` has made, give `x` itself.
    """
    if binarization == "threshold":
        return (x > THRESHOLD).to(x.dtype)
    if binarization == "dynamic":
        return (torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator) < x).to(x.dtype)
    return x


def check(name: str, source: Source, binarization: str) -> None:
    """Raise ConfigError if these data cannot be binarised so, or if it would have no effect."""
    if source.binary and binarization in ("dynamic", "threshold"):
        raise ConfigError(
            f"--binarization {binarization}: the pixels of {name} are 0 and 1 already, it would have no effect; "
            "leave it out"
        )
    if binarization == "static" and not all(part.resident for part in source.parts):
        raise ConfigError(
            f"--binarization static: {name} is too large for the memory, where the draw is kept; "
            "dynamic draws each time an image is used"
        )


def draw(parts: tuple[Images, ...], scale: float, seed: int) -> tuple[Images, ...]:
    """Each pixel of each part in turn as 0 or 1, uint8, 1 with probability pixel / scale.

    The stream is Philox's, not that of `numpy.random.default_rng`, which has shuffled the same images by this seed.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    return tuple(Images(_draw(part, scale, generator), part.labels) for part in parts)


def _draw(images: Images, scale: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    drawn = np.empty(images.pixels.shape, np.uint8)
    start = 0
    for chunk in images.chunks():
        end = start + len(chunk)
        drawn[start:end] = generator.random(chunk.shape, np.float32) < chunk / np.float32(scale)
        start = end
    return drawn
