"""NVIDIA's tritonclient, as it is, against a real server: every call, and the numbers of `vaeport.load`."""

import asyncio
import queue
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.grpc import aio as triton_aio
from tritonclient.utils import InferenceServerException

import vaeport
from serving.security.access import Scope
from serving.security.tokens import line_of, new_secret
from tests.support import ServerProcess
from tests.system.load import wait_until

IMAGES = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
Start = Callable[..., ServerProcess]


@pytest.fixture(scope="module")
def model(package: Path) -> vaeport.Model:
    return vaeport.load(package)


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Any]:
    with InferenceServerClient(server.address) as one:
        yield one


def tensor(name: str, array: np.ndarray, datatype: str = "FP32") -> Any:
    one = InferInput(name, array.shape, datatype)
    one.set_data_from_numpy(array)
    return one


def test_what_a_server_is_and_has(client: Any, model: vaeport.Model) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits_encoder")
    assert client.is_model_ready("digits_decoder", "1")
    assert not client.is_model_ready("digits_encoder", "2")
    assert client.get_server_metadata().extensions == ["model_configuration", "statistics"]
    metadata = client.get_model_metadata("digits_encoder", as_json=True)
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}]
    assert [output["name"] for output in metadata["outputs"]] == ["mean", "log_var"]
    config = client.get_model_config("digits_decoder").config
    assert [(t.name, list(t.dims)) for t in (*config.input, *config.output)] == [
        ("latent", [5]),
        ("image", [1, 8, 8]),
        ("logits", [1, 8, 8]),
    ]
    assert config.parameters["digest"].string_value == model.info().models[0].digest
    index = client.get_model_repository_index(as_json=True)["models"]
    assert [(m["name"], m["state"]) for m in index] == [("digits_encoder", "READY"), ("digits_decoder", "READY")]


def test_the_encoder_gives_the_numbers_that_the_package_gives_here(client: Any, model: vaeport.Model) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, IMAGES.shape, np.uint8)
    for images, datatype in ((IMAGES, "FP32"), (IMAGES.astype(np.float16), "FP16"), (pixels, "UINT8")):
        result = client.infer("digits_encoder", [tensor("image", images, datatype)], request_id="mine")
        expected = model.encode(images)
        assert np.array_equal(result.as_numpy("mean"), expected.mean)
        assert np.array_equal(result.as_numpy("log_var"), expected.log_var)
        assert result.get_response().id == "mine"


def test_the_decoder_gives_the_numbers_that_the_package_gives_here(client: Any, model: vaeport.Model) -> None:
    latents = np.random.default_rng(2).normal(size=(300, 5)).astype(np.float32)
    wanted = [InferRequestedOutput("logits"), InferRequestedOutput("image")]
    result = client.infer("digits_decoder", [tensor("latent", latents)], outputs=wanted, compression_algorithm="gzip")
    assert [output.name for output in result.get_response().outputs] == ["logits", "image"]
    assert np.array_equal(result.as_numpy("image"), model.decode(latents))
    logits = result.as_numpy("logits").astype(np.float64)
    assert np.allclose(1 / (1 + np.exp(-logits)), result.as_numpy("image"), atol=1e-6)


def test_calls_that_come_back_later_give_the_same(client: Any, model: vaeport.Model) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for row in range(5):
        image = tensor("image", IMAGES[row : row + 1])
        client.async_infer(
            "digits_encoder", [image], lambda **got: answers.put(tuple(got.values())), request_id=str(row)
        )
    expected = model.encode(IMAGES).mean
    for _ in range(5):
        result, error = answers.get(timeout=10)
        assert error is None
        assert np.array_equal(result.as_numpy("mean")[0], expected[int(result.get_response().id)])


def test_a_stream_answers_in_order_and_goes_on_after_an_error(client: Any, model: vaeport.Model) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    nan = np.full((1, 5), np.nan, np.float32)
    for latents, request_id in ((IMAGES[:2, 0, 0, :5], "1"), (nan, "2"), (IMAGES[:1, 0, 1, :5], "3")):
        contiguous = tensor("latent", np.ascontiguousarray(latents))
        client.async_stream_infer(
            "digits_decoder", [contiguous], request_id=request_id, enable_empty_final_response=True
        )
    first, failed, last = (answers.get(timeout=10) for _ in range(3))
    client.stop_stream()
    assert np.array_equal(first[0].as_numpy("image"), model.decode(IMAGES[:2, 0, 0, :5]))
    assert first[0].get_response().parameters["triton_final_response"].bool_param
    assert failed[0] is None
    assert failed[1].message() == "INVALID_ARGUMENT: latent: expected values finite, got nan at [0, 0]"
    assert last[0].get_response().id == "3"


async def test_the_asynchronous_client_does_the_same(server: ServerProcess, model: vaeport.Model) -> None:
    async with triton_aio.InferenceServerClient(server.address) as client:
        assert await client.is_server_ready()
        assert not await client.is_model_ready("nothing")
        image = tensor("image", IMAGES)
        results = await asyncio.gather(*(client.infer("digits_encoder", [image]) for _ in range(8)))
        expected = model.encode(IMAGES).mean
        assert all(np.array_equal(result.as_numpy("mean"), expected) for result in results)

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "digits_encoder", "inputs": [image], "request_id": "1"}
            yield {"model_name": "nothing", "inputs": [image]}
            yield {"model_name": "digits_encoder", "inputs": [image], "request_id": "3"}

        answers = [answer async for answer in client.stream_infer(requests())]
        assert [answers[number][0].get_response().id for number in (0, 2)] == ["1", "3"]
        assert answers[1][1].message().startswith("NOT_FOUND: model: no model 'nothing' here")


def test_statistics_grow_by_the_calls_of_all_services(server: ServerProcess, client: Any) -> None:
    def done() -> Any:
        return client.get_inference_statistics("digits_encoder").model_stats[0]

    before = done()
    client.infer("digits_encoder", [tensor("image", IMAGES)])
    with vaeport.Client(server.address) as ours:
        ours.encode(IMAGES[:2])
    after = done()
    assert after.inference_count - before.inference_count == 7
    assert after.execution_count - before.execution_count == 2
    assert after.inference_stats.success.count - before.inference_stats.success.count == 2
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    rows = {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats}
    assert rows[5] >= 1 <= rows[2]
    assert after.last_inference >= before.last_inference > 0


@pytest.mark.parametrize(
    ("name", "inputs", "options", "status"),
    [
        ("nothing", [tensor("image", IMAGES)], {}, "NOT_FOUND"),
        ("digits_encoder", [tensor("image", IMAGES)], {"model_version": "2"}, "NOT_FOUND"),
        ("digits_encoder", [tensor("images", IMAGES)], {}, "INVALID_ARGUMENT"),
        ("digits_encoder", [tensor("image", IMAGES), tensor("image", IMAGES)], {}, "INVALID_ARGUMENT"),
        ("digits_encoder", [tensor("image", IMAGES.astype(np.float64), "FP64")], {}, "INVALID_ARGUMENT"),
        ("digits_encoder", [tensor("image", np.full((1, 1), b"x", np.object_), "BYTES")], {}, "INVALID_ARGUMENT"),
        ("digits_encoder", [tensor("image", IMAGES[:, 0])], {}, "INVALID_ARGUMENT"),
        ("digits_encoder", [tensor("image", IMAGES[:0])], {}, "INVALID_ARGUMENT"),
        ("digits_encoder", [tensor("image", 2 * IMAGES)], {}, "INVALID_ARGUMENT"),
        (
            "digits_encoder",
            [tensor("image", IMAGES)],
            {"outputs": [InferRequestedOutput("sigma")]},
            "INVALID_ARGUMENT",
        ),
        (
            "digits_encoder",
            [tensor("image", IMAGES)],
            {"outputs": [InferRequestedOutput("mean", class_count=3)]},
            "INVALID_ARGUMENT",
        ),
        ("digits_encoder", [tensor("image", IMAGES)], {"priority": 1}, "INVALID_ARGUMENT"),
        ("digits_encoder", [tensor("image", IMAGES)], {"sequence_id": 1}, "INVALID_ARGUMENT"),
        ("digits_encoder", [tensor("image", IMAGES)], {"request_id": "x" * 2**16}, "INVALID_ARGUMENT"),
        ("digits_decoder", [tensor("latent", np.zeros((1, 6), np.float32))], {}, "INVALID_ARGUMENT"),
    ],
)
def test_what_is_wrong_gets_the_status_that_says_so(
    client: Any, name: str, inputs: list[Any], options: dict[str, Any], status: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(name, inputs, **options)
    assert refused.value.status() == f"StatusCode.{status}"


def test_shared_memory_traces_and_logs_are_unimplemented(client: Any) -> None:
    calls: list[Callable[[], object]] = [
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        lambda: client.register_system_shared_memory("mine", "/mine", 64),
        client.unregister_system_shared_memory,
        client.get_trace_settings,
        lambda: client.update_log_settings({"log_info": True}),
    ]
    for call in calls:
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_what_is_unloaded_is_gone_until_it_is_loaded(start_server: Start, two_models: Path, tmp_path: Path) -> None:
    secret = new_secret()
    (tmp_path / "tokens").write_text(line_of("all", frozenset(Scope), secret, ""))
    (tmp_path / "tokens").chmod(0o600)
    flags = ("--tokens", str(tmp_path / "tokens"), "--max-connection-age-seconds", "0.5")
    server = start_server("--models", str(two_models), *flags)
    headers = {"authorization": f"Bearer {secret}"}

    def names(client: InferenceServerClient) -> set[str]:
        return {model.name for model in client.get_model_repository_index(headers=headers).models}

    with InferenceServerClient(server.address) as client:
        client.unload_model("colour", headers=headers)
        wait_until(lambda: "reload done: digits 1\n" in server.read_log())
        assert names(client) == {"digits_encoder", "digits_decoder"}
        assert not client.is_model_ready("colour_encoder", headers=headers)
        server.process.send_signal(signal.SIGHUP)  # which changes nothing about that
        wait_until(lambda: server.read_log().count("reload done: digits 1\n") == 2)
        client.load_model("colour_decoder", headers=headers)
        wait_until(lambda: "reload done: colour 1, digits 1\n" in server.read_log())
        assert client.is_model_ready("colour_encoder", headers=headers)
    assert server.terminate() == 0


def test_load_is_a_reload_for_who_may_ask_for_it(start_server: Start, models: Path, tmp_path: Path) -> None:
    secrets = {scope: new_secret() for scope in ("infer", "admin")}
    lines = [line_of(scope, frozenset({scope}), secret, "") for scope, secret in secrets.items()]  # type: ignore[arg-type]
    (tmp_path / "tokens").write_text("\n".join(lines))
    (tmp_path / "tokens").chmod(0o600)
    flags = ("--tokens", str(tmp_path / "tokens"), "--max-connection-age-seconds", "0.5")
    server = start_server("--models", str(models), *flags)
    headers = {scope: {"authorization": f"Bearer {secret}"} for scope, secret in secrets.items()}

    def refused(call: Callable[[], object]) -> str:
        with pytest.raises(InferenceServerException) as error:
            call()
        return str(error.value.status()).removeprefix("StatusCode.")

    with InferenceServerClient(server.address) as client:
        assert refused(client.is_server_ready) == "UNAUTHENTICATED"
        assert client.is_server_ready(headers=headers["infer"])
        assert refused(lambda: client.load_model("digits", headers=headers["infer"])) == "PERMISSION_DENIED"
        assert refused(lambda: client.load_model("nothing", headers=headers["admin"])) == "NOT_FOUND"
        assert refused(lambda: client.load_model("digits", headers=headers["admin"], config="{}")) == "INVALID_ARGUMENT"
        assert refused(lambda: client.unload_model("digits", headers=headers["infer"])) == "PERMISSION_DENIED"
        assert refused(lambda: client.unload_model("digits", headers=headers["admin"])) == "INVALID_ARGUMENT"
        assert "reloading" not in server.read_log()
        client.load_model("digits_encoder", headers=headers["admin"])
        wait_until(lambda: "reload done: digits 1" in server.read_log())
        assert client.is_model_ready("digits_encoder", headers=headers["infer"])
    assert server.terminate() == 0
