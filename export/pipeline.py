"""The steps of an export, in order."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export import parity
from export.errors import ExportError, VersionExistsError
from export.graphs import Role, graph_spec, roles, to_onnx
from export.package import next_version, publish, staging, write_json
from training.model import VAE
from training.run import BEST, LAST, Metrics, Run, open_run
from vaeport.graphs import Device, choose_device, load_graph
from vaeport.manifest import FORMAT, GraphSpec, Manifest, ModelSpec, Preprocessing
from vaeport.package import NAME_PATTERN

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
    name = to.resolve().name
    if not NAME_PATTERN.fullmatch(name):
        raise ExportError(f"--to {to}: the last component names the package: expected {NAME_PATTERN.pattern}")
    if version is not None and version < 1:
        raise ExportError(f"--version: expected a positive integer, got {version}")
    if version is not None and (to / str(version)).exists():
        raise VersionExistsError(f"{to / str(version)}: is there already, and a package never changes")
    run = open_run(path)
    weights = LAST if last else BEST
    model, metrics = run.load_model(weights)
    with staging(to) as staged:
        specs, checks = _write_graphs(staged, run, model)
        parity.require(checks)
        write_json(staged / "parity.json", parity.to_json(checks))
        shutil.copyfile(run.path / weights, staged / CHECKPOINT)
        manifest = _manifest(name, version or next_version(to), run, metrics, specs, parity.summary(checks))
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


def _manifest(
    name: str, version: int, run: Run, metrics: Metrics, specs: dict[str, GraphSpec], parity_summary: dict[str, Any]
) -> Manifest:
    model, data = run.description["model"], run.description["data"]
    channels, height, width = run.image_shape
    return Manifest(
        format=FORMAT,
        name=name,
        version=version,
        model=ModelSpec(model["family"], run.image_shape, model["latent_dim"], model["likelihood"]),
        preprocessing=Preprocessing((height, width), channels, "none", data["scale"]),
        graphs=specs,
        training={"data": data, "metrics": metrics, "seed": run.description["config"]["seed"]},
        parity=parity_summary,
        files=(),  # listed when the folder is complete
    )
