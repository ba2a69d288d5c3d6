"""The steps of an export, in order."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import parity
from export.errors import ExportError, VersionExistsError
from export.graphs import Role, graph_spec, roles, to_onnx
from export.package import next_version, publish, staging, write_json
from training.evaluate import SETTINGS, setting_of
from training.likelihood import Gaussian
from training.model import VAE
from training.run import BEST, LAST, Metrics, Run, open_run, read_bytes
from vaeport.graphs import Device, choose_device, load_graph
from vaeport.manifest import FORMAT, GraphSpec, Manifest, ModelSpec, Preprocessing
from vaeport.package import MAX_VERSION, NAME_PATTERN

CHECKPOINT = "checkpoint.safetensors"


def export_run(path: Path, to: Path, *, version: int | None = None, last: bool = False) -> Path:
    """Make the package of a run.

    Args:
        path: the run directory.
        to: `models/<name>`.
        version: the version to make; None is one more than the newest.
        last: take the weights of the last epoch instead of the best.

    Returns:
        `models/<name>/<version>`, complete.

    Raises:
        RunError: `path` is no run, or a damaged one.
        ExportError: a bad name, a version that exists, or a graph that does not compute what PyTorch does.
    """
    if not NAME_PATTERN.fullmatch(to.name):
        raise ExportError(f"--to {to}: the last component names the package: expected {NAME_PATTERN.pattern}")
    if version is not None and not 1 <= version <= MAX_VERSION:
        raise ExportError(f"--version: expected 1 to {MAX_VERSION}, got {version}")
    if version is not None and os.path.lexists(to / str(version)):
        raise VersionExistsError(f"{to / str(version)}: is there already, and a package never changes")
    run = open_run(path)
    if run.config.autoencoder:
        raise ExportError(f"{path}: a plain autoencoder: it has no posterior to encode to and no prior to sample from")
    weights = LAST if last else BEST
    checkpoint = read_bytes(run.path / weights)  # once: training may go on and replace it
    model, metrics = run.model_from(weights, checkpoint)
    with staging(to) as staged:
        specs, checks = _write_graphs(staged, run, model)
        parity.require(checks)
        write_json(staged / "parity.json", parity.to_json(checks))
        (staged / CHECKPOINT).write_bytes(checkpoint)
        training = _training_summary(run, metrics, "last" if last else "lowest test loss")
        manifest = _manifest(to.name, version or next_version(to), run, model, training, specs, parity.summary(checks))
        return publish(staged, to, manifest, exactly=version is not None)


def _write_graphs(staged: Path, run: Run, model: VAE) -> tuple[dict[str, GraphSpec], list[parity.Check]]:
    """Write both ONNX files and compare what is in them with PyTorch."""
    device = choose_device("cpu")
    specs: dict[str, GraphSpec] = {}
    checks: list[parity.Check] = []
    real = run.heldout()
    for role in roles(model, run.image_shape):
        specs[role.name] = _write_graph(staged, role)
        checks += _compare(staged, specs[role.name], role, real, device)
        if role.name == "encoder":
            with torch.inference_mode():
                real = model.encode(torch.from_numpy(real))[0].numpy()
    return specs, checks


def _write_graph(staged: Path, role: Role) -> GraphSpec:
    proto = to_onnx(role)
    (staged / role.path).write_bytes(proto.SerializeToString(deterministic=True))
    return graph_spec(role, proto)


def _compare(staged: Path, spec: GraphSpec, role: Role, real: parity.Rows, device: Device) -> list[parity.Check]:
    path = staged / spec.path
    graph = load_graph(path, path.read_bytes(), spec, device, threads=1)
    return parity.compare(role, graph, parity.inputs_for(role, np.ascontiguousarray(real)))


def _training_summary(run: Run, metrics: Metrics, chosen: str) -> dict[str, Any]:
    evaluation = run.description.get("evaluation")
    return {
        "data": {key: value for key, value in run.description["data"].items() if key != "preprocessing"},
        "metrics": metrics,
        "epoch_chosen_by": chosen,
        "seed": run.config.seed,
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
    likelihood, prepared = model.likelihood, run.description["data"]["preprocessing"]
    return Manifest(
        format=FORMAT,
        name=name,
        version=version,
        model=ModelSpec(
            family=run.config.network,
            image_shape=run.image_shape,
            latent_dim=model.latent_dim,
            likelihood=run.config.likelihood,
            sigma=likelihood.sigma if isinstance(likelihood, Gaussian) else None,
        ),
        preprocessing=Preprocessing(**{**prepared, "size": tuple(prepared["size"])}),
        graphs=specs,
        training=training,
        parity=parity_summary,
        files=(),  # listed when the folder is complete
    )
