"""Several processes train what one would have: the shares of a batch add up, and so does the run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training.processes import Processes
from training.run import STATE, read_tensors

ROOT = Path(__file__).parents[2]
# Without the two dashes torchrun takes --run for an abbreviation of an option of its own.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
SETTINGS = ["--data", "digits", "--latent-dim", "4", "--hidden-dims", "16", "--batch-size", "301"]  # an odd number


def train(folder: Path, *arguments: str, together: bool = False) -> subprocess.CompletedProcess[str]:
    command = TORCHRUN if together else [sys.executable, "-m"]
    return subprocess.run(
        [*command, "training", *SETTINGS, "--device", "cpu", "--run", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def losses(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_shares_of_a_batch_are_all_of_it_once() -> None:
    batch = torch.arange(7)
    shares = [Processes(rank, 3).share(batch) for rank in range(3)]
    assert sorted(torch.cat(shares).tolist()) == list(range(7))
    noise = torch.arange(14).view(2, 7)
    assert torch.equal(Processes(1, 3).share(noise, axis=1), torch.tensor([[1, 4], [8, 11]]))


def test_two_processes_reach_the_loss_of_one(tmp_path: Path) -> None:
    arguments = ("--binarization", "dynamic", "--objective", "iwae", "--importance-samples", "3")
    alone = train(tmp_path / "alone", "--epochs", "3", *arguments)
    assert alone.returncode == 0, alone.stderr
    together = train(tmp_path / "together", "--epochs", "2", *arguments, together=True)
    assert together.returncode == 0, together.stderr
    resumed = train(tmp_path / "together", "--epochs", "3", "--resume", *arguments, together=True)
    assert resumed.returncode == 0, resumed.stderr
    for one, two in zip(losses(tmp_path / "alone"), losses(tmp_path / "together"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-4)
    assert together.stdout.count("images to train on") == 1  # one of them talks
    report = (tmp_path / "together" / "report.md").read_text()
    assert "torchrun --nproc-per-node 2 -m -- training --data digits" in report


def test_a_batch_with_fewer_rows_than_processes_is_shared_too(tmp_path: Path) -> None:
    arguments = ("--epochs", "1", "--batch-size", "404")  # 1617 images: one is left for the last batch
    assert train(tmp_path / "alone", *arguments).returncode == 0
    together = train(tmp_path / "together", *arguments, together=True)
    assert together.returncode == 0, together.stderr
    for one, two in zip(losses(tmp_path / "alone"), losses(tmp_path / "together"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-4)


def test_ctrl_c_ends_all_of_them_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    arguments = ("--epochs", "100000")
    command = [*TORCHRUN, "training", *SETTINGS, "--device", "cpu", "--run", str(tmp_path / "run"), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (tmp_path / "run" / "metrics.jsonl").exists():  # until an epoch is finished
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, log = process.communicate(timeout=120)
    assert process.returncode != 0
    assert log.count("training: stopped; go on with --resume") == 1
    _, header = read_tensors(tmp_path / "run" / STATE)
    done = len(header["rows"])
    resumed = train(tmp_path / "run", "--epochs", str(done + 1), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert len(losses(tmp_path / "run")) == done + 1


def test_what_needs_the_whole_batch_is_refused_for_its_shares(tmp_path: Path) -> None:
    done = train(tmp_path / "run", "--free-bits", "0.5", together=True)
    assert done.returncode != 0
    assert "training: error: --free-bits needs the whole batch in one process" in done.stderr
    assert not (tmp_path / "run").exists()
