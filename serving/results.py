"""What the core answers: arrays, with the version that computed them and the seconds that it took."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.batching import Batched
from serving.graphs import ServedGraph
from vaeport.results import ModelInfo, Scores

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went; see Batched."""

    queue_seconds: float
    compute_seconds: float
    batch_rows: int

    @classmethod
    def of(cls, stage: Batched) -> "Timings":
        """The timings of one stage, without its outputs."""
        return cls(stage.queue_seconds, stage.compute_seconds, stage.batch_rows)

    def __add__(self, other: "Timings") -> "Timings":
        """The sum over the stages of a request, with the rows of the largest batch."""
        return Timings(
            self.queue_seconds + other.queue_seconds,
            self.compute_seconds + other.compute_seconds,
            max(self.batch_rows, other.batch_rows),
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """Posteriors, each [rows, latent_dim]; `latents` are draws from them, if a seed was given."""

    model: ModelInfo
    mean: Floats
    log_var: Floats
    latents: Floats | None
    timings: Timings


@dataclass(frozen=True, slots=True)
class Decoded:
    """Images [rows, C, H, W] in [0, 1]."""

    model: ModelInfo
    images: Floats
    timings: Timings


@dataclass(frozen=True, slots=True)
class Sampled:
    """Images [rows, C, H, W] from the prior, the latents they were decoded from, and the seed of these."""

    model: ModelInfo
    images: Floats
    latents: Floats
    seed: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class Scored:
    """How well the model explains some images."""

    model: ModelInfo
    scores: Scores
    timings: Timings


@dataclass(frozen=True, slots=True)
class Inferred:
    """What one graph made of some rows: `outputs` as its spec lists them."""

    graph: ServedGraph
    outputs: tuple[Floats, ...]
    timings: Timings
