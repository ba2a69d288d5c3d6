"""From images as they lie in memory or in a file to batches on the device."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from training.data import Dataset, Images, binarize

GATHERED_BATCHES = 64  # at most
GATHERED_BYTES = 2**26  # of them together, as they came
EVALUATION_ROWS = 1000  # images times latents each, at most
# Of them together: a thousand images of 32x32, or 16 of 256x256, whose convolutions take 32 MB.
EVALUATION_PIXELS = 2**20
EVALUATION_SEED = 2026  # the same noise every time, so that epochs differ by the model alone


def shuffled(images: Images, pixels: Tensor | None, order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The images in the given order, as they came: [batch, C, H, W].

    Gathered many batches at a time: slices of what was gathered lie together in memory, which saves 3 % of an epoch.

    Args:
        images: all of them.
        pixels: the same, resident on the device; None if they are not resident, but read from a file.
        order: [N] indices.
        batch_size: images per batch; the last has what is left.
    """
    if not len(order):  # the epoch has been taken and not judged; `split` would make a batch of nothing
        return
    batches = max(1, min(GATHERED_BATCHES, GATHERED_BYTES // (batch_size * images.pixels[:1].nbytes)))
    for block in order.split(batches * batch_size):  # type: ignore[no-untyped-call]
        gathered = torch.from_numpy(images.rows(block.numpy())) if pixels is None else pixels[block.to(pixels.device)]
        yield from gathered.split(batch_size)  # type: ignore[no-untyped-call]


def ordered(images: Images, dataset: Dataset, device: torch.device, samples: int = 1) -> Iterator[Tensor]:
    """The images in order, as the model takes them: float32 [batch, C, H, W] in [0, 1], the same at every call.

    Args:
        images: a part of the data set.
        dataset: says how pixels become numbers; "dynamic" binarisation is drawn with a seed of its own.
        device: to bring them to.
        samples: latents that each image will have; batches are smaller by as much.
    """
    noise = torch.Generator(device).manual_seed(EVALUATION_SEED)
    size = max(1, evaluation_rows(images.pixels[:1].size) // samples)
    for start in range(0, len(images), size):
        pixels = images.rows(np.arange(start, min(start + size, len(images))))
        yield prepared(torch.from_numpy(pixels).to(device), dataset, noise)


def evaluation_rows(pixels: int) -> int:
    """How many images of so many pixels (all channels) to take at a time where no gradient is wanted."""
    return max(1, min(EVALUATION_ROWS, EVALUATION_PIXELS // pixels))


def prepared(pixels: Tensor, dataset: Dataset, noise: torch.Generator) -> Tensor:
    """Pixels as they came -> float32 in [0, 1], binarised as the data set says."""
    x = pixels.to(torch.float32).div_(dataset.scale)
    return binarize(x, dataset.preprocessing.binarization, noise)
