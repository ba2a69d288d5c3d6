"""onnx's reference evaluator, with convolutions that are one product of matrices: an export of 64x64 images makes
thousands of them, and the reference's gather each pixel by its index, or loop over images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_conv import Conv as ReferenceConv
from onnx.reference.ops.op_conv_transpose import ConvTranspose as ReferenceConvTranspose


class Conv(ReferenceConv):
    """Images, one group, no dilation, explicit padding; all else is the reference's own."""

    op_domain = ""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[NDArray[Any]]:
        x, weight, bias = (*inputs, None)[:3]
        if not _is_plain(x, attributes):
            result: tuple[NDArray[Any]] = super()._run(*inputs, **attributes)  # type: ignore[no-untyped-call]
            return result
        strides, pads = attributes.get("strides") or [1, 1], attributes.get("pads") or [0, 0, 0, 0]
        padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
        windows = sliding_window_view(padded, weight.shape[2:], (2, 3))[:, :, :: strides[0], :: strides[1]]
        output = np.moveaxis(np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))), -1, 1)
        return (output if bias is None else output + bias[:, None, None],)


class ConvTranspose(ReferenceConvTranspose):
    """Images, one group, no dilation, explicit padding; all else is the reference's own."""

    op_domain = ""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[NDArray[Any]]:
        x, weight, bias = (*inputs, None)[:3]
        if not _is_plain(x, attributes) or attributes.get("output_shape"):
            result: tuple[NDArray[Any]] = super()._run(*inputs, **attributes)  # type: ignore[no-untyped-call]
            return result
        strides, pads = attributes.get("strides") or [1, 1], attributes.get("pads") or [0, 0, 0, 0]
        extra = attributes.get("output_padding") or [0, 0]
        output = _scatter(x, weight, strides, extra)
        output = output[:, :, pads[0] : output.shape[2] - pads[2], pads[1] : output.shape[3] - pads[3]]
        return (output if bias is None else output + bias[:, None, None],)


def _is_plain(x: NDArray[Any], attributes: Mapping[str, Any]) -> bool:
    one_group = attributes.get("group") in (None, 1) and set(attributes.get("dilations") or [1]) == {1}
    return x.ndim == 4 and one_group and attributes.get("auto_pad") in (None, "NOTSET")


def _scatter(x: NDArray[Any], weight: NDArray[Any], strides: Sequence[int], extra: Sequence[int]) -> NDArray[Any]:
    """x [N, C, H, W], weight [C, D, h, w] -> [N, D, ...]: each pixel adds its multiple of the kernel, unpadded."""
    high, wide = ((x.shape[a + 2] - 1) * strides[a] + weight.shape[a + 2] + extra[a] for a in (0, 1))
    output = np.zeros((weight.shape[1], len(x), high, wide), x.dtype)
    multiples = np.tensordot(weight, x, (0, 1))  # [D, h, w, N, H, W]
    for i, j in np.ndindex(*weight.shape[2:]):
        rows = slice(i, i + (x.shape[2] - 1) * strides[0] + 1, strides[0])
        columns = slice(j, j + (x.shape[3] - 1) * strides[1] + 1, strides[1])
        output[:, :, rows, columns] += multiples[:, i, j]
    return output.swapaxes(0, 1)


def evaluator(proto: onnx.ModelProto | onnx.NodeProto) -> ReferenceEvaluator:
    """The reference evaluator of a graph or a node. It computes in the dtype of the inputs."""
    return ReferenceEvaluator(proto, new_ops=[Conv, ConvTranspose])
