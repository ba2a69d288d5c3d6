"""The model on a server: `vaeport.Client`, with the methods, results and errors of `vaeport.load`."""

import math
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport import scoring
from vaeport.arrays import as_images, as_latents
from vaeport.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    ServerError,
    UnavailableError,
    VaeportError,
)
from vaeport.prior import Draw
from vaeport.results import Encoding, ModelInfo, Scores, ServerInfo
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import PUSHBACK_KEY, from_tensor, to_tensor

DEFAULT_TIMEOUT_SECONDS = 30.0
LOOPBACK = ("localhost:", "127.", "[::1]:")

ERROR_OF: dict[grpc.StatusCode, type[VaeportError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,  # by whoever closed the connection
    grpc.StatusCode.INTERNAL: InternalError,
}

Response = TypeVar("Response")


class Client:
    """A connection to a vaeport server. Safe to use from several threads; close it, or use it in a `with` block.

    Args:
        address: "host:port".
        model: the name of the model; "" is the server's default, or its only one.
        version: a decimal string; "" is the newest, or the one that is pinned.
        timeout: seconds until a request raises DeadlineExceededError. A call with a large array makes several requests.

    Raises:
        InvalidInputError: a timeout that is not positive and finite.

    Every method that asks the server raises a ServerError when it does not succeed there.
    """

    def __init__(
        self, address: str, *, model: str = "", version: str = "", timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        if not 0 < timeout < math.inf:
            raise InvalidInputError.of("timeout", expected="a positive number of seconds", got=timeout)
        self.address = address
        self._model = model
        self._version = version
        self._timeout = timeout
        options = [
            ("grpc.max_receive_message_length", -1),  # responses are as large as the rows that were asked for
            ("grpc.enable_http_proxy", int(not address.startswith(LOOPBACK))),  # no proxy reaches this machine's own
        ]
        self._channel = grpc.insecure_channel(address, options=options)
        self._stub = vae_pb2_grpc.VaeServiceStub(self._channel)
        self._closed = False
        self._cached: tuple[ModelInfo, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running and later calls end with UnavailableError. Closing twice is fine."""
        self._closed = True
        self._channel.close()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self._model_info().image_shape

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions."""
        return self._model_info().latent_dim

    def info(self) -> ServerInfo:
        """Everything the server offers; with a model named, that one alone.

        Raises:
            NotFoundError: no such model or version.
        """
        response = self._call(self._stub.Info, vae_pb2.InfoRequest(**self._target()))
        models = tuple(
            ModelInfo(
                name=model.name,
                version=model.version,
                image_shape=(model.image_shape[0], model.image_shape[1], model.image_shape[2]),
                latent_dim=model.latent_dim,
                likelihood=model.likelihood,
                digest=model.digest,
                providers=tuple(model.providers),
            )
            for model in response.models
        )
        return ServerInfo(models, response.limits.max_request_rows, response.server_version, response.default_model)

    def encode(self, images: ArrayLike) -> Encoding:
        """The posterior of each image.

        Args:
            images: [N, H, W], [N, C, H, W] or one image; uint8 (value / 255) or float in [0, 1].

        Raises:
            InvalidInputError: another shape or dtype, or values outside the range.
        """
        checked = as_images(images, self.image_shape)
        responses = [
            self._call(self._stub.Encode, vae_pb2.EncodeRequest(**self._target(), images=to_tensor(checked[piece])))
            for piece in self._pieces(len(checked))
        ]
        mean = [_floats("mean", response.mean) for response in responses]
        log_var = [_floats("log_var", response.log_var) for response in responses]
        return Encoding(_join(mean), _join(log_var), responses[-1].version)

    def decode(self, latents: ArrayLike) -> NDArray[np.float32]:
        """The image of each latent: float32 [N, C, H, W] in [0, 1].

        Args:
            latents: float [N, latent_dim] or one latent.

        Raises:
            InvalidInputError: another shape or dtype, or a value that is not finite.
        """
        checked = as_latents(latents, self.latent_dim)
        return self._images(
            self._call(self._stub.Decode, vae_pb2.DecodeRequest(**self._target(), latents=to_tensor(checked[piece])))
            for piece in self._pieces(len(checked))
        )

    def sample(
        self, count: int, *, seed: int | None = None, temperature: float = 1.0, first_row: int = 0
    ) -> NDArray[np.float32]:
        """Images from the prior: float32 [count, C, H, W] in [0, 1].

        Args:
            count: at least 1.
            seed: 0 <= seed < 2^64; None draws one. Image i depends on the seed and first_row + i alone.
            temperature: standard deviation of the prior that is drawn from.
            first_row: the row of the first image.

        Raises:
            InvalidInputError: a number outside its range.
        """
        draw = Draw.of(count, seed, first_row, temperature)
        return self._images(
            self._call(
                self._stub.Sample,
                vae_pb2.SampleRequest(
                    **self._target(),
                    count=piece.stop - piece.start,
                    seed=draw.seed,
                    first_row=draw.first_row + piece.start,
                    temperature=float(draw.temperature),
                ),
            )
            for piece in self._pieces(draw.count)
        )

    def reconstruct(self, images: ArrayLike) -> NDArray[np.float32]:
        """decode(encode(images).mean): float32 [N, C, H, W] in [0, 1]. Takes and raises what `encode` does."""
        checked = as_images(images, self.image_shape)
        return self._images(
            self._call(
                self._stub.Reconstruct, vae_pb2.ReconstructRequest(**self._target(), images=to_tensor(checked[piece]))
            )
            for piece in self._pieces(len(checked))
        )

    def score(
        self, images: ArrayLike, *, importance_samples: int = 1, seed: int | None = None, first_row: int = 0
    ) -> Scores:
        """How well the model explains each image, in nats.

        Args:
            images: as in `encode`.
            importance_samples: draws of z for each image, 1 to 65,536; times latent_dim, at most 4,194,304.
            seed: 0 <= seed < 2^64; None draws one. Image i depends on the seed and first_row + i alone.
            first_row: the row of the first image.

        Raises:
            InvalidInputError: what `encode` raises, or a number outside its range.
        """
        checked = as_images(images, self.image_shape)
        sampling = scoring.Sampling.of(importance_samples, seed, first_row, len(checked))
        return scoring.join(
            [
                self._score(checked[piece], sampling.starting(piece.start))
                for piece in self._pieces(len(checked), sampling.images_at_once(self.latent_dim))
            ]
        )

    def _score(self, images: NDArray[Any], sampling: scoring.Sampling) -> Scores:
        request = vae_pb2.ScoreRequest(
            **self._target(),
            images=to_tensor(images),
            importance_samples=sampling.samples,
            seed=sampling.seed,
            first_row=sampling.first_row,
        )
        response = self._call(self._stub.Score, request)
        known = response.HasField("percentile")
        return Scores(
            reconstruction=_floats("reconstruction", response.reconstruction),
            kl=_floats("kl", response.kl),
            elbo=_floats("elbo", response.elbo),
            log_likelihood=_floats("log_likelihood", response.log_likelihood),
            percentile=_floats("percentile", response.percentile) if known else None,
            setting=response.setting,
            seed=response.seed,
            version=response.version,
        )

    def _model_info(self) -> ModelInfo:
        return self._described()[0]

    def _described(self) -> tuple[ModelInfo, int]:
        """The model that requests go to, and the rows that one of them may have; asked for once."""
        if self._cached is None:
            info = self.info()
            name = self._model or info.default_model
            if not name:
                names = ", ".join(model.name for model in info.models)
                raise InvalidInputError.of("model", expected=f"one of {names}", got="no name")
            self._cached = next(model for model in info.models if model.name == name), info.max_request_rows
        return self._cached

    def _pieces(self, rows: int, most: int | None = None) -> Iterator[slice]:
        limit = min(self._described()[1], most or rows)
        for start in range(0, rows, limit):
            yield slice(start, min(start + limit, rows))

    def _target(self) -> dict[str, Any]:
        return {"model": self._model, "version": self._version}

    def _images(self, responses: Iterator[Any]) -> NDArray[np.float32]:
        return _join([_floats("images", response.images) for response in responses])

    def _call(self, method: Callable[..., Response], request: object) -> Response:
        if self._closed:
            raise UnavailableError(f"{self.address}: the client is closed")
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise error_of(error, self.address) from error


def error_of(error: grpc.RpcError, address: str) -> VaeportError:
    """The one translator: what a failed call means to the caller."""
    call = cast("grpc.Call", error)  # a finished call raises itself
    code, text = call.code(), call.details() or ""
    kind = ERROR_OF.get(code, ServerError)
    if kind is OverloadedError:
        hints = {key: value for key, value in call.trailing_metadata() or () if key == PUSHBACK_KEY}
        return OverloadedError(text, int(hints[PUSHBACK_KEY]) / 1000 if hints else None)
    if kind is ServerError:
        return ServerError(f"{address}: {code.name}: {text}")
    if kind in (UnavailableError, DeadlineExceededError):
        return kind(f"{address}: {text}")
    return kind(text)


def _floats(field: str, tensor: vae_pb2.Tensor) -> NDArray[np.float32]:
    return from_tensor(field, tensor).astype(np.float32)  # a copy of our own: the message's bytes are read-only


def _join(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
