"""The server as an operator meets it: real processes, real sockets, real signals."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import vaeport
from tests.support import ROOT, ServerProcess
from vaeport.v1 import vae_pb2, vae_pb2_grpc

Start = Callable[..., ServerProcess]


def distinct_images(rows: int, offset: int) -> np.ndarray:
    """Images that differ from those of every other offset."""
    return np.random.default_rng(offset).integers(0, 256, (rows, 8, 8), np.uint8)


def test_concurrent_callers_get_exactly_their_own_rows(server: ServerProcess, package: Path) -> None:
    model = vaeport.load(package)
    expected = [model.encode(distinct_images(i % 40 + 1, i)).mean for i in range(300)]
    assert len({row.tobytes() for mean in expected for row in mean}) == sum(map(len, expected))  # a swap would show
    with vaeport.Client(server.address) as client, ThreadPoolExecutor(32) as pool:
        got = list(pool.map(lambda i: client.encode(distinct_images(i % 40 + 1, i)).mean, range(300)))
    for one, other in zip(expected, got, strict=True):
        assert np.array_equal(one, other)


def test_callers_share_batches(server: ServerProcess) -> None:
    tensor = vae_pb2.Tensor(dtype=vae_pb2.DTYPE_UINT8, shape=[64, 8, 8], data=bytes(64 * 64))
    request = vae_pb2.EncodeRequest(images=tensor)
    with grpc.insecure_channel(server.address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        calls = [stub.Encode.future(request) for _ in range(50)]
        rows = [call.result().timings.batch_rows for call in calls]
    assert max(rows) > 64
    assert max(rows) <= 512


def test_the_same_seed_gives_the_same_samples_under_load(server: ServerProcess, package: Path) -> None:
    alone = vaeport.load(package).sample(100, seed=7)
    with vaeport.Client(server.address) as client, ThreadPoolExecutor(16) as pool:
        noise = [pool.submit(client.sample, n % 50 + 1) for n in range(200)]
        crowd = [pool.submit(client.sample, 100, seed=7) for _ in range(20)]
        split = [pool.submit(client.sample, 25, seed=7, first_row=first) for first in (0, 25, 50, 75)]
        assert all(np.array_equal(sample.result(), alone) for sample in crowd)
        assert np.array_equal(np.concatenate([piece.result() for piece in split]), alone)
        assert all(sample.result().min() >= 0 for sample in noise)


def test_two_models_on_one_server(start_server: Start, two_models: Path) -> None:
    server = start_server("--models", str(two_models))
    with vaeport.Client(server.address) as anonymous:
        assert [model.name for model in anonymous.info().models] == ["colour", "digits"]
        with pytest.raises(vaeport.InvalidInputError, match="model: expected one of colour, digits"):
            anonymous.sample(1)
    for name, shape in (("colour", (3, 6, 4)), ("digits", (1, 8, 8))):
        with vaeport.Client(server.address, model=name) as client:
            assert client.sample(2, seed=1).shape == (2, *shape)
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        vae_pb2_grpc.VaeServiceStub(channel).Sample(vae_pb2.SampleRequest(count=1))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_default_model_answers_requests_without_a_name(start_server: Start, two_models: Path) -> None:
    server = start_server("--models", str(two_models), "--default-model", "digits")
    with grpc.insecure_channel(server.address) as channel:
        response = vae_pb2_grpc.VaeServiceStub(channel).Sample(vae_pb2.SampleRequest(count=1))
    assert response.model == "digits"
    with vaeport.Client(server.address) as client:
        assert client.image_shape == (1, 8, 8)
        assert client.sample(2).shape == (2, 1, 8, 8)


def test_sigterm_answers_what_was_accepted_and_exits_0(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models))
    with grpc.insecure_channel(server.address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        stub.Sample(vae_pb2.SampleRequest(count=1))  # connected
        calls = [stub.Sample.future(vae_pb2.SampleRequest(count=1000, seed=i)) for i in range(4)]
        time.sleep(0.02)  # some are accepted by now, some are not: both must end well
        status = server.terminate()
        codes = {call.code() for call in calls}
    assert status == 0, server.read_log()
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert "Traceback" not in server.read_log()


def test_a_health_watcher_does_not_hold_up_the_stop(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models))
    with grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs name no methods
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert server.terminate(timeout=10) == 0


def test_several_workers_share_the_port_and_stop_together(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models), "--workers", "2")
    workers = server.workers()
    assert len(workers) == 2
    expected = vaeport.load(models / "digits").sample(3, seed=1)
    for _ in range(12):  # each connection lands on one of them
        with vaeport.Client(server.address) as client:
            assert np.array_equal(client.sample(3, seed=1), expected)
    assert server.terminate() == 0, server.read_log()
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_workers_end_when_their_supervisor_is_killed(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models), "--workers", "2")
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def serve_and_fail(*arguments: str) -> str:
    """Standard error of a server that does not start."""
    command = [sys.executable, "-m", "serving", "--port", "0", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_a_taken_port_is_found_out(server: ServerProcess, models: Path) -> None:
    port = server.address.rsplit(":", 1)[1]
    assert f"--port {port}: cannot listen there" in serve_and_fail("--models", str(models), "--port", port)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_folder_without_models_is_one_clear_message(tmp_path: Path, workers: str) -> None:
    assert f"{tmp_path}: no models here" in serve_and_fail("--models", str(tmp_path), "--workers", workers)


def test_a_default_model_that_is_not_there_is_one_clear_message(models: Path) -> None:
    text = serve_and_fail("--models", str(models), "--default-model", "mnist")
    assert "no model 'mnist' here; there is digits" in text


def test_a_second_signal_ends_at_once(start_server: Start, models: Path) -> None:
    """The first signal waits for what was accepted: streams that take long."""
    server = start_server("--models", str(models), "--grace", "600", "--max-batch-rows", "1")
    with grpc.insecure_channel(server.address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        stub.Sample(vae_pb2.SampleRequest(count=1))  # connected
        calls = [stub.SampleStream(vae_pb2.SampleStreamRequest(count=10_000_000)) for _ in range(4)]
        time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 128 + signal.SIGTERM
        assert any(call.code() is not grpc.StatusCode.OK for call in calls)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.1, 0.2, 0.3, 0.6])
def test_a_signal_during_the_start_stops_it_without_a_traceback(
    models: Path, workers: str, number: int, after: float
) -> None:
    command = [sys.executable, "-m", "serving", "--port", "0", "--models", str(models), "--workers", workers]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(after)
        process.send_signal(number)
        try:
            _, log = process.communicate(timeout=90)
        finally:
            process.kill()
    if after >= 0.5:  # earlier than that, Python itself is starting
        assert "Traceback" not in log
    assert process.returncode in {0, 130, 128 + number, -number, 1 if after < 0.5 else 0}
