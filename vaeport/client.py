"""The model on a server: `vaeport.Client`, with the methods, results and errors of `vaeport.load`."""

import itertools
import math
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport import addresses, messages
from vaeport.channel import credentials_of, options_of
from vaeport.credentials import TLS, check_token
from vaeport.errors import InvalidInputError, ServerError, UnavailableError
from vaeport.messages import Served
from vaeport.prior import Draw
from vaeport.results import Encoding, Scores, ServerInfo
from vaeport.retries import DEFAULT_CONNECT_TIMEOUT_SECONDS, DEFAULT_RETRIES, Retries
from vaeport.statuses import error_of
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import REQUEST_ID_KEY

DEFAULT_TIMEOUT_SECONDS = 30.0
ROUNDS = 3  # of a call that one version of a model has to answer, all of it

Response = TypeVar("Response")


class Client:
    """A connection to a vaeport server. Safe to use from several threads; close it, or use it in a `with` block.

    A request that finds nobody, is cut off or refused by a server that starts or stops, or meets a full queue, is sent
    again within its timeout; see vaeport.retries. That is safe: the same request gives the same answer.

    Args:
        address: "host:port", "unix:PATH", "dns:///name:port", or a list of "host:port". With the last two, calls go to
            all the addresses in turn; see vaeport.addresses.
        model: the name of the model; "" is the server's default, or its only one.
        version: a decimal string; "" is the newest, or the one that is pinned.
        timeout: seconds until a request raises DeadlineExceededError, all its attempts together. A call with a large
            array makes several requests.
        connect_timeout: seconds until the first request raises UnavailableError if nobody is at the address; at most
            half of `timeout`. Once a server has answered, a connection that is lost has almost `timeout` to come back.
        retries: attempts after the first one, at most; 0 switches them off.
        tls: True, or a TLS that names files: encrypted; the server's certificate is checked.
        token: for a server that demands one. Without TLS it goes to this machine alone.
        allow_plaintext_token: send it without TLS all the same, for everyone on the way to read.

    Raises:
        InvalidInputError: an argument that is not as described above, or a file of `tls` that is not what it should be.
        OSError: a file of `tls` cannot be read.

    Every method that asks the server raises a ServerError when it does not succeed there.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str = "",
        version: str = "",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT_SECONDS,
        retries: int = DEFAULT_RETRIES,
        tls: bool | TLS = False,
        token: str = "",
        allow_plaintext_token: bool = False,
    ) -> None:
        for name, seconds in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not 0 < seconds < math.inf:
                raise InvalidInputError.of(name, expected="a positive number of seconds", got=seconds)
        target = addresses.parse(address)
        encryption = TLS() if tls is True else tls or None
        check_token(token, target, encryption, plain=allow_plaintext_token)
        self.address = target.label
        self._model = model
        self._version = version
        self._timeout = timeout
        self._retries = Retries(retries, connect_timeout)
        self._authorization = (("authorization", f"Bearer {token}"),) if token else ()
        self._name, self._numbers = secrets.token_hex(6), itertools.count(1)  # the two halves of request ids
        options = options_of(target, encryption, connect_timeout)
        if encryption is None:
            self._channel = grpc.insecure_channel(target.uri, options)
        else:
            self._channel = grpc.secure_channel(target.uri, credentials_of(encryption), options)
        self._stub = vae_pb2_grpc.VaeServiceStub(self._channel)
        self._closed = threading.Event()
        self._known: Served | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running and later calls end with UnavailableError. Closing twice is fine."""
        self._closed.set()
        self._channel.close()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width), as far as this client knows; `info` asks again."""
        return self._served().model.image_shape

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions, as far as this client knows; `info` asks again."""
        return self._served().model.latent_dim

    def info(self) -> ServerInfo:
        """Everything the server offers; with a model named, that one alone.

        Raises:
            NotFoundError: no such model or version.
        """
        request = vae_pb2.InfoRequest(model=self._model, version=self._version)
        info = messages.info_of(self._call(self._stub.Info, request))
        self._known = messages.served_of(info, self._model, self._version)
        return info

    def encode(self, images: ArrayLike) -> Encoding:
        """The posterior of each image.

        Args:
            images: [N, H, W], [N, C, H, W] or one image; uint8 (value / 255) or float in [0, 1].

        Raises:
            InvalidInputError: another shape or dtype, or values outside the range.
        """
        return messages.encoding_of(
            self._ask(self._stub.Encode, lambda served: messages.encode_requests(served, images))
        )

    def decode(self, latents: ArrayLike) -> NDArray[np.float32]:
        """The image of each latent: float32 [N, C, H, W] in [0, 1].

        Args:
            latents: float [N, latent_dim] or one latent.

        Raises:
            InvalidInputError: another shape or dtype, or a value that is not finite.
        """
        return messages.images_of(
            self._ask(self._stub.Decode, lambda served: messages.decode_requests(served, latents))
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
        return messages.images_of(self._ask(self._stub.Sample, lambda served: messages.sample_requests(served, draw)))

    def reconstruct(self, images: ArrayLike) -> NDArray[np.float32]:
        """decode(encode(images).mean): float32 [N, C, H, W] in [0, 1]. Takes and raises what `encode` does."""
        return messages.images_of(
            self._ask(self._stub.Reconstruct, lambda served: messages.reconstruct_requests(served, images))
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
        return messages.scores_of(
            self._ask(
                self._stub.Score,
                lambda served: messages.score_requests(served, images, importance_samples, seed, first_row),
            )
        )

    def _ask(self, method: Callable[..., Response], requests: Callable[[Served], Iterator[object]]) -> list[Response]:
        """The responses to all the requests of a call, from one version of the model.

        What is known of the model may be old, since another version can take its place at any moment. So a refusal
        holds if the server still says the same of the model, and the call begins anew if not, as it does when versions
        change between its requests.
        """
        for _ in range(ROUNDS):
            served = self._served()
            try:
                responses = [self._call(method, request) for request in requests(served)]
            except InvalidInputError:
                if not self._has_changed(served):
                    raise
                continue
            versions = {response.version for response in responses}  # type: ignore[attr-defined]
            if versions != {served.model.version}:
                self._known = None
            if len(versions) == 1:
                return responses
        raise UnavailableError(f"{self.address}: the model changed during the call, {ROUNDS} times")

    def _served(self) -> Served:
        """What is known of the model that requests go to; asked for if nothing is."""
        known = self._known
        if known is not None:
            return known
        info = self.info()
        served = messages.served_of(info, self._model, self._version)
        if served is None:
            names = ", ".join(model.name for model in info.models)
            raise InvalidInputError.of("model", expected=f"one of {names}", got="no name")
        return served

    def _has_changed(self, served: Served) -> bool:
        """Whether the server says something else of the model by now. If it says nothing, what it said holds."""
        self._known = None
        try:
            return self._served() != served
        except ServerError:
            return False

    def _call(self, method: Callable[..., Response], request: object) -> Response:
        """One request, sent until it is answered or is not to be tried again."""
        request_id = f"{self._name}-{next(self._numbers)}"
        metadata = ((REQUEST_ID_KEY, request_id), *self._authorization)
        attempts = self._retries.begin(self._timeout)
        while not self._closed.is_set():
            try:
                response = method(
                    request, timeout=attempts.timeout(), wait_for_ready=attempts.wait_for_ready, metadata=metadata
                )
            except grpc.RpcError as failed:
                error = error_of(failed, self.address, request_id)
                delay = attempts.delay_after(error)
                if delay is None and not self._closed.is_set():
                    raise error from failed
                self._closed.wait(delay)
            except ValueError:  # gRPC's word for a channel that was closed a moment ago
                if not self._closed.is_set():
                    raise
            else:
                self._retries.succeeded()
                return response
        raise UnavailableError(f"{self.address}: the client is closed")
