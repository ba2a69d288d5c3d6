"""The graphs of served models under names of their own, for callers that know nothing of encoders and decoders."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.batching import Batcher
from serving.models import ServedModel
from vaeport.arrays import check_range
from vaeport.errors import InvalidInputError
from vaeport.results import ModelInfo

ENCODER, DECODER = "encoder", "decoder"


@dataclass(frozen=True, slots=True)
class TensorInterface:
    """An input or output.

    Attributes:
        name: as in the package.
        dims: the shape of one row.
        dtypes: numpy dtypes that are taken or given; the first one is the graph's own.
    """

    name: str
    dims: tuple[int, ...]
    dtypes: tuple[str, ...] = ("float32",)


@dataclass(frozen=True, slots=True)
class GraphInterface:
    """What goes in and comes out; see docs/package-format.md.

    Attributes:
        low, high: the range of the input's values.
    """

    input: TensorInterface
    outputs: tuple[TensorInterface, ...]
    low: float
    high: float

    @property
    def output_names(self) -> list[str]:
        """The outputs' names, in the graph's order."""
        return [output.name for output in self.outputs]

    def check(self, rows: NDArray[np.generic]) -> NDArray[np.uint8] | NDArray[np.float32]:
        """The input as the engine takes it: bytes (value / 255), or float32.

        Raises:
            InvalidInputError: the dtype or shape is wrong, or a value is NaN, infinite or out of range.
        """
        name, dims = self.input.name, self.input.dims
        if rows.dtype.name not in self.input.dtypes:
            raise InvalidInputError.of(name, expected=" or ".join(self.input.dtypes), got=rows.dtype.name)
        if rows.ndim != 1 + len(dims) or rows.shape[1:] != dims or not len(rows):
            expected = f"shape [rows, {', '.join(map(str, dims))}], at least 1 row"
            raise InvalidInputError.of(name, expected=expected, got=f"shape {list(rows.shape)}")
        if rows.dtype == np.uint8:
            return np.ascontiguousarray(rows, np.uint8)
        floats = np.ascontiguousarray(rows, np.float32)
        check_range(name, floats, self.low, self.high)
        return floats


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """One graph of a served model.

    Attributes:
        name: `<model>_encoder` or `<model>_decoder`; no two graphs share one.
        role: "encoder" or "decoder".
        info: describes the model.
        spec: what goes in and comes out.
        batcher: the queue, which all services share.
    """

    name: str
    role: str
    info: ModelInfo
    spec: GraphInterface
    batcher: Batcher


def graph_names(model: str) -> tuple[str, str]:
    """The names of a model's graphs."""
    return f"{model}_{ENCODER}", f"{model}_{DECODER}"


def graphs_of(model: ServedModel) -> tuple[ServedGraph, ServedGraph]:
    """Encoder and decoder."""
    info = model.info
    encoder, decoder = graph_names(info.name)
    return (
        ServedGraph(encoder, ENCODER, info, _encoder(info), model.encoder),
        ServedGraph(decoder, DECODER, info, _decoder(info), model.decoder),
    )


def _encoder(info: ModelInfo) -> GraphInterface:
    image = TensorInterface("image", info.image_shape, ("float32", "float16", "uint8"))
    return GraphInterface(
        image, tuple(TensorInterface(name, (info.latent_dim,)) for name in ("mean", "log_var")), 0.0, 1.0
    )


def _decoder(info: ModelInfo) -> GraphInterface:
    latent = TensorInterface("latent", (info.latent_dim,), ("float32", "float16"))
    parameters = "logits" if info.likelihood == "bernoulli" else "mean"
    limit = float(np.finfo(np.float32).max)
    return GraphInterface(
        latent, tuple(TensorInterface(name, info.image_shape) for name in ("image", parameters)), -limit, limit
    )
