"""The model on a server: `vaeport.Client`, with the methods, results and errors of `vaeport.load`.

The calls themselves are in vaeport.calls, for both clients; this module says how a thread waits for them.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, SupportsIndex

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport.base_client import DEFAULT_TIMEOUT_SECONDS, IN_FLIGHT, BaseClient
from vaeport.chunks import CHUNK_ROWS, Chunker, check_chunk_rows, join
from vaeport.flows import Ask, ClosedError, Flow, Open, Pause, Read, Result, Step, Work
from vaeport.inputs import Images
from vaeport.prior import Draw
from vaeport.results import Encoding, Scores, ServerInfo
from vaeport.running import RunningFlow, Wake, in_order
from vaeport.streams import SampleChunks, check_version, chunk_flows
from vaeport.v1 import vae_pb2_grpc

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "Client"]


class Client(BaseClient):
    """A connection to a vaeport server. Safe to use from several threads; close it, or use it in a `with` block.

    A request is sent again, within its timeout, if nobody answers, if a server that starts or stops refuses it or cuts
    it off, or if the queue is full; see vaeport.retries. That is safe: the same request gives the same answer.

    Args:
        address: "host:port", "unix:PATH", "dns:///name:port", or a list of "host:port". With the last two, calls go to
            all the addresses in turn; see vaeport.addresses.
        model: the name of the model; "" is the server's default, or its only one.
        version: a decimal string; "" is the newest, or the pinned one.
        timeout: seconds until a request, with all its attempts, raises DeadlineExceededError. A call with a large array
            makes several requests, of which a few run at a time; for a stream it is the time of a chunk.
        connect_timeout: seconds until the first request raises UnavailableError if no server is at the address; at most
            half of `timeout`. Once a server has answered, a lost connection has almost `timeout` to come back.
        retries: the most attempts after the first one; 0 switches them off.
        tls: True, or a TLS that names files: encrypts, and checks the server's certificate.
        token: for a server that demands one. Without TLS it is only sent to this machine.
        allow_plaintext_token: send it without TLS all the same; anyone on the way can read it.

    Raises:
        InvalidInputError: an argument that is not as described above, or a file of `tls` that is not what it should be.
        OSError: a file of `tls` cannot be read.

    Every method that asks the server raises a ServerError if the server does not answer with a result.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running and later calls end with UnavailableError. Closing twice is fine."""
        self._calls.closed = True
        self._channel.close()
        self._wake.close()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width), as far as this client knows; `info` asks again."""
        return self._run(self._calls.served()).model.image_shape

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions, as far as this client knows; `info` asks again."""
        return self._run(self._calls.served()).model.latent_dim

    def info(self) -> ServerInfo:
        """Everything the server offers; if a model is named, only that model.

        Raises:
            NotFoundError: no such model or version.
        """
        return self._run(self._calls.info())

    def encode(self, images: Images | Iterator[Images]) -> Encoding:
        """The posterior of each image.

        Args:
            images: an array, [N, H, W], [N, C, H, W] or one image, uint8 (value / 255) or float in [0, 1]; a Pillow
                image or the path of a picture, which is prepared as in training; a list of these; or an iterator over
                them, of which a few chunks are in memory at a time.

        Raises:
            InvalidInputError: a wrong shape or dtype, values outside the range, or a picture that cannot be prepared.
            OSError: a file cannot be opened.
        """
        if isinstance(images, Iterator):
            return join(list(self.encode_stream(images)))
        return self._run(self._calls.encode(images))

    def encode_stream(self, images: Iterable[Images], *, chunk_rows: int = CHUNK_ROWS) -> Iterator[Encoding]:
        """The posteriors of a stream of images, in order, a chunk at a time.

        Only a few chunks are sent ahead while the next images are taken, so the memory is bounded. All chunks are
        answered by one version of the model, or the stream ends with UnavailableError.

        Args:
            images: each of them one image or several, as `encode` takes them.
            chunk_rows: images in a chunk, at least 1. With 1, each is sent as it comes; its result is there when the
                next image is, since this thread waits for that one meanwhile. `AsyncClient` does not wait for it.

        Raises:
            InvalidInputError, OSError: as in `encode`, for the chunk that causes it, after the chunks before it.
        """
        return self._encode_stream(images, check_chunk_rows(chunk_rows))

    def decode(self, latents: ArrayLike) -> NDArray[np.float32]:
        """The image of each latent: float32 [N, C, H, W] in [0, 1].

        Args:
            latents: float [N, latent_dim] or one latent.

        Raises:
            InvalidInputError: a wrong shape or dtype, or a value that is not finite.
        """
        return self._run(self._calls.decode(latents))

    def sample(
        self, count: int, *, seed: SupportsIndex | None = None, temperature: float = 1.0, first_row: int = 0
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
        return self._run(self._calls.sample(Draw.of(count, seed, first_row, temperature)))

    def sample_stream(
        self,
        count: int,
        *,
        seed: SupportsIndex | None = None,
        temperature: float = 1.0,
        first_row: int = 0,
        chunk_rows: int = CHUNK_ROWS,
    ) -> Iterator[NDArray[np.float32]]:
        """The images of `sample` in order, a chunk at a time: float32 [rows, C, H, W].

        The server computes one chunk ahead of the reader. A stream that breaks off, for example because the server
        restarts, continues at its next row; if the server then has another version of the model, it ends with
        UnavailableError.

        Args:
            count: as in `sample`.
            seed: as in `sample`.
            temperature: as in `sample`.
            first_row: as in `sample`.
            chunk_rows: the most images in a chunk.

        Raises:
            InvalidInputError: a number outside its range.
        """
        return self._sample_stream(Draw.of(count, seed, first_row, temperature), check_chunk_rows(chunk_rows))

    def reconstruct(self, images: Images) -> NDArray[np.float32]:
        """decode(encode(images).mean): float32 [N, C, H, W] in [0, 1].

        Takes and raises what `encode` does, except that it takes no iterator.
        """
        return self._run(self._calls.reconstruct(images))

    def interpolate(self, a: Images, b: Images, steps: int, *, spherical: bool = False) -> NDArray[np.float32]:
        """The images on the way from `a` to `b`: float32 [steps, C, H, W] in [0, 1].

        The first and the last are the reconstructions of `a` and `b`.

        Args:
            a: an image, as `encode` takes it, or a latent [latent_dim], which is an array of one axis.
            b: likewise.
            steps: images in all, at least 2, at equal distances between the two latents.
            spherical: along a great circle rather than straight.

        Raises:
            InvalidInputError: what `encode` and `decode` raise, several images, or fewer than two steps.
        """
        return self._run(self._calls.interpolate(a, b, steps, spherical=spherical))

    def score(
        self, images: Images, *, importance_samples: int = 1, seed: SupportsIndex | None = None, first_row: int = 0
    ) -> Scores:
        """How well the model explains each image, in nats.

        Args:
            images: as in `encode`, but no iterator.
            importance_samples: draws of z for each image, 1 to 65,536; times latent_dim, at most 4,194,304.
            seed: 0 <= seed < 2^64; None draws one. Image i depends on the seed and first_row + i alone.
            first_row: the row of the first image.

        Raises:
            InvalidInputError: what `encode` raises, or a number outside its range.
        """
        return self._run(self._calls.score(images, importance_samples, seed, first_row))

    def _connect(self) -> None:
        self._wake = Wake()
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self._uri, self._options)
        else:
            self._channel = grpc.secure_channel(self._uri, self._credentials, self._options)
        self._stub: Any = vae_pb2_grpc.VaeServiceStub(self._channel)

    def _encode_stream(self, images: Iterable[Images], chunk_rows: int) -> Iterator[Encoding]:
        served = self._run(self._calls.served())
        chunker = Chunker(served.model, min(chunk_rows, served.max_rows))
        version = ""
        with contextlib.closing(self._in_order(chunk_flows(self._calls, chunker, images))) as encodings:
            for encoding in encodings:
                version = check_version(self.address, version, encoding.version)
                yield encoding

    def _sample_stream(self, draw: Draw, chunk_rows: int) -> Iterator[NDArray[np.float32]]:
        chunks = SampleChunks(self._calls, draw, chunk_rows)
        try:
            while (chunk := self._run(chunks.next())) is not None:
                yield chunk
        finally:
            chunks.cancel()

    def _run(self, flow: Flow[Result]) -> Result:
        """Carry out a flow in this thread."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = self._perform(step)
                except Exception as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Ask):
            return self._send(getattr(self._stub, step.rpc), step)
        if isinstance(step, Open):
            return self._send(getattr(self._stub, step.call.rpc), step.call)
        if isinstance(step, Read):
            return next(step.stream, None)
        if isinstance(step, Pause):
            return self._wake.wait(lambda: False, step.seconds)
        if isinstance(step, Work):
            return step.function()
        return list(self._in_order(step.flows))

    def _in_order(self, flows: Iterable[Flow[Result]]) -> Generator[Result, None, None]:
        """The results of flows, in order, a few at a time."""
        return in_order(
            flows, lambda flow: RunningFlow(flow, self._wake, self._start, self._perform), self._wake, IN_FLIGHT
        )

    def _start(self, ask: Ask) -> Any:
        return self._send(getattr(self._stub, ask.rpc).future, ask)

    def _send(self, method: Any, ask: Ask) -> Any:
        try:
            return method(ask.request, **ask.options())
        except ValueError as error:  # gRPC's error for a channel that was closed a moment ago
            if self._calls.closed:
                raise ClosedError from error
            raise
