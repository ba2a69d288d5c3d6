"""`python -m export verify`: the proof again, from nothing but the package."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import onnx
import tyro

from export import parity
from export.end_metric import end_metric, pairs
from export.errors import ExportError
from export.inputs import corner_images, random_images
from export.ladder import Subject, climb
from export.parity import Fact, NotRun, Report, compare
from export.runtimes import PYTORCH, TORCHSCRIPT, Runtime, one_thread, onnx_runtimes, pytorch, torchscript
from export.truth import AGREEMENT, DoubleGraph
from vaeport.errors import SelfTestError
from vaeport.golden import Golden, has_golden, read_golden, self_test
from vaeport.graphs import choose_device, load_graphs
from vaeport.manifest import Manifest
from vaeport.package import (
    CHECKPOINT_NAME,
    CHECKPOINT_PROPERTY,
    Package,
    open_package,
    precision_of,
    role_of,
    sha256_of,
)

if TYPE_CHECKING:
    import torch

IMAGES = 64  # random ones for the end metric, and the corners: a package has no images of the data


@dataclass(frozen=True, slots=True)
class Options:
    """Repeat the proof of a package from the package alone, and print it as a table. Exit status 1 if it fails."""

    package: Annotated[Path, tyro.conf.Positional]
    """The package, MODELS/<name>/<version>."""

    run_torchscript: bool = False
    """Check the TorchScript files, too. They are code: only for a package whose origin you trust."""


def verify_command(arguments: list[str]) -> None:
    """Parse, verify and print.

    Raises:
        ParityError: something did not pass.
        PackageError: the package breaks a rule of the format.
    """
    options = tyro.cli(Options, prog="python -m export verify", args=arguments)
    report = verify(options.package, run_torchscript=options.run_torchscript)
    print(parity.table(report))
    parity.require(report, f"{options.package} is not what it says")


def verify(path: Path, *, run_torchscript: bool = False) -> Report:
    """P0 to P7 for the package in folder `path`. With PyTorch where it is installed.

    Args:
        path: the package.
        run_torchscript: run the TorchScript files as well, which are code.

    Raises:
        PackageError: a rule of the format is broken.
        ExportError: the checkpoint is not one of the network that the manifest names.
    """
    package = open_package(path)
    names = list(package.manifest.graphs)
    graphs = load_graphs(package, choose_device("cpu"), 1, names)  # with the rules of the graphs
    missing = _missing_for_pytorch(package.manifest)
    modules = {} if missing else _modules(package)
    report = Report()
    with one_thread():
        subjects = {name: _subject(package, name, modules.get(role_of(name)), run_torchscript) for name in names}
        report.not_run += [NotRun(PYTORCH, missing)] if missing else []
        for subject in subjects.values():
            report.add(climb(subject, None))
            report.facts += _origin(package, subject)
        if not report.failed:
            spec = package.manifest.model
            images = np.concatenate([random_images(spec.image_shape)[:IMAGES], corner_images(spec.image_shape)])
            for encoder, decoder in pairs(subjects):
                report.add(end_metric(encoder, decoder, spec, images, "synthetic"))
        report.add(_golden(package, graphs, subjects))
    return report


def _subject(package: Package, name: str, module: "torch.nn.Module | None", run_torchscript: bool) -> Subject:
    """A graph, with the PyTorch module of its role if there is one here."""
    spec = package.manifest.graphs[name]
    path = package.path / spec.path
    data = path.read_bytes()
    runtimes, not_run = onnx_runtimes(path, data, spec, precision_of(name))
    if name == role_of(name):
        scripted, not_scripted = _scripted(package, name, module is not None and run_torchscript)
        runtimes, not_run = [*runtimes, *scripted], [*not_run, *not_scripted]
        runtimes += [] if module is None else [pytorch(module)]
    return Subject(name, onnx.load_from_string(data), spec, _equal(name, module), runtimes, not_run)


def _equal(name: str, module: "torch.nn.Module | None") -> "torch.nn.Module | None":
    if module is None:
        return None
    from export.variants import module_of  # torch

    return module_of(name, module)


def _scripted(package: Package, role: str, run: bool) -> tuple[list[Runtime], list[NotRun]]:
    script = package.path / "torchscript" / f"{role}.pt"
    if not script.exists():
        return [], [NotRun(TORCHSCRIPT, "not in the package")]
    if not run:
        return [], [NotRun(TORCHSCRIPT, "it is code: --run-torchscript, if you trust the package")]
    return torchscript(script)


def _missing_for_pytorch(manifest: Manifest) -> str | None:
    """What keeps PyTorch from being the second truth here, or None."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return "PyTorch is not installed"
    return None if "network" in manifest.training else "the manifest does not say what the network is made of"


def _modules(package: Package) -> "dict[str, torch.nn.Module]":
    """The PyTorch side, rebuilt from the checkpoint; no code of the package runs."""
    import torch

    from export.graphs import roles
    from training.errors import TrainingError
    from training.run import check_tensors, parse_tensors, read_bytes

    manifest, path = package.manifest, package.path / CHECKPOINT_NAME
    try:
        with torch.device("meta"):  # without memory: the sizes are a stranger's
            model = _build(manifest)
        tensors, _ = parse_tensors(path, read_bytes(path))
        check_tensors(path, tensors, model.state_dict())
    except (TrainingError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ExportError(f"{package.path}: the checkpoint is not of the network in the manifest: {error}") from error
    model.load_state_dict(tensors, assign=True)
    return {role.name: role.module for role in roles(model.eval(), manifest.model.image_shape)}


def _build(manifest: Manifest) -> Any:
    """A VAE of the manifest's kind, with fresh weights."""
    from training.likelihood import Bernoulli, Gaussian
    from training.model import VAE
    from training.networks import NETWORKS, NetworkSpec

    model, network = manifest.model, manifest.training["network"]
    spec = NetworkSpec(model.image_shape, model.latent_dim, tuple(network["hidden_dims"]), network["activation"])
    likelihood = Bernoulli() if model.likelihood == "bernoulli" else Gaussian(network["variance"])
    networks = NETWORKS[model.family](spec)
    return VAE(math.prod(model.image_shape), latent_dim=model.latent_dim, networks=networks, likelihood=likelihood)


def _origin(package: Package, subject: Subject) -> list[Fact]:
    """That the checkpoint which the graph names, if it names one, is that of the package."""
    said = {prop.key: prop.value for prop in subject.proto.metadata_props}
    if CHECKPOINT_PROPERTY not in said:
        return []
    digest = sha256_of(package.path / CHECKPOINT_NAME)
    return [Fact("P0", subject.name, "onnx", CHECKPOINT_PROPERTY, digest, said[CHECKPOINT_PROPERTY])]


def _golden(package: Package, graphs: Any, subjects: dict[str, Subject]) -> Report:
    """P7: the golden vectors are replayed, and they and their limits are those that follow from the graphs."""
    if not has_golden(package):
        return Report(not_run=[NotRun("golden vectors", "not in the package")])
    report = Report(facts=[Fact("P7", "both", "onnxruntime cpu", "golden vectors", "kept", _replay(package, graphs))])
    for role, golden in read_golden(package).items():
        report.add(_recomputed(subjects[role], golden))
    return report


def _replay(package: Package, graphs: Any) -> str:
    try:
        self_test(package, graphs)
    except SelfTestError as error:
        return str(error)
    return "kept"


def _recomputed(subject: Subject, golden: Golden) -> Report:
    """A golden truth that is not the graph's, or a limit that is not ours, would prove nothing."""
    judgement = DoubleGraph(subject.proto).judge(golden.rows)
    where = {"graph": subject.name, "input": "golden", "batch": len(golden.rows), "rung": "P7"}
    truth, limits = list(golden.truth.values()), list(golden.limits.values())
    report = compare(
        {**where, "runtime": "its truth"},
        subject.outputs,
        truth,
        judgement.truth,
        [np.full_like(t, AGREEMENT * max(1.0, float(np.abs(t).max()))) for t in judgement.truth],
    )
    close = [1e-6 * limit for limit in judgement.limits]
    report.add(compare({**where, "runtime": "its limits"}, subject.outputs, limits, judgement.limits, close))
    return report
