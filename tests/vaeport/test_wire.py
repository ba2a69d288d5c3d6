"""Arrays and wire tensors: a round trip for what fits, a clear refusal for what does not."""

import re
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support import ROOT
from vaeport import wire
from vaeport.errors import InvalidInputError
from vaeport.v1 import vae_pb2
from vaeport.wire import NUMPY_DTYPE, from_tensor, to_tensor, write


@given(hnp.arrays(st.sampled_from(list(NUMPY_DTYPE.values())), hnp.array_shapes(min_dims=0, max_dims=5)))
def test_an_array_survives_the_wire_bit_by_bit(array: np.ndarray) -> None:
    tensor = vae_pb2.Tensor.FromString(to_tensor(array).SerializeToString())
    back = from_tensor("images", tensor)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_strided_array_is_sent_row_by_row() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert np.array_equal(from_tensor("images", to_tensor(array)), array)


@given(hnp.arrays(st.sampled_from(list(NUMPY_DTYPE.values())), hnp.array_shapes(max_dims=5, max_side=9)))
def test_a_message_written_out_by_hand_is_the_one_that_protobuf_writes(array: np.ndarray) -> None:
    message = vae_pb2.SampleResponse(model="m" * 200, timings=vae_pb2.Timings(batch_rows=7))
    data = write(message, {"images": array, "latents": array.T})
    message.images.CopyFrom(to_tensor(array))
    message.latents.CopyFrom(to_tensor(array.T))
    assert vae_pb2.SampleResponse.FromString(data) == message


def test_a_message_that_protobuf_could_not_hold_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(ValueError, match="expected a message of at most 100 bytes, got 4"):
        write(vae_pb2.DecodeResponse(), {"images": np.zeros((100, 1), np.float32)})


def test_no_bytes_are_copied_on_arrival() -> None:
    tensor = to_tensor(np.zeros((2, 3), np.uint8))
    assert from_tensor("images", tensor).base is not None


F32, U8 = vae_pb2.DTYPE_FLOAT32, vae_pb2.DTYPE_UINT8


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (vae_pb2.Tensor(shape=[1], data=b"1234"), "images.dtype: expected DTYPE_FLOAT32 or .*, got DTYPE_UNSPECIFIED"),
        (vae_pb2.Tensor(dtype=99, shape=[1], data=b"1"), "images.dtype: .*, got 99"),  # type: ignore[arg-type]
        (
            vae_pb2.Tensor(dtype=F32, shape=[2], data=b"1234"),
            r"images.data: expected 8 bytes for shape \[2\] of float32",
        ),
        (vae_pb2.Tensor(dtype=U8, shape=[2], data=b"123"), "images.data: expected 2 bytes .*, got 3 bytes"),
        (
            vae_pb2.Tensor(dtype=U8, shape=[-1, -1], data=b"1"),
            "images.shape: expected at least 1 row, and no axis below 1",
        ),
        (vae_pb2.Tensor(dtype=U8, shape=[2**62, 2**62], data=b"1"), "images.data: expected 2126764793.* bytes"),
        (vae_pb2.Tensor(dtype=U8, shape=[1] * 9, data=b"1"), "images.shape: expected at most 8 axes, got 9 axes"),
        (vae_pb2.Tensor(dtype=U8, shape=[0, 2**62, 2**62]), "images.shape: expected at least 1 row"),
    ],
)
def test_a_malformed_tensor_is_refused_by_name(tensor: vae_pb2.Tensor, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        from_tensor("images", tensor)


def test_the_protobuf_that_is_demanded_reads_the_stubs() -> None:
    """An older one than has generated them refuses to be imported with them."""
    generated = re.search(r"Protobuf Python Version: (\S+)", (ROOT / "vaeport/v1/vae_pb2.py").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [demanded] = [each for each in project["dependencies"] if each.startswith("protobuf")]
    assert generated is not None
    assert demanded == f"protobuf>={generated[1]},<8"
