"""Variants of the two graphs: computing in another precision, and with images as bytes at the edge.

Each is made of the ONNX graph it is a variant of, by ONNX Runtime's own converters where there is one (export.edges
has the bytes), and has the PyTorch module that it should equal, where there can be one.
"""

import contextlib
import copy
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.edges import with_bytes
from export.inputs import Rows
from vaeport.package import BATCH_AXIS, ROLES, graph_name, has_bytes, precision_of, role_of

CALIBRATION_BATCH = 64
LINEAR = ["Conv", "ConvTranspose", "Gemm", "MatMul"]  # what int8 computes; the rest is a fraction of the time


class FromBytes(nn.Module):
    """An encoder for pixels that are uint8, meaning value / 255."""

    full: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("full", torch.tensor(255.0))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image uint8 [batch, C, H, W] -> mean, log_var, both [batch, latent_dim]."""
        outputs: tuple[Tensor, Tensor] = self.encoder(image.to(self.full.dtype) / self.full)
        return outputs


class ToBytes(nn.Module):
    """A decoder whose image is uint8: 255 times the pixel, to the nearest integer, ties to even."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor) -> tuple[Tensor]:
        """Latent [batch, latent_dim] -> image uint8 [batch, C, H, W]."""
        return ((self.decoder(latent)[0] * 255.0).round().to(torch.uint8),)


def variants(
    graphs: Mapping[str, onnx.ModelProto], precisions: Sequence[str], calibration: Mapping[str, Rows]
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """All graphs of a package by their name, the float32 ones first.

    Args:
        graphs: in float32, by role.
        precisions: of vaeport.package.PRECISIONS, FP32 first.
        calibration: by role, float32 rows [rows, ...] of the graph's input; only for "int8".
    """
    for precision in precisions:
        for role in ROLES:
            graph = graphs[role]
            if precision == "fp16":
                graph = to_fp16(graph)
            elif precision == "int8":
                graph = to_int8(graph, calibration[role])
            yield graph_name(role, precision), graph
            yield graph_name(role, precision, uint8=True), with_bytes(role, graph)


def module_of(name: str, module: nn.Module) -> nn.Module | None:
    """The PyTorch module that the graph of that name should equal, from its role's; None of a quantised graph."""
    precision = precision_of(name)
    if precision == "int8":
        return None
    if precision == "fp16":
        module = in_half(module)
    if not has_bytes(name):
        return module
    return (FromBytes(module) if role_of(name) == "encoder" else ToBytes(module)).eval()


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with weights and computation in float16; its inputs and outputs stay float32."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = ONNXModel(convert_float_to_float16(copy.deepcopy(graph), keep_io_types=True))
    converted.topological_sort()  # it appends its casts
    return _settled(converted.model, graph)


def in_half(module: nn.Module) -> nn.Module:
    """A copy with the weights of `to_fp16`, in float32."""
    from onnxruntime.transformers.float16 import convert_np_to_float16

    rounded = copy.deepcopy(module)
    for weight in (*rounded.parameters(), *rounded.buffers()):
        if weight.is_floating_point():
            flat = weight.detach().numpy().reshape(-1)  # it takes no scalar: a Gaussian's log_sigma is one
            weight.data = torch.from_numpy(convert_np_to_float16(flat).astype(np.float32)).reshape(weight.shape)
    return rounded


def to_int8(graph: onnx.ModelProto, rows: Rows) -> onnx.ModelProto:
    """The graph with its linear layers in 8 bits (QDQ: uint8 activations, int8 weights), its outputs in float32.

    Args:
        graph: in float32.
        rows: the range of an activation is that of these rows.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "quantised.onnx"
        quantize_static(
            copy.deepcopy(graph),
            path,
            _Rows(graph.graph.input[0].name, rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=LINEAR,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": LINEAR},  # logits need more than 256 levels
        )
        return _settled(onnx.load(path), graph)


def _settled(converted: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """What a converter changed and need not: the metadata, the producer, the versions and the name of the batch."""
    converted.ir_version, converted.producer_name = source.ir_version, source.producer_name
    converted.producer_version = source.producer_version
    converted.ClearField("metadata_props")
    converted.metadata_props.extend(source.metadata_props)
    for value in (*converted.graph.input, *converted.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH_AXIS
    onnx.checker.check_model(converted, full_check=True)
    return converted


class _Rows:
    """What onnxruntime.quantization calls a CalibrationDataReader: batches, then None."""

    def __init__(self, name: str, rows: Rows) -> None:
        starts = range(0, len(rows), CALIBRATION_BATCH)
        self._batches = iter([{name: rows[start : start + CALIBRATION_BATCH]} for start in starts])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice on the root logger, which is not for the user of the export."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
