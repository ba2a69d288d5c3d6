"""The steps of an export, in order."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from export import parity
from export.end_metric import end_metric
from export.errors import ExportError, VersionExistsError
from export.golden import golden_vectors
from export.graphs import Role, graph_spec, metadata_of, roles, to_onnx
from export.inputs import Rows
from export.ladder import Subject, climb
from export.package import next_version, publish, staging, write_json
from export.runtimes import one_thread, onnx_runtimes, pytorch, torchscript
from export.torchscript import write_torchscript
from training.evaluate import SETTINGS, setting_of
from training.likelihood import Gaussian
from training.model import VAE
from training.run import BEST, LAST, Metrics, Run, open_run, read_bytes
from vaeport.golden import GOLDEN_NAME
from vaeport.manifest import FORMAT, GraphSpec, Manifest, ModelSpec, Preprocessing
from vaeport.package import MAX_VERSION, NAME_PATTERN

CHECKPOINT = "checkpoint.safetensors"
FORMATS = ("onnx", "torchscript")


def export_run(
    path: Path,
    to: Path,
    *,
    version: int | None = None,
    last: bool = False,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Make the package of a run.

    Args:
        path: the run directory.
        to: `models/<name>`.
        version: the version to make; None is one more than the newest.
        last: take the weights of the last epoch instead of the best.
        formats: of FORMATS; "onnx" must be one.

    Returns:
        `models/<name>/<version>`, complete.

    Raises:
        RunError: `path` is no run, or a damaged one.
        ExportError: a bad name or format, a version that exists, or a graph that does not compute what PyTorch does.
    """
    if not NAME_PATTERN.fullmatch(to.name):
        raise ExportError(f"--to {to}: the last component names the package: expected {NAME_PATTERN.pattern}")
    if version is not None and not 1 <= version <= MAX_VERSION:
        raise ExportError(f"--version: expected 1 to {MAX_VERSION}, got {version}")
    if version is not None and os.path.lexists(to / str(version)):
        raise VersionExistsError(f"{to / str(version)}: is there already, and a package never changes")
    if "onnx" not in formats or not set(formats) <= set(FORMATS):
        raise ExportError(f"--formats: expected onnx, or {','.join(FORMATS)}, got {','.join(formats) or 'nothing'}")
    run = open_run(path)
    if run.config.autoencoder:
        raise ExportError(f"{path}: a plain autoencoder: it has no posterior to encode to and no prior to sample from")
    weights = LAST if last else BEST
    checkpoint = read_bytes(run.path / weights)  # once: training may go on and replace it
    model, metrics = run.model_from(weights, checkpoint)
    with staging(to) as staged:
        scripts = write_torchscript(staged, run, weights, checkpoint) if "torchscript" in formats else {}
        specs, report = _write_graphs(staged, run, model, checkpoint, scripts)
        parity.require(report, "nothing is written")
        write_json(staged / "parity.json", parity.to_json(report))
        (staged / CHECKPOINT).write_bytes(checkpoint)
        training = _training_summary(run, metrics, "last" if last else "lowest test objective after the warm-up")
        manifest = _manifest(to.name, version or next_version(to), run, model, training, specs, parity.summary(report))
        return publish(staged, to, manifest, exactly=version is not None)


def _write_graphs(
    staged: Path, run: Run, model: VAE, checkpoint: bytes, scripts: dict[str, Path]
) -> tuple[dict[str, GraphSpec], parity.Report]:
    """Write both ONNX files and the golden vectors, and hold what is in the graphs to the truth."""
    images = run.heldout()
    report = parity.Report()
    subjects = {
        role.name: _subject(staged, role, metadata_of(role, model.latent_dim, checkpoint), scripts.get(role.name))
        for role in roles(model, run.image_shape)
    }
    with one_thread():
        real = {"encoder": images, "decoder": _posterior_means(model, images)}
        for name, subject in subjects.items():
            report.add(climb(subject, real[name]))
        if not report.failed:
            spec = model_spec(run, model)
            report.add(end_metric(subjects["encoder"], subjects["decoder"], spec, images))
            (staged / GOLDEN_NAME).write_bytes(golden_vectors(list(subjects.values())))
    return {name: subject.spec for name, subject in subjects.items()}, report


def _subject(staged: Path, role: Role, metadata: dict[str, str], script: Path | None) -> Subject:
    """Write the role's graph and take what is in the file; its TorchScript is there already, if it was asked for."""
    proto = to_onnx(role, metadata)
    path, spec = staged / role.path, graph_spec(role, proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    data = path.read_bytes()
    runtimes, not_run = onnx_runtimes(path, data, spec)
    scripted, not_scripted = torchscript(script) if script else ([], [])
    runtimes = [pytorch(role.module), *runtimes, *scripted]
    return Subject(role.name, onnx.load_from_string(data), spec, role.module, runtimes, [*not_run, *not_scripted])


def _posterior_means(model: VAE, images: Rows) -> Rows:
    with torch.inference_mode():
        return np.ascontiguousarray(model.encode(torch.from_numpy(images))[0].numpy())


def _training_summary(run: Run, metrics: Metrics, chosen: str) -> dict[str, Any]:
    evaluation = run.description.get("evaluation")
    return {
        "data": {key: value for key, value in run.description["data"].items() if key != "preprocessing"},
        "metrics": metrics,
        "epoch_chosen_by": chosen,
        "seed": run.config.seed,
        "network": {
            "hidden_dims": list(run.config.hidden_dims),
            "activation": run.config.activation,
            "variance": run.config.variance,
        },
        "setting": SETTINGS[setting_of(run)],
        "evaluation": evaluation if evaluation and evaluation["epoch"] == metrics["epoch"] else None,
    }


def _manifest(
    name: str,
    version: int,
    run: Run,
    model: VAE,
    training: dict[str, Any],
    specs: dict[str, GraphSpec],
    parity_summary: dict[str, Any],
) -> Manifest:
    prepared = run.description["data"]["preprocessing"]
    return Manifest(
        format=FORMAT,
        name=name,
        version=version,
        model=model_spec(run, model),
        preprocessing=Preprocessing(**{**prepared, "size": tuple(prepared["size"])}),
        graphs=specs,
        training=training,
        parity=parity_summary,
        files=(),  # listed when the folder is complete
    )


def model_spec(run: Run, model: VAE) -> ModelSpec:
    """The model's entry in the manifest."""
    return ModelSpec(
        family=run.config.network,
        image_shape=run.image_shape,
        latent_dim=model.latent_dim,
        likelihood=run.config.likelihood,
        sigma=model.likelihood.sigma if isinstance(model.likelihood, Gaussian) else None,
    )
