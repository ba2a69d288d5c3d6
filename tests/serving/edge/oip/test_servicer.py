"""The Open Inference Protocol on a real port with toy models."""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc import aio

from serving.batching.delivery import Rows
from serving.core import Core
from serving.edge import Edge
from serving.edge.health import HealthServicer
from serving.edge.oip import SERVICE, InferenceServicer
from serving.edge.oip import grpc_service_pb2 as pb
from serving.edge.oip.service import NOT_HERE
from serving.edge.server import VAE_SERVICE
from serving.edge.unread import UnreadAnswers
from serving.settings import Settings
from tests.serving.test_edge import free_address
from tests.serving.toys import encode, toy_model
from tests.serving.waiting import until
from vaeport._version import __version__
from vaeport.errors import InvalidInputError, NotFoundError, UnavailableError
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import from_tensor, to_tensor

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
ANSWERS = UnreadAnswers(2**40, 2**40, lambda _: "anybody")
IMAGES = np.random.default_rng(0).random((3, 1, 2, 3), np.float32)


def serialise(message: Message) -> bytes:
    return message.SerializeToString()


class Gate:
    """The toy encoder, which computes when the test lets it."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()
        self.open.set()

    async def compute(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        self.entered.set()
        await self.open.wait()
        return await encode(pieces)


class Served:
    """A running edge with one model, and calls of the protocol to it."""

    def __init__(self, core: Core, edge: Edge, channel: aio.Channel, gate: Gate) -> None:
        self.core, self.edge, self.channel, self.gate = core, edge, channel, gate
        self.typed: Any = vae_pb2_grpc.VaeServiceStub(channel)

    def __call__(self, method: str, request: Message | None = None, timeout: float | None = 10.0) -> Any:
        kind = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[method]
        answer = message_factory.GetMessageClass(kind.output_type)
        request = message_factory.GetMessageClass(kind.input_type)() if request is None else request
        call: Any = self.channel.unary_unary(f"/{SERVICE}/{method}", serialise, answer.FromString)
        return call(request, timeout=timeout)

    def stream(self, requests: Any, **options: Any) -> Any:
        parse = pb.ModelStreamInferResponse.FromString
        call: Any = self.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer", serialise, parse)
        return call(requests, timeout=10.0, **options)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    gate = Gate()
    core = Core([toy_model(encode=gate.compute)], max_request_rows=1024)
    address = free_address()
    edge = Edge(core, address)
    await edge.start()
    async with aio.insecure_channel(address) as channel:
        yield Served(core, edge, channel, gate)
    gate.open.set()
    await edge.stop(0)
    await core.close()


def infer(images: np.ndarray = IMAGES, name: str = "toy_encoder", version: str = "", **fields: Any) -> Any:
    request = pb.ModelInferRequest(model_name=name, model_version=version, **fields)
    request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    request.raw_input_contents.append(images.astype("<f4").tobytes())
    return request


def array(response: pb.ModelInferResponse, name: str) -> np.ndarray:
    index = [output.name for output in response.outputs].index(name)
    raw = np.frombuffer(response.raw_output_contents[index], "<f4")
    return raw.reshape(response.outputs[index].shape)


async def status(call: Any) -> tuple[grpc.StatusCode, str]:
    return await call.code(), await call.details()


async def test_a_server_is_alive_and_ready_and_says_what_it_is(served: Served) -> None:
    assert (await served("ServerLive")).live
    assert (await served("ServerReady")).ready
    metadata = await served("ServerMetadata")
    assert (metadata.name, metadata.version) == ("vaeport", __version__)
    assert list(metadata.extensions) == ["model_configuration", "statistics"]


async def test_several_workers_do_not_claim_to_have_statistics(served: Served) -> None:
    servicer = InferenceServicer(served.core, served.edge.health, Settings(workers=2), 1024, None, ANSWERS)
    metadata = await servicer.ServerMetadata(pb.ServerMetadataRequest(), None)
    assert list(metadata.extensions) == ["model_configuration"]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("toy_encoder", "", True),
        ("toy_decoder", "3", True),
        ("toy_encoder", "4", False),
        ("toy", "", False),
        ("", "", False),
        ("\U0001f4a5", "x", False),
    ],
)
async def test_a_model_that_is_unknown_is_not_ready_and_no_error(
    served: Served, name: str, version: str, ready: bool
) -> None:
    assert (await served("ModelReady", pb.ModelReadyRequest(name=name, version=version))).ready is ready


async def test_readiness_is_that_of_the_health(served: Served) -> None:
    served.edge.health.show({"toy"})
    assert not (await served("ServerReady")).ready
    assert not (await served("ModelReady", pb.ModelReadyRequest(name="toy_encoder"))).ready
    listed = (await served("RepositoryIndex")).models
    assert [(model.name, model.version, model.state) for model in listed] == [
        ("toy_encoder", "3", "UNAVAILABLE"),
        ("toy_decoder", "3", "UNAVAILABLE"),
    ]
    assert not (await served("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))).models
    served.edge.health.show(())
    listed = (await served("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))).models
    assert [(model.state, model.reason) for model in listed] == [("READY", "")] * 2


async def test_metadata_and_configuration_have_names_types_and_shapes(served: Served) -> None:
    metadata = await served("ModelMetadata", pb.ModelMetadataRequest(name="toy_decoder"))
    assert (metadata.platform, list(metadata.versions)) == ("onnxruntime_onnx", ["3"])
    described = [(t.name, t.datatype, list(t.shape)) for t in (*metadata.inputs, *metadata.outputs)]
    assert described == [
        ("latent", "FP32", [-1, 2]),
        ("image", "FP32", [-1, 1, 2, 3]),
        ("logits", "FP32", [-1, 1, 2, 3]),
    ]
    config = (await served("ModelConfig", pb.ModelConfigRequest(name="toy_encoder", version="3"))).config
    assert (config.name, config.backend, config.max_batch_size) == ("toy_encoder", "onnxruntime", 1024)
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("image", pb.TYPE_FP32, [1, 2, 3])]
    assert [(t.name, list(t.dims)) for t in config.output] == [("mean", [2]), ("log_var", [2])]
    assert config.parameters["digest"].string_value == "sha256:0"


async def test_an_answer_is_raw_and_has_the_id_and_the_outputs_that_were_asked_for(served: Served) -> None:
    answer = await served("ModelInfer", infer(id="mine"))
    assert (answer.model_name, answer.model_version, answer.id) == ("toy_encoder", "3", "mine")
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [
        ("mean", "FP32", [3, 2]),
        ("log_var", "FP32", [3, 2]),
    ]
    assert not any(output.HasField("contents") for output in answer.outputs)
    assert np.array_equal(array(answer, "mean"), IMAGES.reshape(3, 6)[:, [0, 5]])
    fewer = infer()
    fewer.outputs.add(name="log_var")
    only = await served("ModelInfer", fewer)
    assert [output.name for output in only.outputs] == ["log_var"]
    assert np.array_equal(array(only, "log_var"), -array(answer, "mean"))


async def test_its_rows_share_batches_with_those_of_the_typed_service(served: Served) -> None:
    served.gate.open.clear()
    before = asyncio.ensure_future(served("ModelInfer", infer(IMAGES[:1])))
    await served.gate.entered.wait()
    after = asyncio.ensure_future(served("ModelInfer", infer(IMAGES[:2])))
    typed = asyncio.ensure_future(served.typed.Encode(vae_pb2.EncodeRequest(images=to_tensor(IMAGES[2:]))))
    graph = served.core.graph("toy_encoder", "")
    await until(lambda: graph.batcher.queued_rows == 3)
    served.gate.open.set()
    mean = from_tensor("mean", (await typed).mean)
    assert np.array_equal(np.concatenate([array(await after, "mean"), mean]), IMAGES.reshape(3, 6)[:, [0, 5]])
    await before
    timings = after.result().parameters
    assert timings["batch_rows"].int64_param == 3
    assert timings["queue_seconds"].double_param > 0
    assert timings["compute_seconds"].double_param > 0
    (one,) = (await served("ModelStatistics", pb.ModelStatisticsRequest(name="toy_encoder"))).model_stats
    assert [(batch.batch_size, batch.compute_infer.count) for batch in one.batch_stats] == [(1, 1), (3, 1)]
    assert (one.inference_count, one.execution_count, one.inference_stats.success.count) == (4, 2, 3)


async def test_statistics_are_of_all_models_or_of_one_and_count_failures(served: Served) -> None:
    await served("ModelInfer", infer())
    everything = (await served("ModelStatistics")).model_stats
    assert [(each.name, each.version, each.inference_count) for each in everything] == [
        ("toy_encoder", "3", 3),
        ("toy_decoder", "3", 0),
    ]
    stats = everything[0].inference_stats
    assert stats.success.ns >= stats.queue.ns + stats.compute_infer.ns > 0
    assert everything[0].last_inference > 1.7e12 > everything[1].last_inference
    await served.core.close()
    await served("ModelInfer", infer()).code()
    (one,) = (await served("ModelStatistics", pb.ModelStatisticsRequest(name="toy_encoder"))).model_stats
    assert one.inference_stats.fail.count == 1


BAD_CALLS: list[tuple[str, Message, grpc.StatusCode, str]] = [
    ("ModelInfer", pb.ModelInferRequest(), NOT_FOUND, "model: no model '' here; there is toy_encoder, toy_decoder"),
    ("ModelInfer", infer(name="toy"), NOT_FOUND, "no model 'toy' here"),
    ("ModelInfer", infer(version="4"), NOT_FOUND, "no version '4' of model 'toy_encoder' here; there is 3"),
    ("ModelInfer", infer(id="x" * 2**16), INVALID, "id: expected at most 1024 characters"),
    ("ModelInfer", infer(IMAGES * np.nan), INVALID, "image: expected values in [0, 1], got nan at [0, 0, 0, 0]"),
    ("ModelInfer", infer(IMAGES.reshape(3, 1, 3, 2)), INVALID, "image: expected shape [rows, 1, 2, 3], at least 1 row"),
    ("ModelInfer", infer(np.zeros((1025, 1, 2, 3))), INVALID, "image: expected at most 1024 rows, got 1025 rows"),
    ("ModelInfer", infer(name="x" * 60_000), NOT_FOUND, "no model 'xxx"),
    ("ModelMetadata", pb.ModelMetadataRequest(name="x"), NOT_FOUND, "there is toy_encoder"),
    ("ModelConfig", pb.ModelConfigRequest(), NOT_FOUND, "there is toy_encoder"),
    ("ModelStatistics", pb.ModelStatisticsRequest(name="x"), NOT_FOUND, "there is toy_encoder"),
    ("ModelStatistics", pb.ModelStatisticsRequest(version="3"), NOT_FOUND, "no model ''"),
    ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x"), NOT_FOUND, "no repository 'x' here"),
]


@pytest.mark.parametrize(("method", "request_", "code", "text"), BAD_CALLS)
async def test_a_bad_call_gets_its_status_and_text(
    served: Served, method: str, request_: Message, code: grpc.StatusCode, text: str
) -> None:
    got, details = await status(served(method, request_))
    assert got is code
    assert text in details


@pytest.mark.parametrize("method", sorted(NOT_HERE))
async def test_what_is_not_done_here_is_unimplemented_in_words_and_with_a_request_id(
    served: Served, method: str
) -> None:
    call = served(method)
    assert await status(call) == (grpc.StatusCode.UNIMPLEMENTED, NOT_HERE[method])
    assert dict(await call.trailing_metadata())["x-request-id"]


async def test_a_timeout_of_the_request_is_a_deadline(served: Served) -> None:
    served.gate.open.clear()
    running = asyncio.ensure_future(served("ModelInfer", infer()))
    await served.gate.entered.wait()
    request = infer()
    request.parameters["timeout"].int64_param = 20_000
    assert (await status(served("ModelInfer", request)))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    served.gate.open.set()
    assert (await running).outputs


@pytest.mark.parametrize("seconds", [None, 7e9, 1e9])
async def test_a_deadline_of_centuries_is_served(served: Served, seconds: float | None) -> None:
    request = infer()
    request.parameters["timeout"].uint64_param = 2**64 - 1
    assert (await served("ModelInfer", request, seconds)).outputs


async def test_a_stream_answers_in_order_and_goes_on_after_errors(served: Served) -> None:
    requests = [infer(id="1"), infer(IMAGES * np.nan, id="2"), infer(name="x", id="3"), infer(IMAGES[:1], id="4")]
    answers = [answer async for answer in served.stream(iter(requests))]
    assert [answer.infer_response.id for answer in answers] == ["1", "2", "3", "4"]
    errors = [answer.error_message for answer in answers]
    assert (errors[0], errors[3]) == ("", "")
    assert errors[1] == "INVALID_ARGUMENT: image: expected values in [0, 1], got nan at [0, 0, 0, 0]"
    assert errors[2].startswith("NOT_FOUND: model: no model 'x' here")
    assert array(answers[3].infer_response, "mean").shape == (1, 2)
    assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in answers)


async def test_a_stream_that_asks_for_a_status_ends_with_it(served: Served) -> None:
    requests = iter([infer(id="1"), infer(name="x"), infer()])
    call = served.stream(requests, metadata=[("triton_grpc_error", "true")])
    assert (await call.read()).infer_response.id == "1"
    with pytest.raises(aio.AioRpcError) as ended:
        await call.read()
    assert ended.value.code() is NOT_FOUND


async def test_our_bug_in_a_stream_is_an_id_that_is_in_the_log(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(served.core, "infer", broken)
        (answer,) = [answer async for answer in served.stream(iter([infer()]))]
    name, _, request_id = answer.error_message.partition(": internal error ")
    assert name == "INTERNAL"
    assert request_id in caplog.text
    assert "secret" not in answer.error_message


async def test_a_message_of_a_stream_that_does_not_parse_ends_it(served: Served) -> None:
    call: Any = served.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    code, details = await status(call(iter([b"\xff\xff"])))
    assert code is INVALID
    assert "does not parse" in details


async def test_a_drain_ends_a_stream_that_waits_for_its_caller(served: Served) -> None:
    async def requests() -> AsyncIterator[pb.ModelInferRequest]:
        yield infer()
        await asyncio.Event().wait()

    call = served.stream(requests())
    assert (await call.read()).infer_response.outputs
    await asyncio.wait_for(served.edge.stop(5), 4)
    with pytest.raises(aio.AioRpcError) as ended:
        await call.read()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_streams_and_calls_that_are_cancelled_leave_nothing_behind(served: Served) -> None:
    async def requests() -> AsyncIterator[pb.ModelInferRequest]:
        yield infer()
        await asyncio.Event().wait()

    for _ in range(100):
        call = served.stream(requests())
        assert (await call.read()).infer_response.outputs
        call.cancel()
    served.gate.open.clear()
    served.gate.entered.clear()
    computed, waiting = served("ModelInfer", infer()), served("ModelInfer", infer())
    await served.gate.entered.wait()
    kept = asyncio.ensure_future(served("ModelInfer", infer()))
    await until(lambda: served.edge.calls == 3)
    computed.cancel()
    waiting.cancel()
    await until(lambda: served.edge.calls == 1)
    served.gate.open.set()
    assert np.array_equal(array(await kept, "mean"), IMAGES.reshape(3, 6)[:, [0, 5]])
    await until(lambda: served.edge.calls == 0)


async def test_load_and_unload_are_closed_without_tokens(served: Served) -> None:
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        assert (await status(served(method)))[0] is grpc.StatusCode.PERMISSION_DENIED


class Reloading:
    """A servicer whose server can be reloaded, with a folder of two packages."""

    def __init__(self, core: Core, models: Path) -> None:
        for name in ("toy", "new"):
            (models / name / "1").mkdir(parents=True)
        self.asked: list[tuple[str, bool]] = []
        self.health = HealthServicer(VAE_SERVICE, ["toy"])
        self.servicer = InferenceServicer(core, self.health, Settings(models=models), 1024, self.change, ANSWERS)

    def change(self, model: str, wanted: bool) -> None:
        self.asked.append((model, wanted))

    async def load(self, name: str, **fields: Any) -> None:
        request = pb.RepositoryModelLoadRequest(model_name=name, **fields)
        await self.servicer.RepositoryModelLoad(request, None)


@pytest.fixture
def reloading(served: Served, tmp_path: Path) -> Reloading:
    return Reloading(served.core, tmp_path)


@pytest.mark.parametrize("name", ["toy", "toy_encoder", "toy_decoder", "new"])
async def test_load_asks_for_a_reload_of_what_is_in_the_folder(reloading: Reloading, name: str) -> None:
    await reloading.load(name)
    assert reloading.asked == [(name.partition("_")[0], True)]


@pytest.mark.parametrize("name", ["toy", "toy_decoder"])
async def test_unload_asks_for_a_reload_without_the_model(name: str, tmp_path: Path) -> None:
    core = Core([toy_model(), toy_model("other")], max_request_rows=8)
    reloading = Reloading(core, tmp_path)
    request = pb.RepositoryModelUnloadRequest(model_name=name)
    await reloading.servicer.RepositoryModelUnload(request, None)
    assert reloading.asked == [("toy", False)]
    request.model_name = "old"
    with pytest.raises(NotFoundError, match="no model 'old'; there is toy, toy_encoder"):
        await reloading.servicer.RepositoryModelUnload(request, None)
    reloading.servicer._default_model = request.model_name = "other"
    with pytest.raises(InvalidInputError, match="a model that is neither the only one nor --default-model"):
        await reloading.servicer.RepositoryModelUnload(request, None)
    await core.close()


async def test_the_only_model_is_not_unloaded(reloading: Reloading) -> None:
    with pytest.raises(InvalidInputError, match="a model that is neither the only one"):
        await reloading.servicer.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="toy"), None)
    assert not reloading.asked


async def test_a_load_that_cannot_be_done_asks_for_nothing(reloading: Reloading, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is new, new_encoder, new_decoder, toy, toy_encoder, toy_decoder"):
        await reloading.load("old")
    with pytest.raises(NotFoundError, match="no repository 'x' here"):
        await reloading.load("toy", repository_name="x")
    with pytest.raises(InvalidInputError, match="parameters: expected none: models come from their folder alone"):
        await reloading.load("toy", parameters={"config": pb.ModelRepositoryParameter(string_param="{}")})
    reloading.servicer._models = tmp_path / "nowhere"
    with pytest.raises(NotFoundError, match="nothing to load"):
        await reloading.load("toy")
    assert not reloading.asked


async def test_where_nobody_can_reload_load_is_unavailable(served: Served) -> None:
    servicer = InferenceServicer(served.core, served.edge.health, Settings(), 1024, None, ANSWERS)
    with pytest.raises(UnavailableError, match="this server has no supervisor that could reload it"):
        await servicer.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="toy"), None)


async def test_a_gaussian_decoder_gives_means() -> None:
    model = toy_model()
    info = dataclasses.replace(model.info, likelihood="gaussian")
    core = Core([dataclasses.replace(model, info=info)], max_request_rows=8)
    assert core.graph("toy_decoder", "").spec.output_names == ["image", "mean"]
    await core.close()
