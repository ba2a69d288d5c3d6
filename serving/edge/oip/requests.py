"""A ModelInferRequest as the rows it holds and the outputs it asks for. Every invalid request is refused here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from serving.edge.oip import grpc_service_pb2 as pb
from serving.graphs import GraphInterface
from vaeport.errors import InvalidInputError
from vaeport.wire import MAX_AXES

MAX_ID_CHARACTERS = 1024  # the id is echoed
MAX_PARAMETERS = 64  # of a request, of a tensor
NUMPY_DTYPE: dict[str, np.dtype[np.generic]] = {
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "UINT8": np.dtype("u1"),
}
CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents"}  # the protocol has none for FP16
SHARED_MEMORY = "shared_memory_region"

Parameters = Mapping[str, pb.InferParameter]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for.

    Attributes:
        rows: the input as it came; it has not been checked yet whether the graph takes it.
        outputs: which of the graph's outputs, as indices, in the order of the answer.
        timeout: seconds; None means no timeout.
    """

    rows: NDArray[np.generic]
    outputs: tuple[int, ...]
    timeout: float | None


def read_request(request: pb.ModelInferRequest, spec: GraphInterface) -> Wanted:
    """What `request` asks of a graph.

    Raises:
        InvalidInputError: anything about it is wrong; the text names the field.
    """
    if len(request.id) > MAX_ID_CHARACTERS:
        raise InvalidInputError.of("id", expected=f"at most {MAX_ID_CHARACTERS} characters", got=len(request.id))
    timeout = _read_parameters(request.parameters)
    outputs = _read_outputs(request.outputs, spec.output_names)
    if len(request.inputs) != 1:
        raise InvalidInputError.of("inputs", expected=f"one, {spec.input.name}", got=f"{len(request.inputs)} inputs")
    tensor = request.inputs[0]
    if tensor.name != spec.input.name:
        raise InvalidInputError.of("inputs", expected=spec.input.name, got=f"{tensor.name!r}")
    _refuse_parameters(f"inputs[{tensor.name}].parameters", tensor.parameters, [SHARED_MEMORY])
    return Wanted(_read_rows(request, tensor, _read_shape(tensor)), outputs, timeout)


def _read_parameters(parameters: Parameters) -> float | None:
    """The timeout in seconds, if there is one."""
    _refuse_parameters("parameters", parameters, ["priority", "sequence_id"])
    if "timeout" not in parameters:
        return None
    value = _value(parameters["timeout"])
    if type(value) is not int or value < 0:
        raise InvalidInputError.of("parameters[timeout]", expected="microseconds, 0 or more", got=repr(value))
    return value / 1e6 if value else None


def _refuse_parameters(field: str, parameters: Parameters, refused: Sequence[str]) -> None:
    """Raise InvalidInputError for too many parameters, and for a refused one with a value other than 0 or ""."""
    if len(parameters) > MAX_PARAMETERS:
        raise InvalidInputError.of(field, expected=f"at most {MAX_PARAMETERS}", got=len(parameters))
    for name in refused:
        if name in parameters:
            value = _value(parameters[name])
            if type(value) is bool or value not in (0, ""):
                raise InvalidInputError.of(f"{field}[{name}]", expected="0: it is not offered here", got=repr(value))


def _value(parameter: pb.InferParameter) -> bool | int | float | str | None:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _read_outputs(
    requested: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor], names: Sequence[str]
) -> tuple[int, ...]:
    if len(requested) > len(names):
        raise InvalidInputError.of("outputs", expected=f"at most {', '.join(names)}", got=f"{len(requested)} outputs")
    chosen: list[int] = []
    for output in requested:
        if output.name not in names or names.index(output.name) in chosen:
            expected = f"each at most once of {', '.join(names)}"
            raise InvalidInputError.of("outputs", expected=expected, got=f"{output.name!r}")
        _refuse_parameters(f"outputs[{output.name}].parameters", output.parameters, ["classification", SHARED_MEMORY])
        chosen.append(names.index(output.name))
    return tuple(chosen) or tuple(range(len(names)))


def _read_shape(tensor: pb.ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    field = f"inputs[{tensor.name}]"
    if tensor.datatype not in NUMPY_DTYPE:
        raise InvalidInputError.of(f"{field}.datatype", expected=" or ".join(NUMPY_DTYPE), got=f"{tensor.datatype!r}")
    if not 1 <= len(tensor.shape) <= MAX_AXES:
        raise InvalidInputError.of(f"{field}.shape", expected=f"1 to {MAX_AXES} axes", got=len(tensor.shape))
    if min(tensor.shape) < 1:
        raise InvalidInputError.of(f"{field}.shape", expected="no axis below 1", got=list(tensor.shape))
    return tuple(tensor.shape)


def _read_rows(
    request: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...]
) -> NDArray[np.generic]:
    typed = [field.name for field, _ in tensor.contents.ListFields()] if tensor.HasField("contents") else []
    if not request.raw_input_contents:
        return _read_typed(tensor, shape, typed)
    if typed:
        expected = "raw_input_contents or contents, not both"
        raise InvalidInputError.of(f"inputs[{tensor.name}]", expected=expected, got=f"raw and {typed[0]}")
    if len(request.raw_input_contents) != 1:
        got = f"{len(request.raw_input_contents)} entries"
        raise InvalidInputError.of("raw_input_contents", expected="one for each input, so 1", got=got)
    dtype = NUMPY_DTYPE[tensor.datatype]
    data = request.raw_input_contents[0]  # once: each access copies it out of the message
    if len(data) != (size := prod(shape) * dtype.itemsize):  # Python integers: no overflow
        expected = f"{size} bytes for {tensor.datatype} {list(shape)}"
        raise InvalidInputError.of("raw_input_contents[0]", expected=expected, got=f"{len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _read_typed(
    tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], filled: Sequence[str]
) -> NDArray[np.generic]:
    field = f"inputs[{tensor.name}].contents"
    name = CONTENTS.get(tensor.datatype)
    if name is None or list(filled) != [name]:
        expected = f"{name}, or raw_input_contents" if name else f"raw_input_contents, as {tensor.datatype} must be"
        raise InvalidInputError.of(field, expected=expected, got=", ".join(filled) or "neither")
    values = tensor.contents.fp32_contents if name == "fp32_contents" else tensor.contents.uint_contents
    if len(values) != prod(shape):
        raise InvalidInputError.of(field, expected=f"{prod(shape)} elements for {list(shape)}", got=f"{len(values)}")
    if name == "fp32_contents":
        return _floats(tensor.contents, len(values)).reshape(shape)
    return _bytes(field, tensor.contents).reshape(shape)


def _floats(contents: pb.InferTensorContents, count: int) -> NDArray[np.float32]:
    """The fp32_contents, if nothing else is filled.

    Protobuf gives them one by one, which takes 24 ms for 1,024 images of 28x28 and would block the loop. Serialised
    again, in 0.2 ms, they are one run of little-endian floats at the end of the bytes.
    """
    contents.DiscardUnknownFields()  # type: ignore[attr-defined]  # not in its stub; they would follow our floats
    data = contents.SerializeToString()
    return np.frombuffer(data, "<f4", offset=len(data) - 4 * count)


def _bytes(field: str, contents: pb.InferTensorContents) -> NDArray[np.uint8]:
    """The uint_contents, if nothing else is filled; all of them at once, as `_floats` does.

    Written out they are a tag, a length and varints, 7 bits in each byte, the lowest first, and a high bit that says
    that another byte follows (https://protobuf.dev/programming-guides/encoding/). So the first byte of a value of 8
    bits is the value, and the second one, which follows from 128 on, is 1.

    Raises:
        InvalidInputError: a value has more than 8 bits.
    """
    contents.DiscardUnknownFields()  # type: ignore[attr-defined]  # as above
    data = contents.SerializeToString()
    end_of_length = next(index for index in range(1, len(data)) if data[index] < 128)
    varints = np.frombuffer(data, np.uint8, offset=end_of_length + 1)
    is_first: NDArray[np.bool_] = np.append(True, varints[:-1] < 128)
    if (wrong := ~is_first & (varints != 1)).any():
        index = int(is_first[: int(wrong.argmax())].sum()) - 1
        got = contents.uint_contents[index]
        raise InvalidInputError.of(field, expected="values of UINT8, at most 255", got=got)
    return varints[is_first]
