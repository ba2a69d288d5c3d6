"""Requests of the Open Inference Protocol as rows: what is read, and that everything else is refused by name."""

import re
import timeit
from collections.abc import Callable

import numpy as np
import pytest

from serving.edge.oip import grpc_service_pb2 as pb
from serving.edge.oip.requests import read_request
from serving.graphs import GraphInterface, TensorInterface
from vaeport.errors import InvalidInputError

SPEC = GraphInterface(
    TensorInterface("image", (1, 2, 3), ("float32", "float16", "uint8")),
    (TensorInterface("mean", (2,)), TensorInterface("log_var", (2,))),
    0.0,
    1.0,
)
SHAPE = (2, 1, 2, 3)
VALUES = np.linspace(0, 1, 12, dtype=np.float32)
Change = Callable[[pb.ModelInferRequest], object]


def raw(array: np.ndarray = VALUES, datatype: str = "FP32") -> pb.ModelInferRequest:
    """A good request with raw contents."""
    request = typed(datatype=datatype)
    request.raw_input_contents.append(array.tobytes())
    return request


def typed(datatype: str = "FP32", **contents: list[float] | list[int]) -> pb.ModelInferRequest:
    """One with typed contents, if there are any."""
    request = pb.ModelInferRequest(model_name="toy_encoder", id="one")
    request.inputs.add(name="image", datatype=datatype, shape=SHAPE)
    if contents:
        request.inputs[0].contents.MergeFrom(pb.InferTensorContents(**contents))  # type: ignore[arg-type]
    return request


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (raw(), VALUES),
        (raw(VALUES.astype("<f2"), "FP16"), VALUES.astype("<f2")),
        (raw(np.arange(12, dtype="u1"), "UINT8"), np.arange(12, dtype="u1")),
        (typed(fp32_contents=VALUES.tolist()), VALUES),
        (typed("UINT8", uint_contents=[*range(11), 255]), np.array([*range(11), 255], "u1")),
    ],
)
def test_raw_and_typed_contents_are_read(request_: pb.ModelInferRequest, expected: np.ndarray) -> None:
    wanted = read_request(request_, SPEC)
    assert wanted.rows.dtype == expected.dtype
    assert np.array_equal(wanted.rows, expected.reshape(SHAPE))
    assert (wanted.outputs, wanted.timeout) == ((0, 1), None)


@pytest.mark.parametrize("count", [12, 12 * 1000])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("unknown", [b"", b"\xf8\x7f\x01", b"\x4a\x04abcd"])
def test_typed_floats_are_read_however_they_were_written(count: int, packed: bool, unknown: bytes) -> None:
    values = np.random.default_rng(0).random(count, np.float32)
    if packed:
        data = pb.InferTensorContents(fp32_contents=values.tolist()).SerializeToString()
    else:
        data = b"".join(b"\x35" + value.tobytes() for value in values)  # field 6, 32 bits
    request = typed()
    request.inputs[0].shape[0] = count // 6
    request.inputs[0].contents.ParseFromString(unknown + data + unknown)
    assert np.array_equal(read_request(request, SPEC).rows.reshape(-1), values)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("unknown", [b"", b"\xf8\x7f\x01", b"\x4a\x04abcd"])
@pytest.mark.parametrize("values", [[*range(246, 256), 0, 127], [*range(256)] * 300, [5] * 12, [200] * 12])
def test_typed_bytes_are_read_however_they_were_written(packed: bool, unknown: bytes, values: list[int]) -> None:
    data = pb.InferTensorContents(uint_contents=values).SerializeToString()
    if not packed:
        data = b"".join(b"\x20" + (bytes([value, 1]) if value > 127 else bytes([value])) for value in values)  # field 4
    request = typed("UINT8")
    request.inputs[0].shape[0] = len(values) // 6
    request.inputs[0].contents.ParseFromString(unknown + data + unknown)
    read = read_request(request, SPEC).rows
    assert read.dtype == np.uint8
    assert read.reshape(-1).tolist() == values


@pytest.mark.parametrize("value", [256, 300, 383, 384, 2**14 + 1, 2**14 + 128, 2**21, 2**32 - 1])
@pytest.mark.parametrize("index", [0, 7, 11])
def test_the_first_typed_byte_that_is_none_is_named(value: int, index: int) -> None:
    values = [*range(122, 134)]
    values[index:] = [value, *[2**32 - 2] * (11 - index)]
    with pytest.raises(InvalidInputError, match=f"at most 255, got {value}$"):
        read_request(typed("UINT8", uint_contents=values), SPEC)


def test_typed_bytes_are_not_taken_out_one_by_one() -> None:
    """That holds the interpreter for 50 ms and more where there are 1,024 images of 28x28."""
    request = typed("UINT8", uint_contents=[100] * 600_000)
    request.inputs[0].shape[0] = 100_000
    values = request.inputs[0].contents.uint_contents
    one_by_one = seconds_of(lambda: np.fromiter(values, np.uint32, len(values)))
    assert seconds_of(lambda: read_request(request, SPEC)) < one_by_one / 2


def seconds_of(call: Callable[[], object]) -> float:
    """The least of three."""
    return min(timeit.repeat(call, number=1, repeat=3))


def test_requested_outputs_keep_their_order() -> None:
    request = raw()
    request.outputs.add(name="log_var")
    request.outputs.add(name="mean")
    assert read_request(request, SPEC).outputs == (1, 0)


def parameter(name: str, **value: object) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        request.parameters[name].MergeFrom(pb.InferParameter(**value))  # type: ignore[arg-type]

    return change


@pytest.mark.parametrize(
    ("change", "timeout"),
    [
        (parameter("timeout", int64_param=250_000), 0.25),
        (parameter("timeout", uint64_param=2**64 - 1), (2**64 - 1) / 1e6),
        (parameter("timeout", int64_param=0), None),
        (parameter("priority", uint64_param=0), None),
        (parameter("sequence_id", string_param=""), None),
        (parameter("triton_enable_empty_final_response", bool_param=True), None),
        (parameter("of my own", double_param=2.5), None),
    ],
)
def test_parameters_that_mean_something_are_read_and_strangers_ignored(change: Change, timeout: float | None) -> None:
    request = raw()
    change(request)
    assert read_request(request, SPEC).timeout == timeout


def first(request: pb.ModelInferRequest, **fields: object) -> None:
    for name, value in fields.items():
        setattr(request.inputs[0], name, value)


def reshape(*shape: int) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        request.inputs[0].shape[:] = shape

    return change


def many(parameters: "dict[str, pb.InferParameter]") -> None:
    for number in range(65):
        parameters[str(number)].bool_param = True


BAD: list[tuple[str, Change, str]] = [
    ("an id of 64 KB", lambda r: setattr(r, "id", "x" * 2**16), "id: expected at most 1024 characters, got 65536"),
    ("no input", lambda r: r.ClearField("inputs"), "inputs: expected one, image, got 0 inputs"),
    ("an input twice", lambda r: r.inputs.append(r.inputs[0]), "inputs: expected one, image, got 2 inputs"),
    ("an input of another name", lambda r: first(r, name="x"), "inputs: expected image, got 'x'"),
    ("an unknown output", lambda r: r.outputs.add(name="z"), "outputs: expected each at most once of mean, log_var"),
    (
        "an output twice",
        lambda r: (r.outputs.add(name="mean"), r.outputs.add(name="mean")),
        "outputs: expected each at most once of mean, log_var, got 'mean'",
    ),
    ("many outputs", lambda r: [r.outputs.add() for _ in range(9)], "outputs: expected at most mean, log_var, got 9"),
    (
        "classes",
        lambda r: r.outputs.add(name="mean").parameters["classification"].MergeFrom(pb.InferParameter(int64_param=3)),
        "outputs[mean].parameters[classification]: expected 0: it is not offered here, got 3",
    ),
    (
        "shared memory",
        lambda r: r.inputs[0].parameters["shared_memory_region"].MergeFrom(pb.InferParameter(string_param="mine")),
        "inputs[image].parameters[shared_memory_region]: expected 0",
    ),
    ("BYTES", lambda r: first(r, datatype="BYTES"), "inputs[image].datatype: expected FP32 or FP16 or UINT8, got"),
    ("no datatype", lambda r: first(r, datatype=""), "datatype: expected FP32 or FP16 or UINT8, got ''"),
    ("no shape", reshape(), "inputs[image].shape: expected 1 to 8 axes, got 0"),
    ("many axes", reshape(*[1] * 100_000), "inputs[image].shape: expected 1 to 8 axes, got 100000"),
    ("no rows", reshape(0, 1, 2, 3), "inputs[image].shape: expected no axis below 1, got [0, 1, 2, 3]"),
    ("negative axes", reshape(-2, -1, 2, 3), "inputs[image].shape: expected no axis below 1"),
    ("a product of 2^128", reshape(2**62, 2**62, 4, 4), "raw_input_contents[0]: expected 1361129467683753853853498429"),
    ("another length", reshape(3, 1, 2, 3), "raw_input_contents[0]: expected 72 bytes for FP32 [3, 1, 2, 3], got 48"),
    ("no contents", lambda r: r.ClearField("raw_input_contents"), "expected fp32_contents, or raw_input_contents, got"),
    ("raw twice", lambda r: r.raw_input_contents.append(b""), "raw_input_contents: expected one for each input, so 1"),
    (
        "raw and typed",
        lambda r: r.inputs[0].contents.fp32_contents.append(0.5),
        "inputs[image]: expected raw_input_contents or contents, not both, got raw and fp32_contents",
    ),
    ("many parameters", lambda r: many(r.parameters), "parameters: expected at most 64, got 65"),  # type: ignore[arg-type]
    ("many of a tensor", lambda r: many(r.inputs[0].parameters), "parameters: expected at most 64"),  # type: ignore[arg-type]
    ("a priority", parameter("priority", uint64_param=1), "parameters[priority]: expected 0: it is not offered here"),
    ("a priority that is text", parameter("priority", string_param="high"), "parameters[priority]: expected 0"),
    ("a priority that is no value", parameter("priority"), "parameters[priority]: expected 0"),
    ("a sequence", parameter("sequence_id", int64_param=7), "parameters[sequence_id]: expected 0"),
    (
        "a timeout below 0",
        parameter("timeout", int64_param=-1),
        "parameters[timeout]: expected microseconds, 0 or more",
    ),
    ("a timeout that is text", parameter("timeout", string_param="1"), "parameters[timeout]: expected microseconds"),
    ("a timeout that is true", parameter("timeout", bool_param=True), "parameters[timeout]: expected microseconds"),
]


@pytest.mark.parametrize(("change", "text"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_wrong_is_refused_by_name(change: Change, text: str) -> None:
    request = raw()
    change(request)
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        read_request(request, SPEC)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (typed(fp32_contents=[0.5] * 11), "contents: expected 12 elements for [2, 1, 2, 3], got 11"),
        (typed(fp64_contents=[0.5] * 12), "contents: expected fp32_contents, or raw_input_contents, got fp64_contents"),
        (typed(fp32_contents=[0.5] * 12, uint_contents=[1]), "got uint_contents, fp32_contents"),
        (typed("FP16", fp32_contents=[0.5] * 12), "contents: expected raw_input_contents, as FP16 must be"),
        (typed("UINT8", uint_contents=[256] * 12), "contents: expected values of UINT8, at most 255, got 256"),
        (typed("UINT8", int_contents=[1] * 12), "contents: expected uint_contents, or raw_input_contents, got int_con"),
    ],
)
def test_typed_contents_are_those_of_their_type(request_: pb.ModelInferRequest, text: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        read_request(request_, SPEC)
