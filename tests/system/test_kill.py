"""Training and export that are killed at random moments: what is there is good, and the next one goes on from it."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from export.pipeline import export_run
from tests.support import ROOT
from training.run import open_run
from vaeport.package import open_package
from vaeport.versions import versions

pytestmark = pytest.mark.soak

KILLS = 10
EXPORT_KILLS = 20
SETTINGS = ["--data", "digits", "--hidden-dims", "64", "--latent-dim", "4", "--batch-size", "32", "--device", "cpu"]


def start(run: Path, epochs: int) -> subprocess.Popen[str]:
    resume = ["--resume"] if (run / "run.json").exists() else []
    command = [sys.executable, "-m", "training", *SETTINGS, "--run", str(run), "--epochs", str(epochs), *resume]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def rows_of(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _wait_for_an_epoch(process: subprocess.Popen[str], run: Path) -> None:
    """Until a file of an epoch is new."""
    metrics = run / "metrics.jsonl"
    seen, began = metrics.stat().st_mtime_ns if metrics.exists() else 0, time.monotonic()
    while not metrics.exists() or metrics.stat().st_mtime_ns == seen:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() - began < 120
        time.sleep(0.01)


def test_a_run_killed_ten_times_resumes_exports_and_ends_like_the_one_that_was_not(tmp_path: Path) -> None:
    chance, seed = random.Random(), random.randrange(2**32)
    chance.seed(seed)  # a new one each time, printed if the test fails
    print(f"seed {seed}")
    run, exported = tmp_path / "run", 0
    for kill in range(KILLS):
        process = start(run, 100_000)
        if kill % 3:  # while it trains
            _wait_for_an_epoch(process, run)
            time.sleep(chance.uniform(0.0, 0.5))
        else:  # at any moment from its start on
            time.sleep(chance.uniform(0.0, 8.0))
        process.kill()
        process.communicate()
        if (run / "checkpoint.safetensors").exists():
            open_run(run).load_model()
            open_run(run).load_model("last.safetensors")
            if kill % 3 == 1:
                assert (export_run(run, tmp_path / "models" / "killed") / "manifest.json").exists()
                exported += 1
    assert exported == 3
    epochs = len(rows_of(run))
    with start(run, epochs + 20) as last, start(tmp_path / "whole", epochs + 20) as whole:
        assert last.wait(timeout=300) == 0, last.stderr and last.stderr.read()
        assert whole.wait(timeout=300) == 0, whole.stderr and whole.stderr.read()
    assert rows_of(run) == rows_of(tmp_path / "whole")
    assert (run / "last.safetensors").read_bytes() == (tmp_path / "whole" / "last.safetensors").read_bytes()
    assert not list(run.glob(".*"))


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_an_export_killed_again_and_again_shows_whole_versions_and_leaves_nothing(
    digits_run: Path, tmp_path: Path
) -> None:
    chance, seed = random.Random(), random.randrange(2**32)
    chance.seed(seed)
    print(f"seed {seed}")
    to = tmp_path / "digits"
    command = [sys.executable, "-m", "export", str(digits_run), "--to", str(to)]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    duration, children = time.monotonic() - began, []
    for _ in range(EXPORT_KILLS):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, text=True) as process:
            time.sleep(chance.uniform(0.0, 1.1 * duration))
            children += _children(process)
            process.kill()
    for version in versions(to):
        assert open_package(to / str(version)).manifest.version == version
    made = export_run(digits_run, to)
    assert sorted(path.name for path in to.iterdir()) == sorted(map(str, versions(to)))
    assert made == to / str(versions(to)[-1])
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive  # a process that waits for work for ever
