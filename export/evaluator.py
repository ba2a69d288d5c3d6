"""onnx's reference evaluator, with a transposed convolution that is not a loop over images (80 s instead of 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_conv_transpose import ConvTranspose as Slow


class ConvTranspose(Slow):
    """One group, no dilation, explicit padding; all else is the reference's own."""

    op_domain = ""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[NDArray[Any]]:
        x, weight, bias = (*inputs, None)[:3]
        plain = attributes.get("group") in (None, 1) and set(attributes.get("dilations") or [1]) == {1}
        explicit = attributes.get("auto_pad") in (None, "NOTSET") and not attributes.get("output_shape")
        if not (plain and explicit and x.ndim == 4):
            result: tuple[NDArray[Any]] = super()._run(*inputs, **attributes)  # type: ignore[no-untyped-call]
            return result
        strides, pads = attributes.get("strides") or [1, 1], attributes.get("pads") or [0, 0, 0, 0]
        extra = attributes.get("output_padding") or [0, 0]
        output = _scatter(x, weight, strides, extra)
        output = output[:, :, pads[0] : output.shape[2] - pads[2], pads[1] : output.shape[3] - pads[3]]
        return (output if bias is None else output + bias[:, None, None],)


def _scatter(x: NDArray[Any], weight: NDArray[Any], strides: Sequence[int], extra: Sequence[int]) -> NDArray[Any]:
    """x [N, C, H, W], weight [C, D, h, w] -> [N, D, ...]: each pixel adds its multiple of the kernel, unpadded."""
    high, wide = ((x.shape[a + 2] - 1) * strides[a] + weight.shape[a + 2] + extra[a] for a in (0, 1))
    output = np.zeros((len(x), weight.shape[1], high, wide), x.dtype)
    for i, j in np.ndindex(*weight.shape[2:]):
        rows = slice(i, i + (x.shape[2] - 1) * strides[0] + 1, strides[0])
        columns = slice(j, j + (x.shape[3] - 1) * strides[1] + 1, strides[1])
        output[:, :, rows, columns] += np.moveaxis(np.tensordot(x, weight[:, :, i, j], (1, 0)), -1, 1)
    return output


def evaluator(proto: onnx.ModelProto | onnx.NodeProto) -> ReferenceEvaluator:
    """The reference evaluator of a graph or a node. It computes in the dtype of the inputs."""
    return ReferenceEvaluator(proto, new_ops=[ConvTranspose])
