"""A run directory: what training leaves behind, and all that export and resume need.

    run.json                  format, config, model, data, versions, git commit, the metrics of the best and last epoch
    checkpoint.safetensors    the weights of the best epoch (training.schedules.Plan.best)
    last.safetensors          the weights of the last epoch
    state.safetensors         everything to go on from where it stands: weights, optimiser, generators
    heldout.npz               a few held-out images, for the export's proof
    metrics.jsonl             a row per epoch
    plots/*.png, report.md, TensorBoard events

Every file is replaced atomically, and each is good by itself: weights carry their epoch and metrics inside, so that a
run killed between two files is still read right. Nothing is pickled.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from training.config import Config, config_from_json, flag
from training.data import Dataset
from training.earlier import FORMAT_1, description_from_1, tensors_from_1
from training.errors import RunError
from training.files import write_atomically
from training.likelihood import Bernoulli, Gaussian
from training.model import VAE
from training.networks import NETWORKS, NetworkSpec

FORMAT = "vaeport-run/2"
BEST, LAST, STATE = "checkpoint.safetensors", "last.safetensors", "state.safetensors"
HEADER_KEY = "vaeport"
HELDOUT = "heldout.npz"
HELDOUT_IMAGES = 64
HELDOUT_SEED = 0  # of their choice
MAY_CHANGE = {"epochs", "patience", "device", "run", "data", "test_data"}  # when a run is resumed; data by its digest
REQUIRED = {"config", "device", "model", "data", "heldout", "best", "last"}  # of run.json
VERSIONED = ("vaeport", "torch", "numpy", "safetensors")

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory and its run.json."""

    path: Path
    description: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.description["model"]["image_shape"]
        return channels, height, width

    @property
    def config(self) -> Config:
        """The settings it was made with."""
        return config_from_json(self.description["config"], str(self.path / "run.json"))

    def check_finished(self) -> None:
        """Raise RunError for a run that was stopped within its first epoch: it has no weights to use."""
        if self.description["best"] is None:
            raise RunError(f"{self.path}: no epoch is finished yet; go on with it by --resume")

    def build_model(self) -> VAE:
        """A model of this run's kind and shape, with fresh weights.

        Raises:
            NetworkError: the network does not take images of this shape.
        """
        config = self.config
        spec = NetworkSpec(self.image_shape, config.latent_dim, config.hidden_dims, config.activation)
        likelihood = Bernoulli() if config.likelihood == "bernoulli" else Gaussian(config.variance, config.sigma)
        networks = NETWORKS[config.network](spec)
        return VAE(math.prod(self.image_shape), latent_dim=config.latent_dim, networks=networks, likelihood=likelihood)

    def load_model(self, name: str = BEST) -> tuple[VAE, Metrics]:
        """The model with the weights of file `name`, in eval mode, and the metrics of their epoch.

        Raises:
            RunError: the file is missing, damaged, of another format, or its tensors are not the model's.
        """
        return self.model_from(name, read_bytes(self.path / name))

    def model_from(self, name: str, data: bytes) -> tuple[VAE, Metrics]:
        """`load_model` from the content of file `name`, for those who also keep it: a run may go on meanwhile."""
        model = self.build_model()
        tensors, header = parse_tensors(self.path / name, data)
        check_tensors(self.path / name, tensors, model.state_dict())
        model.load_state_dict(tensors)
        return model.eval(), header["metrics"]

    def save_weights(self, name: str, model: VAE, metrics: Metrics) -> None:
        """Write the weights of `model` with the metrics of their epoch, less its duration: same run, same bytes."""
        lasting = {key: value for key, value in metrics.items() if key != "seconds"}
        write_tensors(self.path / name, model.state_dict(), {"metrics": lasting})

    def heldout(self) -> NDArray[np.float32]:
        """The held-out images, [N, C, H, W] in [0, 1].

        Raises:
            RunError: the file is missing, or not the one that run.json names.
        """
        path = self.path / HELDOUT
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.description["heldout"]["sha256"]:
            raise RunError(f"{path}: expected sha256 {self.description['heldout']['sha256']}, got {digest}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            scale = np.float32(self.description["data"]["scale"])
            images: NDArray[np.float32] = np.divide(arrays["images"], scale, dtype=np.float32)
            return images

    def write_metrics(self, rows: list[Metrics]) -> None:
        """Replace metrics.jsonl."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomically(self.path / "metrics.jsonl", lines.encode())

    def describe(self, **fields: Any) -> None:
        """Update fields of run.json; RunError for one of an earlier format, which stays as it is."""
        if self.description.get("format", FORMAT) != FORMAT:
            raise RunError(f"{self.path}: of the format {self.description['format']}, which is read and not written")
        self.description.update(fields)
        write_atomically(self.path / "run.json", (json.dumps(self.description, indent=2) + "\n").encode())


def create_run(config: Config, dataset: Dataset, device: str) -> Run:
    """Make the directory, with run.json and the held-out images.

    Raises:
        RunError: something is there already, other than what a kill left of this very step; or it would lie among the
            images, which its pictures would join.
    """
    for name in ("data", "test_data"):
        folder = Path(getattr(config, name) or os.devnull).resolve()
        if folder.is_dir() and config.run.resolve().is_relative_to(folder):
            raise RunError(f"{config.run}: lies inside the images of {flag(name)} {folder}: choose another --run")
    if config.run.exists() and not config.run.is_dir():
        raise RunError(f"{config.run}: is there already, and no directory")
    if config.run.is_dir() and any(path.name != HELDOUT and path.name[0] != "." for path in config.run.iterdir()):
        raise RunError(
            f"{config.run}: is there already; go on with it by --resume, or choose another --run; with make, by "
            "RESUME=1 or RUN=..."
        )
    run = planned_run(config, dataset)
    run.build_model()  # before anything is written: the network may not take these images
    config.run.mkdir(parents=True, exist_ok=True)
    heldout = io.BytesIO()
    images = dataset.test.some(HELDOUT_IMAGES, HELDOUT_SEED)
    np.savez(heldout, images=images.rows(np.arange(len(images))))
    write_atomically(config.run / HELDOUT, heldout.getvalue())
    run.describe(
        format=FORMAT,
        device=device,
        data={
            "name": dataset.name,
            "digest": dataset.digest,
            "train": len(dataset.train),
            "test": len(dataset.test),
            "scale": dataset.scale,
            "preprocessing": asdict(dataset.preprocessing),
            "classes": dataset.classes,
            "split": dataset.split,
        },
        heldout={
            "images": len(images),
            "sha256": hashlib.sha256(heldout.getvalue()).hexdigest(),
        },
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}},
        git_commit=_git_commit(),
        best=None,
        last=None,
    )
    return run


def planned_run(config: Config, dataset: Dataset) -> Run:
    """The run that these settings would make, so far as its model depends on them; nothing is written."""
    model = {
        "family": config.network,
        "image_shape": list(dataset.image_shape),
        "latent_dim": config.latent_dim,
        "likelihood": config.likelihood,
    }
    return Run(config.run, {"config": config.to_json(), "model": model})


def open_run(path: Path) -> Run:
    """Read the run.json of an existing run.

    Raises:
        RunError: there is none, or it is damaged or of an unknown format.
    """
    file = path / "run.json"
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory")
    if not file.is_file():
        raise RunError(f"{path}: not a run directory: run.json is missing")
    try:
        description = json.loads(file.read_bytes())
    except ValueError as error:
        raise RunError(f"{file}: not JSON: {error}") from error
    found = description.get("format") if isinstance(description, dict) else None
    _check_format(file, found)
    if missing := sorted(REQUIRED - description.keys()):
        raise RunError(f"{file}: missing {', '.join(missing)}")
    try:
        return Run(path, description_from_1(description) if found == FORMAT_1 else description)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: no description of {found}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from training into the directory of a run.

    Raises:
        RunError: one is.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RunError(f"{path}: another process is training into it") from error
    finally:
        os.close(descriptor)


def check_resumable(run: Run, config: Config, dataset: Dataset, device: str) -> None:
    """Raise RunError, naming the setting, unless `config` differs from the run's in nothing but more epochs."""
    last = run.description["last"]
    if run.description["format"] != FORMAT or (last and "test_objective" not in last):
        raise RunError(
            f"{run.path}: an earlier version made it, and kept less than resuming needs: it can be exported, evaluated "
            f"and started from ({flag('init_from')}), but not resumed"
        )
    was, spans = run.config.to_json(), config.schedule_spans_run()
    for name, value in config.to_json().items():
        spanned = name == "epochs" and spans is not None
        if value != was[name] and (spanned or name not in MAY_CHANGE):
            why = f", since {spans} spans them" if spanned else ""
            raise RunError(f"{run.path}: {flag(name)}: the run has {was[name]}, got {value}; cannot resume{why}")
    if dataset.digest != run.description["data"]["digest"]:
        raise RunError(f"{run.path}: --data: the run was made with other data ({run.description['data']['name']})")
    if device != run.description["device"]:
        raise RunError(f"{run.path}: --device: the run is on {run.description['device']}, got {device}; cannot resume")
    if last and config.epochs < last["epoch"]:
        raise RunError(f"{run.path}: --epochs: the run has {last['epoch']} already, got {config.epochs}")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header as safetensors, atomically.

    The header is one entry, since safetensors writes several in a random order: same content, same bytes.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **header}, sort_keys=True)
    write_atomically(path, save_tensors(contiguous, {HEADER_KEY: text}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a safetensors file.

    Raises:
        RunError: it is missing, damaged, or of an unknown format.
    """
    return parse_tensors(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The content of a file of the run; RunError if it is missing."""
    if not path.is_file():
        raise RunError(f"{path} is missing")
    return path.read_bytes()


def parse_tensors(path: Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`read_tensors` from the content of the file."""
    try:
        tensors = load_tensors(data)  # checks the header, too
        length = int.from_bytes(data[:8], "little")  # safetensors: the length of a JSON header, the header, the tensors
        texts = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        header = json.loads(texts.get(HEADER_KEY, "null"))
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{path}: damaged: {error}") from error
    found = header.get("format") if isinstance(header, dict) else None
    _check_format(path, found)
    return tensors_from_1(tensors) if found == FORMAT_1 else tensors, header


def check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise RunError unless names and shapes agree exactly."""
    if missing := sorted(expected.keys() - found.keys()):
        raise RunError(f"{path}: missing tensors: {', '.join(missing)}")
    if extra := sorted(found.keys() - expected.keys()):
        raise RunError(f"{path}: unknown tensors: {', '.join(extra)}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise RunError(f"{path}: {name}: expected shape {list(tensor.shape)}, got {list(found[name].shape)}")


def _check_format(file: Path, found: object) -> None:
    if found not in (FORMAT_1, FORMAT):
        newer = isinstance(found, str) and re.fullmatch(r"vaeport-run/[1-9]\d*", found)
        hint = f"; vaeport newer than {metadata.version('vaeport')} made it" if newer else ""
        raise RunError(f"{file}: format: expected {FORMAT!r}, got {found!r}{hint}")


def _git_commit() -> str | None:
    """The commit of the code, "-dirty" with local changes; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
