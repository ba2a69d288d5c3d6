"""Calls as messages, and messages as results: pure functions that any kind of client can use.

A call with a large array becomes several requests, so the first group yields them one by one, for a model and within
the server's limits. The second group takes all the responses of a call.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vaeport import scoring
from vaeport.arrays import as_pixels
from vaeport.inputs import Pixels
from vaeport.prior import Draw
from vaeport.results import Encoding, ModelInfo, Scores, ServerInfo
from vaeport.v1 import vae_pb2
from vaeport.wire import from_preprocessing, from_tensor, to_tensor

REQUEST_ROWS = (
    256  # as many rows as pay off, since several requests are under way at a time and share the server's queue
)

ImagesResponse: TypeAlias = (
    vae_pb2.DecodeResponse | vae_pb2.SampleResponse | vae_pb2.ReconstructResponse | vae_pb2.SampleStreamResponse
)


@dataclass(frozen=True, slots=True)
class Served:
    """The model that requests go to, as the server described it.

    Attributes:
        name: as the caller named it; "" is the server's default.
        version: as the caller named it; "" is the newest or pinned one.
        model: what it is now.
        max_rows: the most rows in one request.
    """

    name: str
    version: str
    model: ModelInfo
    max_rows: int

    def target(self) -> dict[str, Any]:
        """The fields that every request begins with."""
        return {"model": self.name, "version": self.version}

    def pieces(self, rows: int, most: int = REQUEST_ROWS) -> Iterator[slice]:
        """The rows of each request: `most` of them, or fewer if the server takes no more."""
        limit = min(self.max_rows, most, REQUEST_ROWS)
        return (slice(start, min(start + limit, rows)) for start in range(0, rows, limit))


def encode_requests(served: Served, images: Pixels) -> Iterator[vae_pb2.EncodeRequest]:
    """Like `encode` of the client, for checked images."""
    for piece in served.pieces(len(images)):
        yield vae_pb2.EncodeRequest(**served.target(), images=to_tensor(as_pixels(images[piece])))


def decode_requests(served: Served, latents: NDArray[np.float32]) -> Iterator[vae_pb2.DecodeRequest]:
    """Like `decode` of the client, for checked latents."""
    for piece in served.pieces(len(latents)):
        yield vae_pb2.DecodeRequest(**served.target(), latents=to_tensor(latents[piece]))


def sample_requests(served: Served, draw: Draw) -> Iterator[vae_pb2.SampleRequest]:
    """Like `sample` of the client."""
    for piece in served.pieces(draw.count):
        yield vae_pb2.SampleRequest(
            **served.target(),
            count=piece.stop - piece.start,
            seed=draw.seed,
            first_row=draw.first_row + piece.start,
            temperature=float(draw.temperature),
        )


def sample_stream_request(served: Served, draw: Draw, chunk_rows: int) -> vae_pb2.SampleStreamRequest:
    """Like `sample_stream` of the client, or the rest of one."""
    return vae_pb2.SampleStreamRequest(
        **served.target(),
        count=draw.count,
        seed=draw.seed,
        first_row=draw.first_row,
        temperature=float(draw.temperature),
        chunk_rows=chunk_rows,
    )


def reconstruct_requests(served: Served, images: Pixels) -> Iterator[vae_pb2.ReconstructRequest]:
    """Like `reconstruct` of the client, for checked images."""
    for piece in served.pieces(len(images)):
        yield vae_pb2.ReconstructRequest(**served.target(), images=to_tensor(as_pixels(images[piece])))


def score_requests(
    served: Served, images: Pixels, importance_samples: int, seed: SupportsIndex | None, first_row: int
) -> Iterator[vae_pb2.ScoreRequest]:
    """Like `score` of the client, for checked images; raises InvalidInputError."""
    sampling = scoring.Sampling.of(importance_samples, seed, first_row, len(images))
    for piece in served.pieces(len(images), sampling.images_at_once(served.model.latent_dim)):
        yield vae_pb2.ScoreRequest(
            **served.target(),
            images=to_tensor(as_pixels(images[piece])),
            importance_samples=sampling.samples,
            seed=sampling.seed,
            first_row=sampling.starting(piece.start).first_row,
        )


def info_of(response: vae_pb2.InfoResponse) -> ServerInfo:
    """What a server offers."""
    models = tuple(
        ModelInfo(
            name=model.name,
            version=model.version,
            image_shape=(model.image_shape[0], model.image_shape[1], model.image_shape[2]),
            latent_dim=model.latent_dim,
            likelihood=model.likelihood,
            digest=model.digest,
            providers=tuple(model.providers),
            preprocessing=from_preprocessing(model.preprocessing) if model.HasField("preprocessing") else None,
        )
        for model in response.models
    )
    return ServerInfo(models, response.limits.max_request_rows, response.server_version, response.default_model)


def served_of(info: ServerInfo, name: str, version: str) -> Served | None:
    """The model that a name and version mean on that server; None if a name is needed."""
    wanted = name or info.default_model
    model = next((model for model in info.models if model.name == wanted), None)
    return None if model is None else Served(name, version, model, info.max_request_rows)


def encoding_of(responses: Sequence[vae_pb2.EncodeResponse]) -> Encoding:
    """The posteriors of all the images."""
    mean = [_floats("mean", response.mean) for response in responses]
    log_var = [_floats("log_var", response.log_var) for response in responses]
    return Encoding(_join(mean), _join(log_var), responses[-1].version)


def images_of(
    responses: "Sequence[ImagesResponse]",
) -> NDArray[np.float32]:
    """All the images, [N, C, H, W]."""
    return _join([_floats("images", response.images) for response in responses])


def scores_of(responses: Sequence[vae_pb2.ScoreResponse]) -> Scores:
    """The scores of all the images."""
    return scoring.join([_scores(response) for response in responses])


def _scores(response: vae_pb2.ScoreResponse) -> Scores:
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


def _floats(field: str, tensor: vae_pb2.Tensor) -> NDArray[np.float32]:
    return from_tensor(field, tensor).astype(np.float32)  # a copy of our own: the message's bytes are read-only


def _join(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
