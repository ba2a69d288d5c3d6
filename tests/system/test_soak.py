"""Long tests, run by `make soak`: the demo as a person types it, and a server under mixed load for a minute or two."""

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import vaeport
from tests.support import ROOT, ServerProcess

LOAD_SECONDS = 60.0
CALLERS = 16
MAX_GROWTH_BYTES = 64 << 20  # coarse: a leak of the requests' rows would be gigabytes

pytestmark = pytest.mark.soak


def test_make_demo_prints_one_picture_path_last_and_leaves_nothing_running() -> None:
    before = {process.pid for process in psutil.process_iter()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "demo"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    (picture,) = done.stdout.splitlines()
    with Image.open(ROOT / picture) as image:
        assert min(image.size) > 400
        assert np.asarray(image.convert("L")).std() > 30
    servers = [p for p in psutil.process_iter(["cmdline"]) if "serving" in (p.info["cmdline"] or [])]
    assert [p for p in servers if p.pid not in before] == []


def test_a_minute_of_mixed_load_answers_everyone_with_their_own_rows(
    start_server: Callable[..., ServerProcess], models: Path
) -> None:
    server = start_server("--models", str(models))
    model = vaeport.load(models / "digits", threads=1)
    worker = psutil.Process(server.process.pid)
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()
    stop_at = time.monotonic() + LOAD_SECONDS

    def call(client: vaeport.Client, random: np.random.Generator) -> str:
        rows = int(random.choice([1, 1, 1, 7, 64, 300, 1024]))
        kind = str(random.choice(["encode", "sample", "reconstruct", "bad"]))
        if kind == "sample":
            seed = int(random.integers(2**63))
            assert np.array_equal(client.sample(rows, seed=seed), model.sample(rows, seed=seed))
        elif kind == "bad":
            with pytest.raises(vaeport.InvalidInputError):
                client.decode(np.full((rows, model.latent_dim), np.nan))
        else:
            images = random.integers(0, 256, (rows, 8, 8), np.uint8)
            if kind == "encode":
                assert np.array_equal(client.encode(images).mean, model.encode(images).mean)
            else:
                assert np.array_equal(client.reconstruct(images), model.reconstruct(images))
        return kind

    def caller(number: int) -> None:
        random = np.random.default_rng(number)
        with vaeport.Client(server.address) as client:
            while time.monotonic() < stop_at:
                try:
                    outcome = call(client, random)
                except vaeport.OverloadedError as full:
                    outcome = "refused"
                    time.sleep(full.retry_after or 0.0)
                with lock:
                    outcomes[outcome] += 1

    with ThreadPoolExecutor(CALLERS) as pool:
        running = [pool.submit(caller, number) for number in range(CALLERS)]
        time.sleep(LOAD_SECONDS / 2)
        half_way = worker.memory_info().rss
        for future in running:
            future.result()
    growth = worker.memory_info().rss - half_way
    print(f"{dict(outcomes)}; resident memory {half_way >> 20} MB half way, {growth / 2**20:+.1f} MB after")
    assert min(outcomes[kind] for kind in ("encode", "sample", "reconstruct", "bad")) > 100
    assert growth < MAX_GROWTH_BYTES
    assert server.terminate() == 0
    assert "Traceback" not in server.read_log()
