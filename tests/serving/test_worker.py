"""What a worker says of its device, and how it ends without one."""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, Popen, run
from typing import Any

import numpy as np
import pytest

import vaeport
from serving.engine import bound as bound_memory
from serving.models import load_models
from serving.repository import default_packages
from serving.settings import Settings
from serving.supervisor.entry import work
from serving.supervisor.messages import Said
from serving.worker import EXIT_DEVICE_LOST, _ask, _beat, device_of
from tests.serving.test_edge import free_address
from tests.support import ROOT
from vaeport.arrays import to_float
from vaeport.errors import SelfTestError, UnavailableError
from vaeport.graphs import CPU_PROVIDER, CudaOptions, Device, Graph, choose_device

ON_CUDA = {"tf32": True, "gpu_mem_limit_mb": 100, "batch_buckets": (256,), "cuda_graphs": True}


def test_a_lost_device_refuses_all_who_wait_and_ends_the_process(models: Path) -> None:
    address = free_address()
    command = [sys.executable, "-m", "tests.serving.lost_device", str(models), address]
    images, white = np.random.default_rng(0).random((9, 1, 8, 8), np.float32), np.ones((1, 1, 8, 8), np.float32)
    with (
        Popen(command, cwd=ROOT, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE) as worker,
        ThreadPoolExecutor() as callers,
        vaeport.Client(address, retries=0) as client,
    ):
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        assert np.array_equal(client.encode(images).mean, vaeport.load(models / "digits").encode(images).mean)
        calls: list[Future[Any]] = [callers.submit(client.encode, white)]
        assert worker.stdout.readline() == "computing\n"
        calls += [callers.submit(client.encode, images), callers.submit(client.sample, 3, seed=1)]
        time.sleep(0.2)  # they are refused also if they have not come by then
        _, log = worker.communicate("\n", timeout=20)
        errors = [call.exception() for call in calls]
    assert [type(error) for error in errors] == [UnavailableError] * 3
    assert "encoder: the device is lost: CUDA failure 700" in str(errors[0])
    assert worker.returncode == EXIT_DEVICE_LOST
    assert "CRITICAL serving.worker: the device is lost: " in log
    assert "Traceback" not in log


def test_a_model_in_bound_memory_is_the_model(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    device = choose_device("cpu")
    packages = default_packages(models)
    (plain,), (bound,) = load_models(packages, device, 1), load_models(packages, device, 1, buckets=(1, 4, 16))
    images = np.random.default_rng(0).integers(0, 256, (23, 1, 8, 8), np.uint8)
    latents = np.random.default_rng(1).normal(size=(23, 5)).astype(np.float32)
    for role, rows in (("encoder", to_float(images)), ("decoder", latents)):
        expected, graph = plain.graphs[role], bound.graphs[role]
        assert isinstance(expected, Graph)
        assert not isinstance(graph, Graph)
        assert all(map(np.array_equal, expected(rows), graph.run([rows[:9], rows[9:]])))
        if role == "encoder":
            assert all(map(np.array_equal, expected(rows), graph.run([images])))
    for name in ("encoder", "encoder.uint8", "decoder"):
        assert f"digits {name}: batches of up to 16 rows" in caplog.text
    assert "digits encoder.uint8: 9 nodes, all on CPUExecutionProvider" in caplog.text


def test_the_self_test_runs_in_the_memory_that_will_serve(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = bound_memory._fetch
    monkeypatch.setattr(bound_memory, "_fetch", lambda *args: fetch(*args) + np.float32(0.01))
    with pytest.raises(SelfTestError, match="does not compute what was proven"):
        load_models(default_packages(models), choose_device("cpu"), 1, buckets=(1, 2))
    tf32 = Device(CPU_PROVIDER, "a test", CudaOptions(tf32=True))  # which loosens nothing where it has no effect
    with pytest.raises(SelfTestError, match="does not compute what was proven"):
        load_models(default_packages(models), tf32, 1, buckets=(1, 2))


def test_what_has_no_effect_on_the_cpu_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    device_of(Settings(device="cpu", threads=2))
    assert "no effect" not in caplog.text
    device = device_of(Settings(device="cpu", **ON_CUDA))  # type: ignore[arg-type]
    for setting in ("tf32", "gpu-mem-limit-mb", "batch-buckets", "cuda-graphs"):
        assert f"--{setting} has no effect on CPUExecutionProvider" in caplog.text
    assert device.cuda == CudaOptions(tf32=True, memory_limit=100 * 2**20, graphs=True)


def test_a_supervisor_that_does_not_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.worker.BEAT_SECONDS", 0.0)
    ours, theirs = multiprocessing.Pipe()

    async def beat_on() -> None:
        beats = asyncio.create_task(_beat(theirs, lambda: "a beat"))  # type: ignore[arg-type, return-value]
        for _ in range(2000):
            await asyncio.sleep(0)
        beats.cancel()

    with ours, theirs:
        loop = threading.Thread(target=asyncio.run, args=(beat_on(),), daemon=True)
        loop.start()
        loop.join(20.0)
        assert not loop.is_alive()


def test_a_reload_is_asked_for_or_refused_when_the_supervisor_does_not_listen() -> None:
    ours, theirs = multiprocessing.Pipe()
    with theirs:
        with ours:
            _ask(theirs, "digits", True)
            _ask(theirs, "digits", False)
            assert [ours.recv(), ours.recv()] == [(Said.LOAD, "digits"), (Said.UNLOAD, "digits")]
            os.set_blocking(theirs.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while True:  # until there is no room
                    os.write(theirs.fileno(), bytes(4096))
            os.set_blocking(theirs.fileno(), True)
            with pytest.raises(UnavailableError, match="does not listen"):
                _ask(theirs, "digits", True)
        with pytest.raises(UnavailableError, match="does not listen"):
            _ask(theirs, "digits", True)


def test_a_worker_that_fails_by_a_defect_logs_it_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    ours.close()  # the supervisor is gone when the models are loaded
    process = context.Process(target=work, args=(Settings(log_format="json", workers=1), "", [], 0, (), theirs))
    process.start()
    theirs.close()
    process.join(30.0)
    assert process.exitcode == 1
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert "BrokenPipeError" in lines[-1]["exception"]


FULL_COLLECTION = """
import gc, multiprocessing, sys, threading
from pathlib import Path
from serving import worker
from serving.repository import default_packages
from serving.settings import Settings
from serving.supervisor.messages import Order, Said

def count(supervisor):
    while supervisor.recv()[0] is not Said.SERVING:
        pass
    print(gc.get_freeze_count(), len(gc.get_objects()))
    supervisor.close()

settings = Settings(models=Path(sys.argv[1]), workers=1)
supervisor, channel = multiprocessing.Pipe()
supervisor.send(Order.SERVE.value)
threading.Thread(target=count, args=[supervisor], daemon=True).start()
worker.run(settings, sys.argv[2], default_packages(settings.models), channel)
"""


def test_a_full_collection_looks_at_little_while_a_worker_serves(models: Path) -> None:
    command = [sys.executable, "-c", FULL_COLLECTION, str(models), free_address()]
    done = run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    set_aside, looked_at = map(int, done.stdout.split())
    assert looked_at < set_aside / 10


DEFECT = """
import multiprocessing, sys, threading
from pathlib import Path
import vaeport
from serving import worker
from serving.batching.queue import Queue
from serving.repository import default_packages
from serving.settings import Settings
from serving.supervisor.messages import Order, Said

def call(supervisor):
    while supervisor.recv()[0] is not Said.SERVING:
        pass
    Queue.take = lambda *_: 1 / 0
    with vaeport.Client(sys.argv[2], retries=0) as client:
        try:
            client.sample(1, seed=1)
        except vaeport.UnavailableError as error:
            print(error, flush=True)

settings = Settings(models=Path(sys.argv[1]), workers=1)
supervisor, channel = multiprocessing.Pipe()
supervisor.send(Order.SERVE.value)
threading.Thread(target=call, args=[supervisor], daemon=True).start()
worker.run(settings, sys.argv[2], default_packages(settings.models), channel)
"""


def test_a_worker_whose_batcher_has_failed_ends(models: Path) -> None:
    command = [sys.executable, "-c", DEFECT, str(models), free_address()]
    done = run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "the batcher has failed; the worker is being replaced" in done.stdout
    assert "RuntimeError: a batcher has failed" in done.stderr
