"""Large messages go through a thread: what they hold is the same, and nobody else waits for them."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.edge import guard, large_messages, servicer
from serving.edge.oip import grpc_service_pb2 as pb
from serving.edge.oip import servicer as oip_servicer
from serving.edge.oip.service import SERVICE
from tests.serving.edge.oip.test_servicer import infer
from tests.serving.test_edge import Served, images, serving
from tests.serving.toys import IMAGE_SHAPE, toy_model
from tests.serving.waiting import until
from vaeport.v1 import vae_pb2
from vaeport.wire import from_tensor, to_tensor

LATENTS = to_tensor(np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32))
BYTES = vae_pb2.DTYPE_UINT8
CALLS: list[tuple[str, Any]] = [
    ("Encode", vae_pb2.EncodeRequest(images=to_tensor(images()), seed=1)),
    ("Decode", vae_pb2.DecodeRequest(latents=LATENTS)),
    ("Decode", vae_pb2.DecodeRequest(latents=LATENTS, dtype=BYTES)),
    ("Sample", vae_pb2.SampleRequest(count=3, seed=7, return_latents=True)),
    ("Sample", vae_pb2.SampleRequest(count=3, seed=7, dtype=BYTES)),
    ("Reconstruct", vae_pb2.ReconstructRequest(images=to_tensor(images()))),
    ("Score", vae_pb2.ScoreRequest(images=to_tensor(images()), seed=3)),
]


def count_everything_as_large(
    monkeypatch: pytest.MonkeyPatch, modules: tuple[Any, ...] = (guard, servicer, oip_servicer)
) -> list[str]:
    """In these modules; what was called on the thread."""
    called: list[str] = []
    for module in modules:
        monkeypatch.setattr(module, "LARGE_BYTES", 0)
        monkeypatch.setattr(module, "on_thread", watched(called))
    monkeypatch.setattr(large_messages, "LARGE_BYTES", 0)
    return called


def watched(called: list[str]) -> Callable[..., Any]:
    """`aside`, which notes what is called."""

    async def on_thread(function: Callable[..., Any], *args: Any) -> Any:
        called.append(getattr(function, "__name__", "held"))
        return await large_messages.on_thread(function, *args)

    return on_thread


async def answers(served: Served) -> list[Any]:
    """To all calls, less their timings."""
    given = [await getattr(served.stub, name)(request) for name, request in CALLS]
    for answer in given:
        answer.ClearField("timings")
    request = vae_pb2.SampleStreamRequest(count=9, chunk_rows=4, seed=7, return_latents=True)
    chunks = [chunk async for chunk in served.stub.SampleStream(request)]
    for chunk in chunks:
        chunk.ClearField("timings")
    return [*given, *chunks]


async def inferred(served: Served) -> list[Any]:
    """The same of the Open Inference Protocol: a call, and a stream of two."""
    one: Any = served.channel.unary_unary(
        f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
    )
    many: Any = served.channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer", pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
    )
    sent = images().astype(np.float32) / 255
    streamed = [answer async for answer in many(iter([infer(sent, id="1"), infer(sent[:1], id="2")]))]
    assert [answer.infer_response.id for answer in streamed] == ["1", "2"]
    found = [await one(infer(sent, id="3")), *(answer.infer_response for answer in streamed)]
    for answer in found:
        for name in ("queue_seconds", "compute_seconds", "batch_rows"):
            answer.parameters.pop(name, None)
    return found


async def test_large_messages_hold_what_small_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(toy_model()) as served:
        expected = [*await answers(served), *await inferred(served)]
        called = count_everything_as_large(monkeypatch)
        assert [*await answers(served), *await inferred(served)] == expected
    assert set(called) == {"FromString", "from_tensor", "_written", "read_request", "written"}


@pytest.mark.parametrize(("rows", "thread"), [(2730, []), (2731, ["read_request"])])
async def test_many_bytes_one_by_one_are_read_on_the_thread(
    monkeypatch: pytest.MonkeyPatch, rows: int, thread: list[str]
) -> None:
    called: list[str] = []
    monkeypatch.setattr(oip_servicer, "on_thread", watched(called))
    request = pb.ModelInferRequest(model_name="toy_encoder")
    request.inputs.add(name="image", datatype="UINT8", shape=[rows, *IMAGE_SHAPE])
    request.inputs[0].contents.uint_contents.extend([200] * (6 * rows))
    async with serving(toy_model()) as served:
        infer_call: Any = served.channel.unary_unary(
            f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )
        assert "at most 1024 rows" in await infer_call(request).details()
    assert called == thread


async def test_a_large_message_that_is_malformed_is_refused_like_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    count_everything_as_large(monkeypatch)
    async with serving(toy_model()) as served:
        encode: Any = served.channel.unary_unary("/vaeport.v1.VaeService/Encode")
        for data, text in (
            (b"\xff" * 9, "the request does not parse"),
            (vae_pb2.EncodeRequest(images=vae_pb2.Tensor(dtype=BYTES, shape=[9])).SerializeToString(), "images.data"),
        ):
            call = encode(data)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert text in await call.details()


class Held:
    """A function that waits until it is let."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.entered, self.release = threading.Event(), threading.Event()

    def __call__(self, *args: Any) -> Any:
        self.entered.set()
        self.release.wait(30)
        return self._function(*args)


@pytest.mark.parametrize(
    ("module", "name"), [(servicer, "from_tensor"), (servicer, "write"), (oip_servicer, "read_request")]
)
async def test_nobody_waits_for_a_large_message_of_another(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    count_everything_as_large(monkeypatch, (servicer, oip_servicer))
    held = Held(getattr(module, name))
    monkeypatch.setattr(module, name, held)
    async with serving(toy_model()) as served:
        infer_call: Any = served.channel.unary_unary(
            f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )
        request = vae_pb2.ReconstructRequest(images=to_tensor(images()))
        sent = images().astype(np.float32) / 255
        call = infer_call(infer(sent)) if module is oip_servicer else served.stub.Reconstruct(request)
        answer = asyncio.ensure_future(call.code())
        await until(held.entered.is_set)
        health: Any = health_pb2_grpc.HealthStub(served.channel)
        await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert not answer.done()
        held.release.set()
        assert await answer is grpc.StatusCode.OK


async def test_a_caller_who_leaves_while_his_message_is_read_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    count_everything_as_large(monkeypatch, (servicer, oip_servicer))
    held = Held(from_tensor)
    monkeypatch.setattr(servicer, "from_tensor", held)
    async with serving(toy_model()) as served:
        call: Any = served.stub.Encode(vae_pb2.EncodeRequest(images=to_tensor(images())))
        waiting = asyncio.ensure_future(call.code())
        await until(held.entered.is_set)
        call.cancel()
        assert await waiting is grpc.StatusCode.CANCELLED
        await until(lambda: served.edge.calls == 0)
        held.release.set()
        assert (await served.stub.Encode(vae_pb2.EncodeRequest(images=to_tensor(images())))).model == "toy"


@pytest.mark.parametrize(
    ("shape", "is_large"),
    [((1, *IMAGE_SHAPE), False), ((2**18,), True), ((2**9, 2**9), True), ((2**62,) * 9, False), ((), False)],
)
def test_a_tensor_is_as_large_as_its_shape_says(shape: tuple[int, ...], is_large: bool) -> None:
    assert large_messages.is_large(shape) is is_large
