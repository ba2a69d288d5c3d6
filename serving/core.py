"""What each call means: arrays in, arrays out, domain errors. Every edge calls this; it knows no transport.

A `deadline` is in seconds on the running loop's clock, or None for no deadline; it holds for all stages of a call
together.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.batching import Batched, Gate
from serving.graphs import ServedGraph, graphs_of
from serving.models import ServedModel
from serving.results import Decoded, Encoded, Floats, Inferred, Sampled, Scored, Timings
from vaeport import scoring
from vaeport.arrays import as_images, as_latents, check_rows, to_float
from vaeport.errors import DeadlineExceededError, InvalidInputError, NotFoundError, OverloadedError
from vaeport.prior import Draw, standard_normal
from vaeport.results import ModelInfo, Scores

STREAM_CHUNK_ROWS = 256  # for a stream that asks for no size: 0.8 MB of float32 images of 28x28
SHORTEST_WAIT_SECONDS = 0.01  # before a full queue is tried again
MAX_PROMISED_LATENTS = 16 * scoring.MAX_LATENTS  # for a model's scores of many parts: about a minute of one core
FLOAT_BYTES = 4

Result = TypeVar("Result")


class Core:
    """The calls.

    Args:
        models: what is served, at least one.
        max_request_rows: the most rows in one request.
        default_model: the model that an empty name means; with "", an empty name means the only model.
        on_scores: called with the scores of each call.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        max_request_rows: int,
        default_model: str = "",
        on_scores: Callable[[ModelInfo, Scores], None] | None = None,
    ) -> None:
        self._models = {model.info.name: model for model in models}
        self._graphs = {graph.name: graph for model in models for graph in graphs_of(model)}
        self.default_model = default_model or (models[0].info.name if len(models) == 1 else "")
        self.max_request_rows = max_request_rows
        self._gates = {model.info.name: self._gate(model) for model in models}
        self._on_scores = on_scores
        if default_model:
            self._find(default_model, "")  # a missing default must be found now, not by its first caller

    def info(self, model: str, version: str) -> tuple[ModelInfo, ...]:
        """All models, or only the named one.

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
        return Decoded(served.info, _images("latents", batched), Timings.of(batched))

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
        return await _sample(served, Draw.of(count, seed, first_row, temperature), deadline)

    async def sample_stream(
        self,
        model: str,
        version: str,
        count: int,
        *,
        chunk_rows: int,
        seed: int | None,
        first_row: int,
        temperature: float,
        deadline: float | None = None,
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[tuple[int, Sampled], None]:
        """Images from the prior, any number: chunks in row order, each with its first row.

        At most one chunk is computed ahead of the one that is being read. Chunks after the first wait for a full queue.

        Args:
            model, version, count, seed, first_row, temperature, deadline: as in `sample`.
            chunk_rows: the most rows of a chunk; 0 leaves it to the server.
            ready: awaited before each chunk after the first one is computed.

        Raises:
            NotFoundError, InvalidInputError, and what Batcher.submit raises.
        """
        served = self._find(model, version)
        whole = Draw.of(count, seed, first_row, temperature)
        rows = min(chunk_rows or STREAM_CHUNK_ROWS, self.max_request_rows)
        first_row = whole.first_row
        draws = (
            replace(whole, first_row=whole.first_row + start, count=min(rows, count - start))
            for start in range(0, count, rows)
        )
        calls = (partial(_sample, served, draw, deadline) for draw in draws)
        patient = (
            partial(_patiently, partial(_when, ready, call), deadline) if number else call
            for number, call in enumerate(calls)
        )
        async with contextlib.aclosing(_one_ahead(patient)) as chunks:
            async for sampled in chunks:
                yield first_row, sampled
                first_row += len(sampled.images)

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
        self._check_latents(served, len(rows), len(rows), deadline)
        encoded = await served.encoder.submit(rows, deadline)
        decoded = await served.decoder.submit(encoded.outputs[0], deadline)
        return Decoded(served.info, _images("images", decoded), Timings.of(encoded) + Timings.of(decoded))

    async def score(
        self,
        model: str,
        version: str,
        images: NDArray[np.generic],
        *,
        importance_samples: int,
        seed: int | None,
        first_row: int,
        deadline: float | None = None,
    ) -> Scored:
        """How well the model explains each image; see vaeport.scoring.

        The decoder computes its latents in parts, one ahead of the one that is being read. Scores of several parts take
        turns; one that has been admitted waits for full queues.

        Raises:
            NotFoundError, InvalidInputError, and what Batcher.submit and Gate.turn raise.
        """
        served = self._find(model, version)
        rows = as_images(images, served.info.image_shape)
        self._check_count("images", len(rows))
        sampling = scoring.Sampling.of(importance_samples, seed, first_row, len(rows))
        sampling.check_request(len(rows), served.info.latent_dim)
        latents = len(rows) * sampling.samples
        if latents <= self.max_request_rows:
            self._check_latents(served, len(rows), latents, deadline)
            encoded = await served.encoder.submit(rows, deadline)
            scored = await self._score(served, rows, encoded, sampling, deadline)
        else:
            gate, encoding = self._gates[served.info.name], served.encoder.predict(len(rows))
            async with gate.turn(latents, rows.nbytes, deadline, encoding) as computed:
                encoded = await _patiently(partial(served.encoder.submit, rows, deadline), deadline)
                scored = await self._score(served, rows, encoded, sampling, deadline, computed)
        if self._on_scores is not None:
            self._on_scores(served.info, scored.scores)
        return scored

    async def _score(
        self,
        served: ServedModel,
        images: NDArray[np.uint8] | NDArray[np.float32],
        encoded: Batched,
        sampling: scoring.Sampling,
        deadline: float | None,
        computed: Callable[[int], None] = lambda _: None,
    ) -> Scored:
        """Draw from the posteriors, and decode in parts; `computed` is told of the rows of each."""
        mean, log_var = encoded.outputs
        draws = await asyncio.to_thread(scoring.draw, mean, log_var, sampling)
        floats, densities, timings = to_float(images), [], Timings.of(encoded)
        starts = range(0, len(draws.latents), self.max_request_rows)
        latents = (draws.latents[start : start + self.max_request_rows] for start in starts)
        calls = (partial(served.decoder.submit, part, deadline) for part in latents)
        if len(starts) > 1:
            calls = (partial(_patiently, call, deadline) for call in calls)
        async with contextlib.aclosing(_one_ahead(calls)) as parts:
            start = 0
            async for decoded in parts:
                parameters, timings = decoded.outputs[1], timings + Timings.of(decoded)
                del decoded  # the images of all latents together would be hundreds of MB
                density = partial(scoring.log_densities, served.scoring, floats, start, draws.samples)
                densities.append(await asyncio.to_thread(density, parameters))
                start += len(parameters)
                computed(len(parameters))
                del parameters
        return Scored(served.info, scoring.scores(served.scoring, floats, draws, densities), timings)

    def graphs(self) -> tuple[ServedGraph, ...]:
        """All graphs, an encoder and a decoder for each model."""
        return tuple(self._graphs.values())

    def graph(self, name: str, version: str) -> ServedGraph:
        """One graph by its own name; an empty version means the one that is served.

        Raises:
            NotFoundError: there is no such graph or version.
        """
        graph = self._graphs.get(name)
        if graph is None:
            raise NotFoundError(f"model: no model {name!r} here; there is {', '.join(self._graphs)}")
        if version not in ("", graph.info.version):
            there = graph.info.version
            raise NotFoundError(f"version: no version {version!r} of model {name!r} here; there is {there}")
        return graph

    async def infer(self, graph: ServedGraph, rows: NDArray[np.generic], deadline: float | None = None) -> Inferred:
        """A graph's outputs for its input, computed in the same batches as the rows of all other calls.

        Raises:
            InvalidInputError, and what Batcher.submit raises.
        """
        self._check_count(graph.spec.input.name, len(rows))
        batched = await graph.batcher.submit(graph.spec.check(rows), deadline)
        return Inferred(graph, batched.outputs, Timings.of(batched))

    async def close(self) -> None:
        """End all queues; requests that still wait get UnavailableError."""
        for model in self._models.values():
            await model.encoder.close()
            await model.decoder.close()

    def _gate(self, model: ServedModel) -> Gate:
        decoder = model.decoder
        return Gate(
            decoder.seconds,
            part_rows=self.max_request_rows,
            max_rows=MAX_PROMISED_LATENTS,
            max_bytes=decoder.max_queue_bytes,
            refused=decoder.refused,
        )

    def _check_latents(self, served: ServedModel, images: int, latents: int, deadline: float | None) -> None:
        """Refuse, before images are encoded, what the decoder would refuse once it has their latents."""
        size = FLOAT_BYTES * served.info.latent_dim * latents
        served.decoder.check(latents, size, deadline, served.encoder.predict(images))

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


async def _sample(served: ServedModel, draw: Draw, deadline: float | None) -> Sampled:
    latents = draw.latents(served.info.latent_dim)
    batched = await served.decoder.submit(latents, deadline)
    return Sampled(served.info, _images("temperature", batched), latents, draw.seed, Timings.of(batched))


def _images(field: str, decoded: Batched) -> Floats:
    """The decoder's images. It overflows for latents that are finite but huge, which no image could show.

    Raises:
        InvalidInputError: an image has a pixel that is not a number, because of the input `field`.
    """
    images = decoded.outputs[0]
    finite = np.isfinite(images)  # under 1 ms for 1,024 images of 28x28, 2 us for one
    if not finite.all():
        row = int(np.argmin(finite.reshape(len(images), -1).all(1)))
        raise InvalidInputError.of(field, expected="values that the decoder can compute", got=f"NaN in image {row}")
    return images


async def _one_ahead(calls: Iterator[Callable[[], Coroutine[Any, Any, Result]]]) -> AsyncGenerator[Result, None]:
    """The results of calls, in order, each computed while the one before it is being used."""
    ahead = asyncio.create_task(next(calls)())
    try:
        for call in calls:
            done = await ahead
            ahead = asyncio.create_task(call())
            yield done
            del done
        yield await ahead
    finally:
        ahead.cancel()


async def _when(ready: Callable[[], Awaitable[None]] | None, call: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    if ready is not None:
        await ready()
    return await call()


async def _patiently(submit: Callable[[], Coroutine[Any, Any, Result]], deadline: float | None) -> Result:
    """Retry while the queue is full, until the deadline: for the parts of a call that has been admitted."""
    while True:
        try:
            return await submit()
        except OverloadedError as error:
            wait = max(SHORTEST_WAIT_SECONDS, error.retry_after or 0.0)
            if deadline is not None:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    raise DeadlineExceededError("the deadline passed while the queue was full") from error
                wait = min(wait, left)
            await asyncio.sleep(wait)
