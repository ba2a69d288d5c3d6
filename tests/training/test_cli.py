"""The command that trains: its files, its pictures, and errors without a traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run_training(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_two_dimensional_latent_gets_all_pictures_and_a_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_training(
        "--data", "digits", "--epochs", "2", "--latent-dim", "2", "--hidden-dims", "16", "--run", str(run)
    )
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (run / "plots").glob("*.png")}
    assert names == {
        *("reconstructions", "samples", "interpolations", "traversals", "kl_per_latent", "latents", "latent_grid"),
        "losses",
    }
    for path in (run / "plots").glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 100
            assert np.asarray(image.convert("L")).std() > 5, f"{path} shows nothing"
    report = (run / "report.md").read_text()
    assert all(f"(plots/{name}.png)" in report for name in names)
    assert all(f"(plots/{name}.png)\n\n*" in report for name in names)  # each with a sentence of its own
    assert "| test: negative ELBO |" in report
    line = r"train [\d.]+ nats \(reconstruction [\d.]+ \+ KL [\d.]+\)  test [\d.]+ nats  \d of 2 latents active  "
    assert re.search(line, done.stdout)
    assert f"python -m training --data digits --run {run} --latent-dim 2 --hidden-dims 16 --epochs 2\n" in report


@pytest.mark.parametrize("module", ["training", "export", "serving"])
def test_a_reader_who_has_gone_is_141_and_no_noise(module: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        command = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_help_explains_every_setting() -> None:
    done = run_training("--help")
    assert done.returncode == 0
    for flag in (
        "--data",
        "--epochs",
        "--latent-dim",
        "--batch-size",
        "--lr",
        "--seed",
        "--device",
        "--run",
        "--resume",
    ):
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "training: error: /nowhere: no such file or folder"),
        (["--epochs", "0"], "training: error: --epochs: expected at least 1, got 0"),
        (["--lr", "-1"], "training: error: --lr: expected a positive number, got -1"),
        (["--seed", "-1"], "training: error: --seed: expected 0 <= seed < 2^63, got -1"),
        (["--resume"], "no such run directory"),
        (["--data", ""], "training: error: --data: expected the name of a data set or a path"),
        (["--run", "/proc/nowhere/run"], "training: error: [Errno 2] No such file or directory"),
    ],
)
def test_a_mistake_is_one_clear_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run_training("--run", str(tmp_path / "run"), *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_that_cannot_be_started_from_leave_no_run_behind(digits_run: Path, tmp_path: Path) -> None:
    done = run_training("--init-from", str(digits_run), "--latent-dim", "6", "--run", str(tmp_path / "run"))
    assert done.returncode == 1
    assert "training: error: --init-from: another network" in done.stderr
    assert not (tmp_path / "run").exists()


def test_three_images_are_enough_for_all_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8))
    done = run_training("--data", str(tmp_path / "few.npy"), "--epochs", "1", "--run", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.md").exists()


def test_names_of_classes_are_no_mathematics_and_need_not_be_utf_8(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    for number, name in enumerate((b"$x_{$", b"\\frac$ $", b"\xff")):
        folder = tmp_path / os.fsdecode(b"images\xe9") / os.fsdecode(name)
        folder.mkdir(parents=True)
        for index in range(4):
            Image.fromarray(pixels[4 * number + index]).save(folder / f"{index}.png")
    done = run_training(
        *("--data", str(tmp_path / os.fsdecode(b"images\xe9")), "--run", str(tmp_path / "run")),
        *("--test-fraction", "0.5", "--epochs", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert r"images\udce9: 6 images to train on, 6 to test on, 1x8x8; 3 classes: $x_{$, \frac$ $, \udcff" in done.stdout
    assert (tmp_path / "run" / "report.md").exists()


def test_ctrl_c_while_pytorch_is_imported_ends_without_a_word() -> None:
    program = """
import importlib.abc, runpy, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["training", "--epochs", "1"]
runpy.run_module("training", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_memory_that_is_not_there_is_one_clear_message(tmp_path: Path) -> None:
    done = run_training("--hidden-dims", str(10**12), "--run", str(tmp_path / "run"))
    assert done.returncode == 1
    assert done.stderr.startswith("training: error: out of memory: ")
    assert (
        "smaller --image-size, --hidden-dims, --importance-samples and, to train, --batch-size need less" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1


def test_a_run_that_ctrl_c_stopped_can_be_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["--data", "digits", "--hidden-dims", "16", "--run", str(run)]
    command = [sys.executable, "-m", "training", *settings, "--epochs", "100000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (run / "metrics.jsonl").exists():  # until an epoch is finished
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 130
    assert log.splitlines()[-1] == "training: stopped; go on with --resume"
    assert "Traceback" not in log
    done = len((run / "metrics.jsonl").read_text().splitlines())
    resumed = run_training(*settings, "--epochs", str(done + 1), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert len((run / "metrics.jsonl").read_text().splitlines()) == done + 1


def test_an_existing_run_is_refused(digits_run: Path) -> None:
    done = run_training("--run", str(digits_run))
    assert done.returncode == 1
    assert "go on with it by --resume, or choose another --run; with make, by RESUME=1" in done.stderr


def test_the_data_root_is_that_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "MNIST" / "raw" / f"{stem}-ubyte.gz").write_bytes(b"damaged")
    environment = {**os.environ, "VAEPORT_DATA_ROOT": str(tmp_path)}
    command = [sys.executable, "-m", "training", "--data", "mnist", "--run", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{tmp_path}/MNIST/raw/train-images-idx3-ubyte.gz: expected md5" in done.stderr
