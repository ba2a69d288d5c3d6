"""What no client should send, sent to a real server process: each gets its status, and the server lives."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

import vaeport
from tests.support import ServerProcess
from vaeport.v1 import vae_pb2
from vaeport.wire import from_tensor, to_tensor

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
TOO_LARGE, TOO_LATE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED
F16, F32, U8 = vae_pb2.DTYPE_FLOAT16, vae_pb2.DTYPE_FLOAT32, vae_pb2.DTYPE_UINT8
UNARY = ("Encode", "Decode", "Sample", "Reconstruct", "Score")
HUGE = 2**62

LATENT = np.zeros((1, 5), np.float32)


def images(shape: list[int], data: bytes = b"", dtype: "vae_pb2.DType.ValueType" = U8) -> vae_pb2.EncodeRequest:
    return vae_pb2.EncodeRequest(images=vae_pb2.Tensor(dtype=dtype, shape=shape, data=data))


def holding(value: float, dtype: str = "<f4") -> vae_pb2.EncodeRequest:
    """Images of zeros, but for one pixel of the last row."""
    pixels = np.zeros((3, 8, 8), dtype)
    pixels[2, 4, 5] = value
    return vae_pb2.EncodeRequest(images=to_tensor(pixels))


def latents(array: np.ndarray) -> vae_pb2.DecodeRequest:
    return vae_pb2.DecodeRequest(latents=to_tensor(array))


def sample(**fields: float) -> vae_pb2.SampleRequest:
    return vae_pb2.SampleRequest(**{"count": 1, **fields})  # type: ignore[arg-type]


ONE = images([1, 1, 8, 8], bytes(64))
TRAPS: list[tuple[str, str, Message | bytes, grpc.StatusCode, str]] = [
    ("no rows", "Encode", images([0, 1, 8, 8]), INVALID, "at least 1 row"),
    ("no shape", "Encode", images([], bytes(1)), INVALID, "shape"),
    ("more rows than allowed", "Encode", images([1025, 1, 8, 8], bytes(1025 * 64)), INVALID, "at most 1024 rows"),
    ("more samples than allowed", "Sample", sample(count=2**32 - 1), INVALID, "count: expected at most 1024"),
    ("no samples", "Sample", sample(count=0), INVALID, "count: expected at least 1"),
    ("a product of 2^64, which is 0 in 64 bits", "Encode", images([2**32, 2**32]), INVALID, "expected 184467"),
    ("a product far above 2^64", "Encode", images([HUGE] * 8), INVALID, "images.data: expected"),
    ("a product of 2^64 + 64", "Encode", images([HUGE, 4, 1, 1], bytes(64)), INVALID, "images.data: expected"),
    ("a negative axis", "Encode", images([-1, 1, 8, 8], bytes(64)), INVALID, "no axis below 1"),
    ("two negative axes", "Encode", images([1, 1, -8, -8], bytes(64)), INVALID, "no axis below 1"),
    ("a hundred thousand axes", "Encode", images([1] * 100_000, b"1"), INVALID, "at most 8 axes, got 100000"),
    ("too little data", "Encode", images([1, 1, 8, 8], bytes(63)), INVALID, "64 bytes .*got 63"),
    ("too much data", "Encode", images([1, 1, 8, 8], bytes(65)), INVALID, "64 bytes .*got 65"),
    ("bytes that are no half precision", "Encode", images([1, 1, 8, 8], bytes(127), F16), INVALID, "128 bytes"),
    ("another shape", "Encode", images([1, 8, 8, 1], bytes(64)), INVALID, r"images: expected shape"),
    ("no dtype", "Encode", images([1, 1, 8, 8], bytes(64), vae_pb2.DTYPE_UNSPECIFIED), INVALID, "images.dtype"),
    ("an unknown dtype", "Encode", images([1], bytes(1), 99), INVALID, "got 99"),  # type: ignore[arg-type]
    ("NaN", "Encode", holding(np.nan), INVALID, r"got nan at \[2, 0, 4, 5\]"),
    ("NaN in half precision", "Encode", holding(np.nan, "<f2"), INVALID, "got nan at"),
    ("infinity", "Encode", holding(np.inf), INVALID, "got inf at"),
    ("a pixel above 1", "Encode", holding(1.0001), INVALID, r"in \[0, 1\], got 1\.0001"),
    ("a pixel below 0", "Encode", holding(-1e-3), INVALID, "got -0.001"),
    ("a latent that is NaN", "Decode", latents(LATENT * np.nan), INVALID, "latents: .*got nan"),
    ("latents that are bytes", "Decode", latents(LATENT.astype("u1")), INVALID, "latents: expected a float"),
    ("latents of another model", "Decode", latents(np.zeros((1, 6), "<f4")), INVALID, r"\[rows, 5\]"),
    ("an output of another dtype", "Sample", sample(dtype=F16), INVALID, "dtype: expected"),
    ("an output of no dtype there is", "Sample", sample(dtype=-1), INVALID, "got -1"),
    ("a temperature that is NaN", "Sample", sample(temperature=np.nan), INVALID, "temperature"),
    ("a temperature below 0", "Sample", sample(temperature=-1e-9), INVALID, "temperature"),
    ("rows beyond 2^64", "Sample", sample(seed=1, first_row=2**64 - 1, count=2), INVALID, "first_row"),
    (
        "too many draws",
        "Score",
        vae_pb2.ScoreRequest(images=ONE.images, importance_samples=2**32 - 1),
        INVALID,
        "importance_samples",
    ),
    (
        "a name of 64 KB",
        "Encode",
        vae_pb2.EncodeRequest(model="x" * 65_000, images=ONE.images),
        NOT_FOUND,
        r"xxx\.\.\.$",
    ),
    ("a name with a zero", "Sample", vae_pb2.SampleRequest(model="digits\0", count=1), NOT_FOUND, "there is digits"),
    ("a name that is a path", "Sample", vae_pb2.SampleRequest(model="../digits", count=1), NOT_FOUND, "there is"),
    ("a version that is a path", "Sample", vae_pb2.SampleRequest(version="../1", count=1), NOT_FOUND, "there is 1"),
    ("a version that is no number", "Info", vae_pb2.InfoRequest(version="\U0001f4a5"), NOT_FOUND, "there is 1"),
    ("a name that is no text", "Encode", b"\x0a\x02\xff\xfe", INVALID, "does not parse"),
    ("a message that breaks off", "Encode", ONE.SerializeToString()[:-1], INVALID, "does not parse"),
    ("groups in groups", "Encode", b"\x0b" * 10_000, INVALID, "does not parse"),
    ("a field of another type", "Encode", b"\x18\x01", INVALID, "images.dtype"),
    (
        "images twice, which protobuf merges",
        "Encode",
        2 * ONE.SerializeToString(),
        INVALID,
        "images.data: expected 4096 bytes",
    ),
    ("a message above the limit", "Encode", bytes(10**6), TOO_LARGE, "larger than max"),
]


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def call(channel: grpc.Channel, method: str, request: Message | bytes, timeout: float | None = 30.0) -> Any:
    """The call, which is also a future; the stubs know them as two."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    stub: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/vaeport.v1.VaeService/{method}")
    return stub.future(data, timeout=timeout)


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"), [trap[1:] for trap in TRAPS], ids=[t[0] for t in TRAPS]
)
def test_a_trap_gets_its_status_and_the_server_lives(
    server: ServerProcess, channel: grpc.Channel, method: str, request_: Message | bytes, code: object, text: str
) -> None:
    refused = call(channel, method, request_)
    assert refused.code() is code
    assert re.search(text, refused.details() or "")
    assert vae_pb2.EncodeResponse.FromString(call(channel, "Encode", ONE).result()).version == "1"
    assert "Traceback" not in server.read_log()


@pytest.mark.parametrize("method", UNARY)
def test_an_empty_message_is_refused_by_every_call_that_needs_more(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError, match="expected") as refused:
        call(channel, method, b"").result()
    assert refused.value.code() is INVALID


def test_unknown_fields_are_ignored_however_many(channel: grpc.Channel) -> None:
    newer = ONE.SerializeToString() + b"\xf8\x7f\x01" * 60_000  # field 2047
    assert vae_pb2.EncodeResponse.FromString(call(channel, "Encode", newer).result()).version == "1"


@pytest.mark.parametrize("seconds", [1e9, 7e9])
def test_a_deadline_of_centuries_is_served(channel: grpc.Channel, seconds: float) -> None:
    assert call(channel, "Encode", ONE, timeout=seconds).result()


def test_a_deadline_that_has_passed_is_exceeded(channel: grpc.Channel) -> None:
    assert call(channel, "Encode", ONE, timeout=-1.0).code() is TOO_LATE


def test_a_call_that_is_not_offered_is_unimplemented(channel: grpc.Channel) -> None:
    assert call(channel, "Train", b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_nan_among_strangers_harms_nobody_else(channel: grpc.Channel, package: Path) -> None:
    model = vaeport.load(package)
    sent = [np.random.default_rng(i).random((i % 7 + 1, 8, 8), np.float32) for i in range(300)]
    for i in range(0, 300, 5):
        sent[i][-1, 3, 3] = np.nan

    futures = [call(channel, "Encode", vae_pb2.EncodeRequest(images=to_tensor(rows))) for rows in sent]
    for i, (rows, future) in enumerate(zip(sent, futures, strict=True)):
        if i % 5 == 0:
            assert future.code() is INVALID
            assert future.details() == f"images: expected values in [0, 1], got nan at [{len(rows) - 1}, 0, 3, 3]"
        else:
            answer = vae_pb2.EncodeResponse.FromString(future.result())
            assert np.array_equal(from_tensor("mean", answer.mean), model.encode(rows).mean)
