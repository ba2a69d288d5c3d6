"""Rows from which int8 learns the range of its activations: what the graphs of a run see in earnest."""

import math

import numpy as np
import torch

from export.inputs import SEED, Rows
from training.batches import ordered
from training.data import Dataset
from training.model import VAE

IMAGES = 512  # at most
PIXELS = 2**25  # of them together: 512 of 256x256, 42 of 512x512 in colour


def calibration_rows(dataset: Dataset, model: VAE) -> dict[str, Rows]:
    """For the encoder training images as it sees them; for the decoder draws from their posteriors and from the prior.

    Args:
        dataset: of the run.
        model: with the run's weights.

    Returns:
        By role, float32 [rows, ...].
    """
    count = min(IMAGES, max(1, PIXELS // math.prod(dataset.image_shape)), len(dataset.train))
    chosen = np.sort(np.random.default_rng(SEED).choice(len(dataset.train), count, replace=False))
    noise = torch.Generator().manual_seed(SEED)
    batches = list(ordered(dataset.train.take(chosen), dataset, torch.device("cpu")))
    with torch.inference_mode():
        mean, log_var = (torch.cat(part) for part in zip(*map(model.encode, batches), strict=True))
        epsilon = torch.randn(2, *mean.shape, generator=noise)
        latents = torch.cat([mean + torch.exp(0.5 * log_var) * epsilon[0], epsilon[1]])
    return {"encoder": torch.cat(batches).numpy(), "decoder": latents.numpy()}
