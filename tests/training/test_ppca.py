"""A linear Gaussian VAE against probabilistic PCA, whose likelihood follows from the eigenvalues of the covariance.

Tipping and Bishop, "Probabilistic principal component analysis", 1999; Lucas et al., arXiv 1911.02469: at its optimum
the ELBO of a linear VAE is that likelihood, and a latent is kept only if its eigenvalue exceeds the variance.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training import data
from training.loop import evaluate
from training.run import Metrics, open_run

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.soak  # a minute each


def eigenvalues(dataset: data.Dataset) -> NDArray[np.float64]:
    """Of the covariance of the training images, falling."""
    pixels = dataset.train.pixels.reshape(len(dataset.train), -1) / dataset.scale
    found: NDArray[np.float64] = np.linalg.eigvalsh(np.cov(pixels, rowvar=False, bias=True))[::-1]
    return found


def ppca_log_likelihood(spectrum: NDArray[np.float64], latents: int) -> float:
    """Per image, in nats: -1/2 (d log 2 pi + sum of the logs of the kept eigenvalues + (d - q) log sigma^2 + d)."""
    pixels = len(spectrum)
    variance = spectrum[latents:].mean()
    kept = np.log(spectrum[:latents]).sum()
    return float(-0.5 * (pixels * math.log(2 * math.pi) + kept + (pixels - latents) * math.log(variance) + pixels))


def trained_part(recipe: str, mnist_root: Path, run: Path) -> tuple[data.Dataset, Metrics]:
    """The evaluation on the training images after the recipe's run.

    By the command: it flushes denormal numbers, into which a latent that is given up leads Adam's state.
    """
    command = ["--recipe", f"recipes/{recipe}", "--run", str(run), "--device", "cpu"]
    environment = {**os.environ, "VAEPORT_DATA_ROOT": str(mnist_root)}
    subprocess.run([sys.executable, "-m", "training", *command], cwd=ROOT, check=True, env=environment)
    made = open_run(run)
    dataset = data.load(made.config, mnist_root)
    return dataset, evaluate(made.load_model("last.safetensors")[0], dataset.train, dataset)


def test_a_linear_vae_reaches_the_likelihood_of_ppca_with_all_latents_active(mnist_root: Path, tmp_path: Path) -> None:
    dataset, row = trained_part("ppca.toml", mnist_root, tmp_path / "run")
    spectrum = eigenvalues(dataset)
    exact = ppca_log_likelihood(spectrum, 20)
    assert exact == pytest.approx(299.8, abs=0.1)
    assert -row["test_loss"] == pytest.approx(exact, abs=2.0)
    assert -row["test_loss"] < exact + 0.1  # a bound, but for the noise of one draw per image
    assert row["active_units"] == 20
    assert row["sigma"] ** 2 == pytest.approx(spectrum[20:].mean(), rel=0.01)


def test_with_a_variance_of_1_no_more_latents_are_active_than_eigenvalues_exceed_it(
    mnist_root: Path, tmp_path: Path
) -> None:
    dataset, row = trained_part("ppca-unit-variance.toml", mnist_root, tmp_path / "run")
    assert int((eigenvalues(dataset) > 1.0).sum()) == 12
    assert row["active_units"] == 12
