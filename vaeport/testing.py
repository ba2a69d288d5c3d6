"""Clients without a server, for the tests of services that use one.

    from vaeport.testing import FakeClient

    def test_a_full_server_is_reported() -> None:
        client = FakeClient(image_shape=(1, 28, 28), latent_dim=20)
        assert client.encode(image).mean.shape == (1, 20)
        client.fail_next(vaeport.OverloadedError("full", retry_after=1.0))
        assert my_service(client).status == 503

They are real clients up to the point where a request would be sent: arguments are checked, errors raised, arrays cut
and iterators read as with a server. The model is arithmetic that can be done by hand (see FakeServer), so results are
the same everywhere, depend on the input row by row, and mean nothing.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from grpc import aio
from numpy.typing import NDArray

from vaeport import scoring
from vaeport._version import __version__
from vaeport.arrays import to_float
from vaeport.async_client import AsyncClient
from vaeport.base_client import BaseClient
from vaeport.chunks import CHUNK_ROWS
from vaeport.client import Client
from vaeport.errors import VaeportError
from vaeport.flows import Flow, Result
from vaeport.manifest import Preprocessing
from vaeport.prior import Draw
from vaeport.results import ModelInfo
from vaeport.v1 import vae_pb2
from vaeport.wire import from_tensor, to_model_info, to_tensor

__all__ = ["AsyncFakeClient", "FakeClient", "FakeServer"]

MAX_REQUEST_ROWS = 1024  # as a server has it


class FakeServer:
    """Answers messages, by arithmetic on P pixels and L latent dimensions:

    mean_j = pixel_(j mod P), log_var_j = 0, and decoded pixel_p = 1 / (1 + exp(-latent_(p mod L))).

    Args:
        image_shape: (channels, height, width).
        latent_dim: L.
        model, version: the model's name and version.
        preprocessing: for pictures. None: if `image_shape` is square, their middle is cut out and scaled to it; if not,
            they must have that size.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        latent_dim: int = 20,
        *,
        model: str = "fake",
        version: str = "1",
        preprocessing: Preprocessing | None = None,
    ) -> None:
        channels, height, width = image_shape
        crop = Preprocessing((height, width), channels, "center" if height == width else "none", 255.0)
        self.info = ModelInfo(
            model, version, image_shape, latent_dim, "bernoulli", "sha256:0", ("Fake",), preprocessing or crop
        )
        self._scoring = scoring.ScoringSpec("bernoulli", None, "none", None, version)

    def Info(self, request: vae_pb2.InfoRequest) -> vae_pb2.InfoResponse:
        """One model."""
        return vae_pb2.InfoResponse(
            models=[to_model_info(self.info)],
            limits=vae_pb2.Limits(max_request_rows=MAX_REQUEST_ROWS),
            server_version=__version__,
            default_model=self.info.name,
        )

    def Encode(self, request: vae_pb2.EncodeRequest) -> vae_pb2.EncodeResponse:
        """The posteriors."""
        mean, log_var = self._encoded(_floats(request.images))
        return vae_pb2.EncodeResponse(version=self.info.version, mean=to_tensor(mean), log_var=to_tensor(log_var))

    def Decode(self, request: vae_pb2.DecodeRequest) -> vae_pb2.DecodeResponse:
        """The images of latents."""
        return vae_pb2.DecodeResponse(version=self.info.version, images=self._images(_floats(request.latents)))

    def Reconstruct(self, request: vae_pb2.ReconstructRequest) -> vae_pb2.ReconstructResponse:
        """The images of the means of images."""
        mean, _ = self._encoded(_floats(request.images))
        return vae_pb2.ReconstructResponse(version=self.info.version, images=self._images(mean))

    def Sample(self, request: vae_pb2.SampleRequest) -> vae_pb2.SampleResponse:
        """Images from the prior: the latents are those of any server."""
        draw = _draw(request)
        images = self._images(draw.latents(self.info.latent_dim))
        return vae_pb2.SampleResponse(version=self.info.version, images=images, seed=draw.seed)

    def SampleStream(self, request: vae_pb2.SampleStreamRequest) -> Iterator[vae_pb2.SampleStreamResponse]:
        """Images from the prior, in chunks."""
        draw, rows = _draw(request), min(request.chunk_rows or CHUNK_ROWS, MAX_REQUEST_ROWS)
        for start in range(0, draw.count, rows):
            chunk = replace(draw, first_row=draw.first_row + start, count=min(rows, draw.count - start))
            images = self._images(chunk.latents(self.info.latent_dim))
            yield vae_pb2.SampleStreamResponse(version=self.info.version, images=images, first_row=chunk.first_row)

    def Score(self, request: vae_pb2.ScoreRequest) -> vae_pb2.ScoreResponse:
        """The real formulas, on these posteriors and logits."""
        images = _floats(request.images)
        sampling = scoring.Sampling.of(request.importance_samples, request.seed, request.first_row, len(images))
        draws = scoring.draw(*self._encoded(images), sampling)
        density = scoring.log_densities(self._scoring, images, 0, draws.samples, self._logits(draws.latents))
        found = scoring.scores(self._scoring, images, draws, [density])
        return vae_pb2.ScoreResponse(
            version=self.info.version,
            reconstruction=to_tensor(found.reconstruction),
            kl=to_tensor(found.kl),
            elbo=to_tensor(found.elbo),
            log_likelihood=to_tensor(found.log_likelihood),
            setting=found.setting,
            seed=found.seed,
        )

    def _encoded(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pixels = images.reshape(len(images), -1)
        mean = pixels[:, np.arange(self.info.latent_dim) % pixels.shape[1]]
        return mean, np.zeros_like(mean)

    def _logits(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        pixels = np.arange(np.prod(self.info.image_shape)) % self.info.latent_dim
        return latents[:, pixels].reshape(-1, *self.info.image_shape)

    def _images(self, latents: NDArray[np.float32]) -> vae_pb2.Tensor:
        return to_tensor((1 / (1 + np.exp(-self._logits(latents)))).astype(np.float32))


class _Fake(BaseClient):
    """What both fakes have besides the methods of a client.

    Args:
        image_shape, latent_dim, model, version, preprocessing: describe the one model; see FakeServer.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        latent_dim: int = 20,
        *,
        model: str = "fake",
        version: str = "1",
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self._server = FakeServer(image_shape, latent_dim, model=model, version=version, preprocessing=preprocessing)
        self._failures: deque[VaeportError] = deque()
        super().__init__("unix:fake")

    def fail_next(self, *errors: VaeportError) -> None:
        """Raise the errors in the next calls, one in each; a chunk of samples counts as a call."""
        self._failures.extend(errors)

    def _fail(self) -> None:
        if self._failures:
            raise self._failures.popleft()


class FakeClient(_Fake, Client):
    """A `vaeport.Client` without a server."""

    def _connect(self) -> None:
        super()._connect()
        self._channel.close()  # it has never connected
        self._stub = _Stub(self._server, _Method)

    def _run(self, flow: Flow[Result]) -> Result:
        self._fail()
        return super()._run(flow)


class AsyncFakeClient(_Fake, AsyncClient):
    """A `vaeport.AsyncClient` without a server."""

    def _open_channel(self) -> Any:
        return _Stub(self._server, _AsyncMethod)

    async def _run(self, flow: Flow[Result]) -> Result:
        self._fail()
        return await super()._run(flow)


class _Stub:
    """The methods of a FakeServer, as gRPC's stub would have them."""

    def __init__(self, server: FakeServer, method: Callable[[Callable[[Any], Any]], Any]) -> None:
        self._server, self._method = server, method

    def __getattr__(self, rpc: str) -> Any:
        answer = getattr(self._server, rpc)
        return _Stream.of(answer) if rpc == "SampleStream" else self._method(answer)


class _Method:
    """A method that is called, or started."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer

    def __call__(self, request: Any, **_: object) -> Any:
        return self._answer(request)

    def future(self, request: Any, **_: object) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(self._answer(request))
        return done


class _AsyncMethod(_Method):
    """A method that is awaited."""

    async def __call__(self, request: Any, **_: object) -> Any:
        return self._answer(request)


class _Stream:
    """The responses of a stream, for either kind of client."""

    def __init__(self, responses: Iterator[Any]) -> None:
        self._responses = responses

    @classmethod
    def of(cls, answer: Callable[[Any], Iterator[Any]]) -> Callable[..., "_Stream"]:
        """The method."""
        return lambda request, **_: cls(answer(request))

    def __next__(self) -> Any:
        return next(self._responses)

    async def read(self) -> Any:
        """The next one, or EOF."""
        return next(self._responses, aio.EOF)

    def cancel(self) -> None:
        """Stop: nothing more will be read."""
        self._responses = iter(())


def _floats(tensor: vae_pb2.Tensor) -> NDArray[np.float32]:
    floats: NDArray[Any] = from_tensor("tensor", tensor)
    return to_float(floats)


def _draw(request: vae_pb2.SampleRequest | vae_pb2.SampleStreamRequest) -> Draw:
    return Draw.of(request.count, request.seed, request.first_row, request.temperature)
