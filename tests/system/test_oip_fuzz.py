"""Requests that hypothesis makes up, and good ones with bytes changed: each gets a status that blames its caller."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serving.edge.oip import SERVICE
from serving.edge.oip import grpc_service_pb2 as pb
from tests.support import ServerProcess

METHODS = [
    m.name for m in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods if m.name != "ModelStreamInfer"
]
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # a timeout that was made up
}
BOUNDED = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)

names = st.sampled_from(["image", "latent", "mean", "log_var", "", "x"]) | st.text(max_size=8)
integers = st.sampled_from([0, 1, 2, 5, 8, -1, 2**31, 2**62, 2**63 - 1, -(2**63)])
values = st.one_of(
    st.builds(pb.InferParameter),
    st.builds(pb.InferParameter, bool_param=st.booleans()),
    st.builds(pb.InferParameter, int64_param=integers),
    st.builds(pb.InferParameter, string_param=st.text(max_size=4)),
    st.builds(pb.InferParameter, double_param=st.floats()),
    st.builds(pb.InferParameter, uint64_param=st.sampled_from([0, 1, 2**64 - 1])),
)
keys = st.sampled_from(["timeout", "priority", "sequence_id", "classification", "shared_memory_region", "other"])
parameters = st.dictionaries(keys, values, max_size=3)
contents = st.builds(
    pb.InferTensorContents,
    fp32_contents=st.lists(st.floats(width=32), max_size=6) | st.just([0.5] * 64),
    uint_contents=st.just([]) | st.lists(st.integers(0, 300), max_size=6),
    bytes_contents=st.just([]) | st.lists(st.binary(max_size=4), max_size=2),
)
shapes = st.sampled_from([[1, 1, 8, 8], [2, 1, 8, 8], [1, 5], [1, 64], []]) | st.lists(integers, max_size=10)
inputs = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=names,
    datatype=st.sampled_from(["FP32", "FP16", "UINT8", "BYTES", "FP64", "BF16", "", "fp32"]),
    shape=shapes,
    parameters=parameters,
    contents=st.none() | contents,
)
raws = st.sampled_from([bytes(256), bytes(64), bytes(20), b"\xff" * 256]) | st.binary(max_size=64)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=st.sampled_from(["digits_encoder", "digits_decoder"]) | st.text(max_size=8),
    model_version=st.sampled_from(["", "1", "2"]) | st.text(max_size=4),
    id=st.text(max_size=8),
    parameters=parameters,
    inputs=st.lists(inputs, max_size=2),
    outputs=st.lists(
        st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=names, parameters=parameters), max_size=3
    ),
    raw_input_contents=st.lists(raws, max_size=2),
)


def good() -> bytes:
    request = pb.ModelInferRequest(model_name="digits_encoder", raw_input_contents=[bytes(256)])
    request.inputs.add(name="image", datatype="FP32", shape=[1, 1, 8, 8])
    request.outputs.add(name="mean")
    request.parameters["timeout"].int64_param = 10**7
    return request.SerializeToString()


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as one:
        yield one
    assert "Traceback" not in server.read_log()


def status(channel: grpc.Channel, method: str, data: bytes) -> grpc.StatusCode:
    call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    code: grpc.StatusCode = call.future(data, timeout=30).code()
    return code


def streamed(channel: grpc.Channel, data: list[bytes]) -> tuple[int, grpc.StatusCode]:
    """How many answers a stream had, and how it ended."""
    stub: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    call = stub(iter(data), timeout=30)
    answers = 0
    try:
        for answer in call:
            message = pb.ModelStreamInferResponse.FromString(answer).error_message
            assert message.partition(":")[0] not in ("INTERNAL", "UNKNOWN"), message
            answers += 1
    except grpc.RpcError:
        pass
    return answers, call.code()


def healthy(channel: grpc.Channel) -> bool:
    return status(channel, "ModelInfer", good()) is grpc.StatusCode.OK


@BOUNDED
@given(request=requests)
@example(request=pb.ModelInferRequest())
def test_a_request_that_is_made_up_has_a_status_of_its_callers(channel: grpc.Channel, request: Any) -> None:
    data = request.SerializeToString()
    assert status(channel, "ModelInfer", data) in EXPECTED
    assert streamed(channel, [data, good()]) == (2, grpc.StatusCode.OK)
    assert healthy(channel)


@BOUNDED
@given(
    places=st.lists(st.tuples(st.integers(0, len(good()) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    end=st.integers(0, len(good())) | st.just(len(good())),
)
def test_a_good_request_with_bytes_changed_has_a_status_of_its_callers(
    channel: grpc.Channel, places: list[tuple[int, int]], end: int
) -> None:
    data = bytearray(good())
    for place, value in places:
        data[place] = value
    mutated = bytes(data[:end])
    assert status(channel, "ModelInfer", mutated) in EXPECTED
    assert streamed(channel, [mutated])[1] in EXPECTED
    assert healthy(channel)


@BOUNDED
@given(data=st.binary(max_size=64), method=st.sampled_from(METHODS))
def test_random_bytes_have_a_status_of_their_callers_on_every_method(
    channel: grpc.Channel, data: bytes, method: str
) -> None:
    assert status(channel, method, data) in EXPECTED
    assert healthy(channel)


@pytest.mark.parametrize("count", [0, 1, 64])
def test_a_stream_of_good_requests_is_answered(channel: grpc.Channel, count: int) -> None:
    assert streamed(channel, [good()] * count) == (count, grpc.StatusCode.OK)
