"""What each call means: arrays in, arrays out, domain errors. Every edge calls this; it knows no transport.

A `deadline` is in seconds on the running loop's clock, None is none; it holds for all stages of a call together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.batching import Batched
from serving.models import ServedModel
from vaeport.arrays import as_images, as_latents, check_rows
from vaeport.errors import InvalidInputError, NotFoundError
from vaeport.prior import Draw, standard_normal
from vaeport.results import ModelInfo

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went; see Batched."""

    queue_seconds: float
    compute_seconds: float
    batch_rows: int

    @classmethod
    def of(cls, *stages: Batched) -> "Timings":
        """The sum over the stages of a request, with the rows of the largest batch."""
        return cls(
            sum(stage.queue_seconds for stage in stages),
            sum(stage.compute_seconds for stage in stages),
            max(stage.batch_rows for stage in stages),
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


class Core:
    """The calls.

    Args:
        models: what is served, at least one.
        max_request_rows: rows in one request, at most.
        default_model: the model that an empty name means; "" leaves it to there being only one.
    """

    def __init__(self, models: Sequence[ServedModel], *, max_request_rows: int, default_model: str = "") -> None:
        self._models = {model.info.name: model for model in models}
        self.default_model = default_model or (models[0].info.name if len(models) == 1 else "")
        self.max_request_rows = max_request_rows
        if default_model:
            self._find(default_model, "")  # a default that is not there must not wait for its first caller

    def info(self, model: str, version: str) -> tuple[ModelInfo, ...]:
        """All models, or the one that is named.

        Raises:
            NotFoundError: there is no such model or version.
        """
        if not model and not version:
            return tuple(served.info for served in self._models.values())
        return (self._find(model, version).info,)

    async def encode(
        self,
        model: str,
        version: str,
        images: NDArray[np.generic],
        seed: int | None = None,
        first_row: int = 0,
        deadline: float | None = None,
    ) -> Encoded:
        """The posterior of each image, and with a seed a draw from it.

        Raises:
            NotFoundError, InvalidInputError, and what Batcher.submit raises.
        """
        served = self._find(model, version)
        rows = as_images(images, served.info.image_shape)
        self._check_count("images", len(rows))
        noise = None if seed is None else standard_normal(seed, first_row, len(rows), served.info.latent_dim)
        batched = await served.encoder.submit(rows, deadline)
        mean, log_var = batched.outputs
        latents = None if noise is None else mean + np.exp(0.5 * log_var) * noise
        return Encoded(served.info, mean, log_var, latents, Timings.of(batched))

    async def decode(
        self, model: str, version: str, latents: NDArray[np.generic], deadline: float | None = None
    ) -> Decoded:
        """The image of each latent.

        Raises:
            NotFoundError, InvalidInputError, and what Batcher.submit raises.
        """
        served = self._find(model, version)
        rows = as_latents(latents, served.info.latent_dim)
        self._check_count("latents", len(rows))
        batched = await served.decoder.submit(rows, deadline)
        return Decoded(served.info, batched.outputs[0], Timings.of(batched))

    async def sample(
        self,
        model: str,
        version: str,
        count: int,
        *,
        seed: int | None,
        first_row: int,
        temperature: float,
        deadline: float | None = None,
    ) -> Sampled:
        """Images from the prior; see vaeport.prior for what a seed means.

        Raises:
            NotFoundError, InvalidInputError, and what Batcher.submit raises.
        """
        served = self._find(model, version)
        self._check_count("count", count)
        draw = Draw.of(count, seed, first_row, temperature)
        latents = draw.latents(served.info.latent_dim)
        batched = await served.decoder.submit(latents, deadline)
        return Sampled(served.info, batched.outputs[0], latents, draw.seed, Timings.of(batched))

    async def reconstruct(
        self, model: str, version: str, images: NDArray[np.generic], deadline: float | None = None
    ) -> Decoded:
        """Decode the posterior mean of each image.

        Raises:
            NotFoundError, InvalidInputError, and what Batcher.submit raises.
        """
        served = self._find(model, version)
        rows = as_images(images, served.info.image_shape)
        self._check_count("images", len(rows))
        encoded = await served.encoder.submit(rows, deadline)
        decoded = await served.decoder.submit(encoded.outputs[0], deadline)
        return Decoded(served.info, decoded.outputs[0], Timings.of(encoded, decoded))

    async def close(self) -> None:
        """End all queues; whoever still waits gets UnavailableError."""
        for model in self._models.values():
            await model.encoder.close()
            await model.decoder.close()

    def _find(self, name: str, version: str) -> ServedModel:
        name = name or self.default_model
        if not name:
            raise InvalidInputError.of("model", expected=f"one of {self._names()}", got="no name")
        served = self._models.get(name)
        if served is None:
            raise NotFoundError(f"model: no model {name!r} here; there is {self._names()}")
        if version not in ("", served.info.version):
            raise NotFoundError(
                f"version: no version {version!r} of model {name!r} here; there is {served.info.version}"
            )
        return served

    def _names(self) -> str:
        return ", ".join(self._models)

    def _check_count(self, field: str, rows: int) -> None:
        check_rows(field, rows)
        if rows > self.max_request_rows:
            raise InvalidInputError.of(field, expected=f"at most {self.max_request_rows} rows", got=f"{rows} rows")
