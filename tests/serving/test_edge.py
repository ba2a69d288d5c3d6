"""The edge on a real port with toy models: statuses, malformed bytes, health, reflection, draining."""

import asyncio
import dataclasses
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.core import Core
from serving.edge import Edge, door, rows_of_a_message
from serving.edge.oip import grpc_service_pb2 as inference_pb2
from serving.edge.oip.service import NOT_HERE
from serving.edge.server import VAE_SERVICE, request_limits
from serving.edge.status import STATUS_OF, failure_of
from serving.models import ServedModel
from serving.settings import Settings
from tests.serving.toys import IMAGE_SHAPE, toy_model
from vaeport import errors
from vaeport.arrays import to_uint8
from vaeport.errors import InvalidInputError
from vaeport.results import ModelInfo
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import from_tensor, to_tensor

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


class Served:
    """A running edge and a channel to it."""

    def __init__(self, core: Core, edge: Edge, channel: aio.Channel) -> None:
        self.core, self.edge, self.channel = core, edge, channel
        self.stub = vae_pb2_grpc.VaeServiceStub(channel)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@asynccontextmanager
async def serving(model: ServedModel) -> AsyncIterator[Served]:
    core = Core([model], max_request_rows=1024)
    address = free_address()
    edge = Edge(core, address, Settings(max_connection_age_seconds=0.2))  # one that leaves waits for as long
    await edge.start()
    async with aio.insecure_channel(address) as channel:
        yield Served(core, edge, channel)
    await edge.stop(0)
    await core.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(toy_model(max_queue_rows=1024)) as one:
        yield one


def images(rows: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, *IMAGE_SHAPE), np.uint8)


async def test_every_call_of_the_typed_service(served: Served) -> None:
    sent = images()
    encoded = await served.stub.Encode(vae_pb2.EncodeRequest(images=to_tensor(sent), seed=1))
    mean = from_tensor("mean", encoded.mean)
    assert np.array_equal(mean, (sent.astype(np.float32) / np.float32(255)).reshape(3, 6)[:, [0, 5]])
    assert (encoded.model, encoded.version) == ("toy", "3")
    assert tuple(encoded.latents.shape) == (3, 2)
    assert encoded.timings.batch_rows == 3
    assert encoded.timings.compute_seconds > 0

    decoded = await served.stub.Decode(vae_pb2.DecodeRequest(latents=encoded.mean))
    image = from_tensor("images", decoded.images)
    assert image.shape == (3, *IMAGE_SHAPE)

    as_bytes = await served.stub.Reconstruct(
        vae_pb2.ReconstructRequest(images=to_tensor(sent), dtype=vae_pb2.DTYPE_UINT8)
    )
    assert np.array_equal(from_tensor("images", as_bytes.images), to_uint8(image.astype(np.float32)))

    sampled = await served.stub.Sample(vae_pb2.SampleRequest(count=4, return_latents=True))
    again = await served.stub.Sample(vae_pb2.SampleRequest(count=2, seed=sampled.seed, first_row=2))
    assert sampled.images.data.endswith(again.images.data)
    assert not again.HasField("latents")
    zero = await served.stub.Sample(vae_pb2.SampleRequest(count=1, temperature=0.0))
    assert from_tensor("images", zero.images).flatten().tolist() == [0.5] * 6

    info = await served.stub.Info(vae_pb2.InfoRequest())
    assert [(m.name, m.version, list(m.image_shape), m.latent_dim) for m in info.models] == [("toy", "3", [1, 2, 3], 2)]
    assert info.limits.max_request_rows == 1024
    assert info.default_model == "toy"


async def test_images_too_large_for_1024_of_them_in_a_message_have_a_lower_limit() -> None:
    model = toy_model()
    large = dataclasses.replace(model, info=dataclasses.replace(model.info, image_shape=(3, 1024, 1024)))
    core = Core([large], max_request_rows=rows_of_a_message([large.info], 1024))
    limits = request_limits(core)
    assert limits.max_request_rows == 85
    with pytest.raises(InvalidInputError, match="count: expected at most 85 rows, got 86 rows"):
        await core.sample("", "", 86, seed=1, first_row=0, temperature=1.0)
    assert limits.max_request_bytes < 2**31
    assert rows_of_a_message([model.info], 1024) == 1024
    Edge(core, free_address())
    await core.close()


@pytest.mark.parametrize(
    ("image_shape", "latent_dim", "row_bytes"),
    [
        ((3, 1024, 1024), 128, 2 * 12 * 2**20),  # the decoder's images and their parameters
        ((1, 1024, 1024), 3 * 2**20, 3 * 12 * 2**20),  # mean, log_var and latents
    ],
)
def test_the_answer_to_the_largest_request_is_a_message(
    image_shape: tuple[int, int, int], latent_dim: int, row_bytes: int
) -> None:
    small = ModelInfo("toy", "3", IMAGE_SHAPE, 2, "bernoulli", "sha256:0", ("Toy",))
    info = dataclasses.replace(small, image_shape=image_shape, latent_dim=latent_dim)
    rows = rows_of_a_message([small, info], 1024)
    assert rows * row_bytes < 2**31 - 64 * 1024 <= (rows + 1) * row_bytes


async def test_a_request_of_the_largest_size_fits(served: Served) -> None:
    sent = np.zeros((1024, *IMAGE_SHAPE), np.float32)
    encoded = await served.stub.Encode(vae_pb2.EncodeRequest(images=to_tensor(sent)))
    assert tuple(encoded.mean.shape) == (1024, 2)


F16, F32, U8 = vae_pb2.DTYPE_FLOAT16, vae_pb2.DTYPE_FLOAT32, vae_pb2.DTYPE_UINT8
GOOD = to_tensor(images())
LATENT = to_tensor(np.zeros((1, 2), np.float32))

BAD_REQUESTS: list[tuple[str, Any, grpc.StatusCode, str]] = [
    ("Encode", vae_pb2.EncodeRequest(), INVALID, "images.dtype"),
    ("Encode", vae_pb2.EncodeRequest(images=vae_pb2.Tensor(dtype=U8, shape=[0, 1, 2, 3])), INVALID, "at least 1 row"),
    (
        "Encode",
        vae_pb2.EncodeRequest(images=vae_pb2.Tensor(dtype=U8, shape=[1, 3, 2], data=b"123456")),
        INVALID,
        "shape",
    ),
    (
        "Encode",
        vae_pb2.EncodeRequest(images=vae_pb2.Tensor(dtype=U8, shape=[1, 1, 2, 3], data=b"1")),
        INVALID,
        "6 bytes",
    ),
    ("Encode", vae_pb2.EncodeRequest(images=to_tensor(np.full((1, 2, 3), np.nan, "<f4"))), INVALID, "got nan at"),
    ("Encode", vae_pb2.EncodeRequest(images=to_tensor(np.full((1, 2, 3), 1.5, "<f2"))), INVALID, "got 1.5 at"),
    ("Encode", vae_pb2.EncodeRequest(images=to_tensor(np.zeros((1025, 2, 3), "u1"))), INVALID, "at most 1024 rows"),
    ("Encode", vae_pb2.EncodeRequest(model="mnist", images=GOOD), NOT_FOUND, "there is toy"),
    ("Encode", vae_pb2.EncodeRequest(version="4", images=GOOD), NOT_FOUND, "there is 3"),
    ("Encode", vae_pb2.EncodeRequest(images=GOOD, seed=1, first_row=2**64 - 1), INVALID, "first_row"),
    ("Decode", vae_pb2.DecodeRequest(latents=to_tensor(np.zeros((1, 2), "u1"))), INVALID, "latents: expected a float"),
    ("Decode", vae_pb2.DecodeRequest(latents=to_tensor(np.zeros((1, 3), "<f4"))), INVALID, "latents: expected shape"),
    ("Decode", vae_pb2.DecodeRequest(latents=LATENT, dtype=F16), INVALID, "dtype"),
    ("Sample", vae_pb2.SampleRequest(), INVALID, "count: expected at least 1 row"),
    ("Sample", vae_pb2.SampleRequest(count=2**32 - 1), INVALID, "count: expected at most 1024"),
    ("Sample", vae_pb2.SampleRequest(count=1, temperature=float("inf")), INVALID, "temperature"),
    ("Sample", vae_pb2.SampleRequest(count=1, dtype=77), INVALID, "dtype: .*got 77"),  # type: ignore[arg-type]
    ("Reconstruct", vae_pb2.ReconstructRequest(images=LATENT), INVALID, "images: expected shape"),
    ("Info", vae_pb2.InfoRequest(model="mnist"), NOT_FOUND, "there is toy"),
    ("Info", vae_pb2.InfoRequest(model="x" * 20_000), NOT_FOUND, r"no model 'xxx.*\.\.\.$"),
    ("Encode", vae_pb2.EncodeRequest(images=vae_pb2.Tensor(dtype=F32, shape=[0, 2**62, 2**62])), INVALID, "at least 1"),
    ("Sample", vae_pb2.SampleRequest(count=4, temperature=3e38), INVALID, "temperature"),
    ("Score", vae_pb2.ScoreRequest(), INVALID, "images.dtype: expected"),
    (
        "Score",
        vae_pb2.ScoreRequest(images=GOOD, importance_samples=70_000),
        INVALID,
        "importance_samples: expected 1 to",
    ),
]


@pytest.mark.parametrize(("method", "request_", "code", "text"), BAD_REQUESTS)
async def test_a_bad_request_gets_its_status_and_the_server_lives(
    served: Served, method: str, request_: Any, code: grpc.StatusCode, text: str
) -> None:
    import re

    with pytest.raises(aio.AioRpcError) as refused:
        await getattr(served.stub, method)(request_)
    assert refused.value.code() is code
    assert re.search(text, refused.value.details() or "")
    assert (await served.stub.Encode(vae_pb2.EncodeRequest(images=GOOD))).version == "3"


async def test_half_precision_is_widened(served: Served) -> None:
    half = np.full((2, *IMAGE_SHAPE), 0.25, "<f2")
    encoded = await served.stub.Encode(vae_pb2.EncodeRequest(images=to_tensor(half)))
    assert from_tensor("mean", encoded.mean).tolist() == [[0.25, 0.25]] * 2


def calls_with(data: bytes, channel: Any) -> dict[str, Any]:
    """A call of every method on the port, with `data` as its request."""
    vae = [method.name for method in vae_pb2.DESCRIPTOR.services_by_name["VaeService"].methods]
    paths = [f"/{VAE_SERVICE}/{name}" for name in vae]
    paths += [f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch")]
    paths += ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
    unread = {*NOT_HERE, "RepositoryModelLoad", "RepositoryModelUnload"}  # refused before their messages are looked at
    oip = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    paths += [f"/inference.GRPCInferenceService/{method.name}" for method in oip if method.name not in unread]
    calls: dict[str, Any] = {}
    for path in paths:
        if path.endswith(("ServerReflectionInfo", "EncodeStream", "ModelStreamInfer")):
            calls[path] = channel.stream_stream(path)(iter([data]))
        elif path.endswith(("SampleStream", "Watch")):
            calls[path] = channel.unary_stream(path)(data)
        else:
            calls[path] = channel.unary_unary(path)(data)
    return calls


async def test_bytes_that_do_not_parse_are_invalid_on_every_service(served: Served) -> None:
    calls = calls_with(b"\xff\xff\xff\xff", served.channel)
    assert len(calls) == 21
    for path, call in calls.items():
        code, details = await call.code(), await call.details()
        assert code is INVALID, path
        assert "does not parse" in details


@pytest.mark.parametrize("kind", STATUS_OF)
def test_the_table_maps_every_domain_error(kind: type[Exception]) -> None:
    assert failure_of(kind("why"), "/m", "an-id").code is STATUS_OF[kind]
    assert failure_of(kind("why"), "/m", "an-id").text == "why"


def test_no_domain_error_is_missing_from_the_table() -> None:
    """What ends the start, and what a client sees of our own bugs, are not in it."""
    at_start = {"PackageError", "DeviceError", "SelfTestError", "SignatureError"}
    ours = {"VaeportError", "ServerError", "InternalError"}
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert tree - at_start - ours == {kind.__name__ for kind in STATUS_OF}


def test_a_full_queue_says_when_to_come_back_in_two_ways() -> None:
    failure = failure_of(errors.OverloadedError("full", retry_after=0.25), "/m", "an-id")
    metadata = dict(failure.trailing_metadata)
    assert metadata["grpc-retry-pushback-ms"] == "250"
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 250
    at_once = dict(failure_of(errors.OverloadedError("full", retry_after=0.0), "/m", "an-id").trailing_metadata)
    assert at_once["grpc-retry-pushback-ms"] == "1"


async def test_our_bug_is_internal_with_an_id_that_is_in_the_log_and_nothing_else(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(served.core, "encode", broken)
    with caplog.at_level(logging.ERROR), pytest.raises(aio.AioRpcError) as failed:
        await served.stub.Encode(vae_pb2.EncodeRequest(images=GOOD))
    details = failed.value.details() or ""
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in details
    assert "Traceback" not in details
    assert details.removeprefix("internal error ") in caplog.text
    assert "ZeroDivisionError: secret detail" in caplog.text


class LeftContext:
    """Of a call that core has ended, which the loop has not heard yet."""

    async def abort(self, *_: object) -> None:
        raise aio.InternalError("Failed execute_batch")


async def test_a_refusal_that_nobody_waits_for_ends_like_a_cancelled_call() -> None:
    """grpc says nothing of a cancel; it would log the error with a traceback, for each late call of an overload."""
    with pytest.raises(asyncio.CancelledError):
        await door.abort(LeftContext(), failure_of(errors.DeadlineExceededError("too late"), "/m", "an-id"))


async def test_health_of_the_server_and_of_its_service(served: Served) -> None:
    stub: Any = health_pb2_grpc.HealthStub(served.channel)
    for service in ("", VAE_SERVICE):
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(aio.AioRpcError) as unknown:
        await stub.Check(health_pb2.HealthCheckRequest(service="other"))
    assert unknown.value.code() is NOT_FOUND


async def test_a_watcher_sees_the_drain(served: Served) -> None:
    stub: Any = health_pb2_grpc.HealthStub(served.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    stopping = asyncio.create_task(served.edge.stop(5))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await asyncio.wait_for(stopping, 3)  # a watcher never ends by itself, and must not hold up the stop


async def test_reflection_lists_and_describes_the_services(served: Served) -> None:
    channel: Any = served.channel  # its stubs know the synchronous one alone
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest
    listed = await stub.ServerReflectionInfo(iter([ask(list_services="")])).read()
    names = {service.name for service in listed.list_services_response.service}
    assert names == {
        VAE_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    }
    requests = [ask(file_containing_symbol=name) for name in sorted(names)]
    async for described in stub.ServerReflectionInfo(iter(requests)):
        files = map(FileDescriptorProto.FromString, described.file_descriptor_response.file_descriptor_proto)
        symbol = described.original_request.file_containing_symbol
        assert any(f"{file.package}.{service.name}" == symbol for file in files for service in file.service)
        names.remove(symbol)
    assert not names


async def test_an_accepted_call_is_answered_while_draining_and_a_new_one_is_unavailable(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()
    info = served.core.info

    async def slow(*arguments: Any) -> Any:
        began.set()
        await may_end.wait()
        return await type(served.core).encode(served.core, *arguments)

    monkeypatch.setattr(served.core, "encode", slow)
    accepted = asyncio.ensure_future(served.stub.Encode(vae_pb2.EncodeRequest(images=GOOD)))
    await began.wait()
    stopping = asyncio.create_task(served.edge.stop(30))
    await asyncio.sleep(0.3)
    with pytest.raises(aio.AioRpcError) as refused:
        await served.stub.Info(vae_pb2.InfoRequest(), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    health: Any = health_pb2_grpc.HealthStub(served.channel)
    status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status
    assert status == health_pb2.HealthCheckResponse.NOT_SERVING
    may_end.set()
    assert (await accepted).version == info("", "")[0].version
    await stopping


def test_the_raw_reflection_of_a_request_is_plain_json() -> None:
    """A client author without our library: the proto alone names every field."""
    from google.protobuf import json_format

    text = json_format.MessageToJson(vae_pb2.SampleRequest(count=2, seed=7, temperature=0.5))
    assert json.loads(text) == {"count": 2, "seed": "7", "temperature": 0.5}
