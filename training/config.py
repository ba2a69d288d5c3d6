"""The settings of a run: one frozen object, made once in `main`; the text of each field is its --help."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from training.errors import TrainingError


class ConfigError(TrainingError, ValueError):
    """A setting outside its range."""


@dataclass(frozen=True, slots=True)
class Config:
    """Train a variational autoencoder on images, and leave a run directory behind."""

    data: str = "digits"
    """digits (built in), mnist, fashion-mnist, or a path: a folder of images (subfolders are labels), .npy or .npz."""

    run: Path = Path()
    """The run directory to make; without it, runs/ and the name of the data."""

    epochs: int = 30
    """Passes over the training images."""

    latent_dim: int = 20
    """Latent dimensions. 2 adds a picture of the latent plane."""

    hidden_dim: int = 400
    """Width of each hidden layer."""

    batch_size: int = 128
    """Images per step."""

    lr: float = 1e-3
    """Learning rate of Adam."""

    seed: int = 0
    """Of everything random: the split, the weights, the order of the images, the noise."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is a GPU."""

    resume: bool = False
    """Go on with an existing run, from its last finished epoch to --epochs."""

    def with_default_run(self) -> "Config":
        """The same, with `run` filled in."""
        return self if self.run != Path() else replace(self, run=Path("runs") / Path(self.data).stem)

    def check(self) -> None:
        """Raise ConfigError for a number outside its range."""
        if not self.data.strip():
            raise ConfigError("--data: expected the name of a data set or a path, got nothing")
        for name in ("epochs", "latent_dim", "hidden_dim", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"--lr: expected a positive number, got {self.lr}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed: expected 0 <= seed < 2^63, got {self.seed}")
