"""A toy model for the core and the edge: its encoder and decoder are arithmetic, so that a swapped row would show."""

from collections.abc import Sequence

import numpy as np

from serving.batching import Batcher, Limits, Turn
from serving.batching.batcher import Compute
from serving.batching.delivery import Rows
from serving.engine.engine import assemble
from serving.models import ServedModel
from vaeport.results import ModelInfo
from vaeport.scoring import ScoringSpec

IMAGE_SHAPE = (1, 2, 3)
LATENT_DIM = 2


async def encode(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
    """mean = (first pixel, last pixel); log_var = their negatives."""
    images = assemble(pieces).reshape(-1, 6)
    mean = images[:, [0, 5]]
    return mean, -mean


async def decode(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
    """Every pixel is the logistic function of the sum of the latents."""
    logits = np.concatenate(pieces).sum(1)[:, None, None, None].repeat(2, 2).repeat(3, 3)
    return 1 / (1 + np.exp(-logits)), logits


def toy_model(
    name: str = "toy",
    version: int = 3,
    max_queue_rows: int = 4096,
    encode: Compute = encode,
    decode: Compute = decode,
) -> ServedModel:
    """A served model with running queues; needs a running loop."""
    info = ModelInfo(name, str(version), IMAGE_SHAPE, LATENT_DIM, "bernoulli", "sha256:0", ("Toy",))
    limits, turn = Limits(max_batch_rows=4, max_queue_rows=max_queue_rows, max_queue_bytes=10**6), Turn()
    encoder, decoder = (Batcher(compute, limits, turn=turn) for compute in (encode, decode))
    scoring = ScoringSpec("bernoulli", None, "none", {"min": -9.0, "0.5": -5.0, "max": -1.0}, str(version))
    return ServedModel(info, scoring, encoder, decoder)
