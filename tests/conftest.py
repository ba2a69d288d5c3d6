"""Shared fixtures: one small trained run and its package, and servers on free ports."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import ServerProcess, write_keys

ROOT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # a file on each core: threads of PyTorch's would wait for each other, busily
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime themselves (vaeport.graphs)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the built-in digits: two epochs of a small network, enough for weights that are not symmetric."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    command = ["--data", "digits", "--epochs", "2", "--latent-dim", "5", "--hidden-dims", "32", "32", "--run", str(run)]
    subprocess.run([sys.executable, "-m", "training", *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return run


@pytest.fixture(scope="session")
def colour_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a few colour images of 3x6x4, so that no two axes have one length."""
    folder = tmp_path_factory.mktemp("colour")
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 6, 4), np.uint8)
    np.save(folder / "colour.npy", images)
    run = folder / "run"
    command = ["--data", str(folder / "colour.npy"), "--epochs", "1", "--latent-dim", "3", "--hidden-dims", "16", "16"]
    subprocess.run(
        [sys.executable, "-m", "training", *command, "--run", str(run)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    return run


@pytest.fixture(scope="session")
def models(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one package, `digits` version 1."""
    from export.pipeline import export_run

    folder = tmp_path_factory.mktemp("models")
    export_run(digits_run, folder / "digits")
    return folder


@pytest.fixture(scope="session")
def two_models(models: Path, colour_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `digits` version 1 and `colour` version 1."""
    import shutil

    from export.pipeline import export_run

    folder = tmp_path_factory.mktemp("two-models")
    shutil.copytree(models / "digits", folder / "digits")
    export_run(colour_run, folder / "colour")
    return folder


@pytest.fixture(scope="session")
def package(models: Path) -> Path:
    """The folder of `digits` version 1."""
    return models / "digits" / "1"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of an elliptic-curve key: private, public."""
    return write_keys(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Start servers as real processes; they are ended with the test."""
    started: list[ServerProcess] = []

    def start(*arguments: str) -> ServerProcess:
        started.append(ServerProcess.start(*arguments))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ServerProcess]:
    """One server for all tests that only ask it something."""
    process = ServerProcess.start("--models", str(models))
    yield process
    process.kill()


@pytest.fixture
def mnist_root() -> Path:
    """The folder with MNIST/raw/*.gz; the test is skipped without one."""
    root = Path(os.environ.get("VAEPORT_DATA_ROOT", "data"))
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs MNIST/raw/*.gz under VAEPORT_DATA_ROOT")
    return root
