"""The calls of a client as flows: what is sent, what is retried, and what the answers mean. See vaeport.flows."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, SupportsIndex, TypeVar

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport import messages
from vaeport.arrays import as_latents
from vaeport.chunks import read_chunk
from vaeport.errors import InvalidInputError, UnavailableError
from vaeport.flows import Ask, ClosedError, Flow, Metadata, Pause, Work, together
from vaeport.inputs import Images, Pixels, has_pictures, read_images
from vaeport.interpolation import as_latent, check_steps, is_latent, latents_between, mean_of_one
from vaeport.messages import Served
from vaeport.prior import Draw
from vaeport.results import Encoding, Scores, ServerInfo
from vaeport.retries import Attempts, Retries
from vaeport.statuses import error_of
from vaeport.v1 import vae_pb2
from vaeport.wire import REQUEST_ID_KEY

ROUNDS = 3  # tries to get all answers of a call from one version of the model
LOOK_SECONDS = 1.0  # for a server to say whether a refusal still holds; the caller is waiting for that error

Content = TypeVar("Content")
Floats = NDArray[np.float32]


class Calls:
    """The calls of one client. Safe to use from several threads.

    Args:
        address: the server's name in errors.
        model, version, timeout, retries: see vaeport.Client.
        authorization: metadata of every request.

    Attributes:
        known: the model that requests go to, as the server last described it.
        closed: whether the client has been closed.
    """

    def __init__(
        self,
        address: str,
        *,
        model: str,
        version: str,
        timeout: float,
        retries: Retries,
        authorization: Metadata,
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.retries = retries
        self.known: Served | None = None
        self.closed = False
        self._model, self._version = model, version
        self._authorization = authorization
        self._name, self._numbers = secrets.token_hex(6), itertools.count(1)  # the two halves of request ids

    def info(self) -> Flow[ServerInfo]:
        """See `Client.info`."""
        return self._remember((yield from self._call("Info", self._info_request())))

    def encode(self, images: Images) -> Flow[Encoding]:
        """See `Client.encode`."""
        return messages.encoding_of((yield from self._ask_images("Encode", images, messages.encode_requests)))

    def encode_chunk(self, items: list[Any]) -> Flow[Encoding]:
        """Like `encode`, for items that vaeport.chunks.Chunker has gathered."""

        def read(served: Served) -> Pixels:
            return read_chunk(items, served.model)

        heavy = any(map(has_pictures, items))
        return messages.encoding_of((yield from self._ask("Encode", read, messages.encode_requests, heavy=heavy)))

    def decode(self, latents: ArrayLike) -> Flow[Floats]:
        """See `Client.decode`."""

        def read(served: Served) -> Floats:
            return as_latents(latents, served.model.latent_dim)

        return messages.images_of((yield from self._ask("Decode", read, messages.decode_requests)))

    def sample(self, draw: Draw) -> Flow[Floats]:
        """See `Client.sample`."""
        return messages.images_of((yield from self._ask("Sample", lambda _: draw, messages.sample_requests)))

    def reconstruct(self, images: Images) -> Flow[Floats]:
        """See `Client.reconstruct`."""
        return messages.images_of((yield from self._ask_images("Reconstruct", images, messages.reconstruct_requests)))

    def score(
        self, images: Images, importance_samples: int, seed: SupportsIndex | None, first_row: int
    ) -> Flow[Scores]:
        """See `Client.score`."""
        requests = partial(
            messages.score_requests, importance_samples=importance_samples, seed=seed, first_row=first_row
        )
        return messages.scores_of((yield from self._ask_images("Score", images, requests)))

    def interpolate(self, a: Images, b: Images, steps: int, *, spherical: bool) -> Flow[Floats]:
        """See `Client.interpolate`."""
        steps = check_steps(steps)
        for _ in range(ROUNDS):
            images, versions = yield from self._interpolate(a, b, steps, spherical=spherical)
            if len(versions) == 1:
                return images
        raise self._changed()

    def served(self) -> Flow[Served]:
        """What is known of the model that requests go to; the server is asked if nothing is."""
        known = self.known
        if known is not None:
            return known
        info = yield from self.info()
        served = messages.served_of(info, self._model, self._version)
        if served is None:
            names = ", ".join(model.name for model in info.models)
            raise InvalidInputError.of("model", expected=f"one of {names}", got="no name")
        return served

    def ask_of(self, rpc: str, request: object, attempts: Attempts) -> Ask:
        """A request with a new id, to be sent as the next of its attempts."""
        request_id = f"{self._name}-{next(self._numbers)}"
        metadata = ((REQUEST_ID_KEY, request_id), *self._authorization)
        return Ask(rpc, request, attempts, metadata)

    def pause_after(self, failed: grpc.RpcError, ask: Ask, attempts: Attempts) -> Flow[None]:
        """Wait until the request may be sent again, or raise what it ended with."""
        error = error_of(failed, self.address, ask.request_id)
        delay = attempts.after_failure(error)
        if delay is None and not self.closed:
            raise error from failed
        yield Pause(delay or 0.0, attempts)

    def closed_error(self) -> UnavailableError:
        """The error that ends every call once the client is closed."""
        return UnavailableError(f"{self.address}: the client is closed")

    def _info_request(self) -> vae_pb2.InfoRequest:
        return vae_pb2.InfoRequest(model=self._model, version=self._version)

    def _remember(self, response: vae_pb2.InfoResponse) -> ServerInfo:
        info = messages.info_of(response)
        self.known = messages.served_of(info, self._model, self._version)
        return info

    def _interpolate(self, a: Any, b: Any, steps: int, *, spherical: bool) -> Flow[tuple[Floats, set[str]]]:
        """The images, and the versions that took part in computing them."""
        start, encoded_by = yield from self._latent_of("a", a)
        end, also_by = yield from self._latent_of("b", b)

        def read(served: Served) -> Floats:
            latent_dim = served.model.latent_dim
            ends = as_latent("a", start, latent_dim), as_latent("b", end, latent_dim)
            return latents_between(*ends, steps, spherical=spherical)

        responses = yield from self._ask("Decode", read, messages.decode_requests)
        return messages.images_of(responses), {encoded_by, also_by, responses[0].version} - {""}

    def _latent_of(self, name: str, end: Any) -> Flow[tuple[Any, str]]:
        """One end of an interpolation as a latent, and the version that encoded it; "" if it was passed as a latent."""
        if is_latent(end):
            return end, ""
        encoding = yield from self.encode(end)
        return mean_of_one(name, encoding.mean), encoding.version

    def _ask_images(
        self, rpc: str, images: Images, requests: Callable[[Served, Pixels], Iterator[object]]
    ) -> Flow[list[Any]]:
        def read(served: Served) -> Pixels:
            return read_images(images, served.model)

        return self._ask(rpc, read, requests, heavy=has_pictures(images))

    def _ask(
        self,
        rpc: str,
        read: Callable[[Served], Content],
        requests: Callable[[Served, Content], Iterator[object]],
        *,
        heavy: bool = False,
    ) -> Flow[list[Any]]:
        """The responses to all the requests of a call, from one version of the model.

        The client's knowledge of the model may be old, since another version can take its place at any moment. So a
        refusal holds only if the server still describes the model in the same way; otherwise the call starts again, as
        it does when versions change between its requests.

        Args:
            rpc: the method's name.
            read: reads what the caller has passed, checked for the model.
            requests: turns that into messages.
            heavy: whether reading takes a while.
        """
        for _ in range(ROUNDS):
            served = yield from self.served()
            try:
                content = (yield Work(partial(read, served))) if heavy else read(served)
                responses = yield from together(self._call(rpc, request) for request in requests(served, content))
            except InvalidInputError:
                if not (yield from self._has_changed(served)):
                    raise
                continue
            versions = {response.version for response in responses}
            if versions != {served.model.version}:
                self.known = None
            if len(versions) == 1:
                return responses
        raise self._changed()

    def _changed(self) -> UnavailableError:
        return UnavailableError(f"{self.address}: the model changed during the call, {ROUNDS} times")

    def _has_changed(self, served: Served) -> Flow[bool]:
        """Whether the server describes the model differently by now. If it does not answer, it counts as unchanged.

        The server is asked once, for a short time.
        """
        ask = self.ask_of("Info", self._info_request(), self.retries.begin(min(self.timeout, LOOK_SECONDS)))
        try:
            response = yield ask
        except (grpc.RpcError, ClosedError):
            return False
        self._remember(response)
        return self.known != served

    def _call(self, rpc: str, request: object) -> Flow[Any]:
        """One request, sent until it is answered or must not be retried. All attempts have the same id."""
        ask = self.ask_of(rpc, request, self.retries.begin(self.timeout))
        while not self.closed:
            try:
                response = yield ask
            except grpc.RpcError as failed:
                yield from self.pause_after(failed, ask, ask.attempts)
            except ClosedError:
                break
            else:
                self.retries.succeeded()
                return response
        raise self.closed_error()
