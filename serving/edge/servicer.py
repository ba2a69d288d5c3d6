"""vaeport.v1.VaeService: convert, call the core, convert."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from serving.core import Core
from serving.edge.deadline import Context, deadline_of
from serving.edge.large_messages import LARGE_BYTES, Written, is_large, on_thread
from serving.edge.streams import within_limits
from serving.edge.unread import UnreadAnswers
from serving.results import Timings
from vaeport._version import __version__
from vaeport.arrays import to_uint8
from vaeport.errors import InvalidInputError
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import dtype_name, from_tensor, to_model_info, to_tensor, write

IMAGE_DTYPES = (vae_pb2.DTYPE_UNSPECIFIED, vae_pb2.DTYPE_FLOAT32, vae_pb2.DTYPE_UINT8)

Response = TypeVar(
    "Response",
    vae_pb2.DecodeResponse,
    vae_pb2.SampleResponse,
    vae_pb2.SampleStreamResponse,
    vae_pb2.ReconstructResponse,
)


class VaeServicer(vae_pb2_grpc.VaeServiceServicer):
    """The typed service.

    Args:
        core: computes.
        limits: of a request.
        answers: on their way; streams make no more of them than there is room for.
    """

    def __init__(self, core: Core, limits: vae_pb2.Limits, answers: UnreadAnswers) -> None:
        self._core = core
        self._limits = limits
        self._answers = answers

    async def Info(self, request: vae_pb2.InfoRequest, context: object) -> vae_pb2.InfoResponse:
        models = self._core.info(request.model, request.version)
        return vae_pb2.InfoResponse(
            models=[to_model_info(model) for model in models],
            limits=self._limits,
            server_version=__version__,
            default_model=self._core.default_model,
        )

    async def Encode(self, request: vae_pb2.EncodeRequest, context: Context) -> vae_pb2.EncodeResponse:
        return vae_pb2.EncodeResponse(**await self._encode(request, deadline_of(context)))

    async def Decode(self, request: vae_pb2.DecodeRequest, context: Context) -> vae_pb2.DecodeResponse:
        deadline = deadline_of(context)
        _check_image_dtype(request.dtype)
        latents = await _array("latents", request.latents)
        decoded = await self._core.decode(request.model, request.version, latents, deadline)
        response = vae_pb2.DecodeResponse(
            model=decoded.model.name, version=decoded.model.version, timings=_timings(decoded.timings)
        )
        return await _with_images(response, decoded.images, request.dtype)

    async def Sample(self, request: vae_pb2.SampleRequest, context: Context) -> vae_pb2.SampleResponse:
        deadline = deadline_of(context)
        _check_image_dtype(request.dtype)
        sampled = await self._core.sample(
            request.model,
            request.version,
            request.count,
            seed=_seed(request),
            first_row=request.first_row,
            temperature=request.temperature if request.HasField("temperature") else 1.0,
            deadline=deadline,
        )
        response = vae_pb2.SampleResponse(
            model=sampled.model.name,
            version=sampled.model.version,
            latents=to_tensor(sampled.latents) if request.return_latents else None,
            seed=sampled.seed,
            timings=_timings(sampled.timings),
        )
        return await _with_images(response, sampled.images, request.dtype)

    async def Reconstruct(self, request: vae_pb2.ReconstructRequest, context: Context) -> vae_pb2.ReconstructResponse:
        deadline = deadline_of(context)
        _check_image_dtype(request.dtype)
        images = await _array("images", request.images)
        decoded = await self._core.reconstruct(request.model, request.version, images, deadline)
        response = vae_pb2.ReconstructResponse(
            model=decoded.model.name, version=decoded.model.version, timings=_timings(decoded.timings)
        )
        return await _with_images(response, decoded.images, request.dtype)

    async def SampleStream(
        self, request: vae_pb2.SampleStreamRequest, context: Context
    ) -> AsyncGenerator[vae_pb2.SampleStreamResponse, None]:
        deadline = deadline_of(context)
        _check_image_dtype(request.dtype)
        chunks = self._core.sample_stream(
            request.model,
            request.version,
            request.count,
            chunk_rows=request.chunk_rows,
            seed=_seed(request),
            first_row=request.first_row,
            temperature=request.temperature if request.HasField("temperature") else 1.0,
            deadline=deadline,
            ready=partial(self._answers.room, context),
        )
        async with contextlib.aclosing(chunks):  # if the caller leaves, the chunk that is being computed is cancelled
            async for first_row, sampled in chunks:
                response = vae_pb2.SampleStreamResponse(
                    model=sampled.model.name,
                    version=sampled.model.version,
                    latents=to_tensor(sampled.latents) if request.return_latents else None,
                    seed=sampled.seed,
                    first_row=first_row,
                    timings=_timings(sampled.timings),
                )
                response = await _with_images(response, sampled.images, request.dtype)
                with self._answers.held(context, sampled.images.nbytes):  # the next chunk, which is computed meanwhile
                    yield response

    async def Score(self, request: vae_pb2.ScoreRequest, context: Context) -> vae_pb2.ScoreResponse:
        deadline = deadline_of(context)
        scored = await self._core.score(
            request.model,
            request.version,
            await _array("images", request.images),
            importance_samples=request.importance_samples or 1,
            seed=_seed(request),
            first_row=request.first_row,
            deadline=deadline,
        )
        scores = scored.scores
        return vae_pb2.ScoreResponse(
            model=scored.model.name,
            version=scored.model.version,
            reconstruction=to_tensor(scores.reconstruction),
            kl=to_tensor(scores.kl),
            elbo=to_tensor(scores.elbo),
            log_likelihood=to_tensor(scores.log_likelihood),
            percentile=None if scores.percentile is None else to_tensor(scores.percentile),
            setting=scores.setting,
            seed=scores.seed,
            timings=_timings(scored.timings),
        )

    async def EncodeStream(
        self, requests: AsyncIterator[vae_pb2.EncodeStreamRequest], context: Context
    ) -> AsyncGenerator[vae_pb2.EncodeStreamResponse, None]:
        async def answer(request: vae_pb2.EncodeStreamRequest) -> vae_pb2.EncodeStreamResponse:
            return vae_pb2.EncodeStreamResponse(**await self._encode(request, deadline_of(context)))

        async with contextlib.aclosing(within_limits(requests, answer, self._answers, context)) as answers:
            async for one in answers:
                yield one

    async def _encode(
        self, request: vae_pb2.EncodeRequest | vae_pb2.EncodeStreamRequest, deadline: float | None
    ) -> dict[str, Any]:
        """The fields of the response, the same for a single call and for a stream."""
        images = await _array("images", request.images)
        encoded = await self._core.encode(
            request.model, request.version, images, _seed(request), request.first_row, deadline
        )
        return {
            "model": encoded.model.name,
            "version": encoded.model.version,
            "mean": to_tensor(encoded.mean),
            "log_var": to_tensor(encoded.log_var),
            "latents": None if encoded.latents is None else to_tensor(encoded.latents),
            "timings": _timings(encoded.timings),
        }


def _seed(request: Any) -> int | None:
    return request.seed if request.HasField("seed") else None


def _check_image_dtype(dtype: "vae_pb2.DType.ValueType") -> None:
    """Raise InvalidInputError for another dtype, before the work and not after it."""
    if dtype not in IMAGE_DTYPES:
        raise InvalidInputError.of("dtype", expected="DTYPE_FLOAT32 or DTYPE_UINT8", got=dtype_name(dtype))


async def _array(field: str, tensor: vae_pb2.Tensor) -> NDArray[np.generic]:
    """As `from_tensor`."""
    if is_large(tensor.shape):
        return await on_thread(from_tensor, field, tensor)
    return from_tensor(field, tensor)


async def _with_images(response: Response, images: NDArray[np.float32], dtype: int) -> Response:
    """The response with its images. A large response is serialised already."""
    if images.nbytes >= LARGE_BYTES:
        return cast("Response", await on_thread(_written, response, images, dtype))
    response.images.CopyFrom(to_tensor(_pixels(images, dtype)))
    return response


def _written(response: Response, images: NDArray[np.float32], dtype: int) -> Written:
    return Written(write(response, {"images": _pixels(images, dtype)}))


def _pixels(images: NDArray[np.float32], dtype: int) -> NDArray[np.float32] | NDArray[np.uint8]:
    return to_uint8(images) if dtype == vae_pb2.DTYPE_UINT8 else images


def _timings(timings: Timings) -> vae_pb2.Timings:
    return vae_pb2.Timings(
        queue_seconds=timings.queue_seconds, compute_seconds=timings.compute_seconds, batch_rows=timings.batch_rows
    )
