"""The model that the serving benchmarks ask: the reference network on images of 28x28, as a package."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.config import data_root

RANDOM_IMAGES = 2000  # what it has learned costs nothing to compute, so anything will do


@contextlib.contextmanager
def reference_models(models: Path | None) -> Iterator[Path]:
    """The folder of models that was given; without one, a new folder with one model, which goes afterwards.

    It is trained for an epoch on MNIST in VAEPORT_DATA_ROOT, or on random images where there is none.
    """
    if models is not None:
        yield models
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = str(folder / "run")
        _module("training", "--data", _data(folder), "--run", run, "--epochs", "1", "--device", "cpu")
        _module("export", run, "--to", str(folder / "models" / "reference"))
        yield folder / "models"


def _data(folder: Path) -> str:
    if (data_root() / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").is_file():
        return "mnist"
    pixels = np.random.default_rng(0).integers(0, 256, (RANDOM_IMAGES, 28, 28), np.uint8)
    np.save(folder / "random.npy", pixels)
    return str(folder / "random.npy")


def _module(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.DEVNULL)
