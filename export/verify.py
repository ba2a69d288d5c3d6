"""`python -m export verify`: the proof again, from nothing but the package."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import onnx
import tyro

from export import parity
from export.claims import claims, metadata, stored_report
from export.end_metric import end_metric, pairs
from export.errors import ExportError
from export.inputs import corner_images, corner_latents, random_images, random_latents
from export.ladder import Subject, climb, edges
from export.parity import Fact, NotRun, Report, compare
from export.precisions import recheck
from export.runtimes import PYTORCH, TORCHSCRIPT, Runtime, one_thread, onnx_runtimes, pytorch, torchscript
from export.truth import AGREEMENT, DoubleGraph
from vaeport.errors import SelfTestError, bounded
from vaeport.golden import Golden, has_golden, read_golden, self_test
from vaeport.graphs import choose_device, load_graphs
from vaeport.manifest import Manifest
from vaeport.package import CHECKPOINT_NAME, ROLES, Package, has_bytes, open_package, precision_of, read_listed, role_of

if TYPE_CHECKING:
    import torch

    from export.graphs import Role
    from training.model import VAE

ROWS = 64  # random rows beside the corners: a package has no images of the data
NO_TORCH = "PyTorch is not installed"
WIDER = 1.5  # times the limits of a graph as today's exporter makes it; another one may add up otherwise
WIDER_GOLDEN = 4.0  # times today's limits: the first golden vectors have 2.5 times as wide ones; TF32 is 31 times off


@dataclass(frozen=True, slots=True)
class Options:
    """Repeat the proof of a package from the package alone, and print it as a table. Exit status 1 if it fails."""

    package: Annotated[Path, tyro.conf.Positional]
    """The package, MODELS/<name>/<version>."""

    run_torchscript: bool = False
    """Check the TorchScript files, too. They are code: only for a package whose origin you trust."""

    require_pytorch: bool = False
    """Fail where PyTorch could not be compared with: it is not installed, or the package does not name its network."""

    stored: bool = False
    """Print the table of parity.json, what the export found, and run nothing but the checks of the files."""


def verify_command(arguments: list[str]) -> None:
    """Parse, verify and print.

    Raises:
        ParityError: something did not pass.
        PackageError: the package breaks a rule of the format.
        ExportError: --require-pytorch, and it could not be compared with.
    """
    options = tyro.cli(Options, prog="python -m export verify", args=arguments)
    if options.stored:
        print(parity.table(stored_report(open_package(options.package))))
        return
    report = verify(options.package, run_torchscript=options.run_torchscript)
    print(parity.table(report))
    parity.require(report, f"{options.package} is not what it says")
    if missing := [row for row in report.not_run if row.runtime == PYTORCH and options.require_pytorch]:
        raise ExportError(f"--require-pytorch: {missing[0]}")


def verify(path: Path, *, run_torchscript: bool = False) -> Report:
    """P0 to P7 for the package in folder `path`. With PyTorch where it is installed.

    Args:
        path: the package.
        run_torchscript: run the TorchScript files as well, which are code.

    Raises:
        PackageError: a rule of the format is broken.
        ExportError: the checkpoint is not one of the network that the manifest names, PyTorch cannot load a TorchScript
            file, or a graph cannot be judged.
    """
    package = open_package(path)
    names = list(package.manifest.graphs)
    graphs = load_graphs(package, choose_device("cpu"), 1, names)  # with the rules of the graphs
    missing = _missing_for_pytorch(package.manifest)
    model = None if missing else _model(package)
    parts = _parts(model, package.manifest)
    report = claims(package)
    report.facts += _sigma(package.manifest, model)
    with one_thread():
        subjects = {name: _subject(package, name, parts.get(role_of(name)), run_torchscript) for name in names}
        report.not_run += [NotRun(PYTORCH, missing)] if missing else []
        ladder = Report()
        for subject in subjects.values():
            report.facts += metadata(package, subject)
            ladder.add(_climb(package, subject))
        if not ladder.failed:
            ladder.add(_together(package, subjects, parts))
        report.add(ladder)
        report.facts += _scripts(package)
        report.add(_golden(package, graphs, subjects, judge=not any(row.rung == "P0" for row in ladder.failed)))
    return report


def _climb(package: Package, subject: Subject) -> Report:
    """The ladder; what a stranger's graph does to the evaluator may be anything."""
    try:
        seed = int(package.digest.removeprefix("sha256:"), 16)  # so the rows are none that a graph was made for
        return climb(subject, None, seed)
    except Exception as error:
        text = f"{package.path}: {subject.name} cannot be judged: {type(error).__name__}: {bounded(str(error))}"
        raise ExportError(text) from error


def _together(package: Package, subjects: dict[str, Subject], parts: "dict[str, Role]") -> Report:
    """What is compared between graphs, once each has climbed."""
    spec = package.manifest.model
    report = Report(facts=edges(subjects))
    for encoder, decoder in pairs(subjects):
        images = np.concatenate([random_images(spec.image_shape)[:ROWS], corner_images(spec.image_shape)])
        report.add(end_metric(encoder, decoder, spec, images, "synthetic"))
    report.add(recheck(subjects, spec, package.manifest.precisions))
    report.add(_as_exported(subjects, parts))
    return report


def _as_exported(subjects: dict[str, Subject], parts: "dict[str, Role]") -> Report:
    """P1: the limits of a graph, which it says itself, are no wider than those of the one that the module becomes.

    A graph with the same truth may go there by a way that loses digits: + 1000 - 1000. Nothing else bounds the limits.
    """
    report = Report()
    for name, subject in subjects.items():
        if subject.role not in parts or has_bytes(name) or precision_of(name) == "int8":  # edges, recheck
            continue
        images = subject.role == "encoder"
        random, corner = (random_images, corner_images) if images else (random_latents, corner_latents)
        rows = np.concatenate([random(subject.row_shape)[:ROWS], corner(subject.row_shape)])
        exported = DoubleGraph(_exported(name, parts[subject.role])).judge(rows).limits
        limits = DoubleGraph(subject.proto).judge(rows).limits
        wider = [np.maximum(own, one) for own, one in zip(limits, exported, strict=True)]
        where = {"rung": "P1", "graph": name, "runtime": "its limits", "input": "random and corner", "batch": len(rows)}
        report.add(compare(where, subject.outputs, wider, exported, [(WIDER - 1.0) * limit for limit in exported]))
    return report


def _exported(name: str, role: "Role") -> onnx.ModelProto:
    from export.graphs import to_onnx  # torch
    from export.variants import to_fp16

    proto = to_onnx(role)
    return to_fp16(proto) if precision_of(name) == "fp16" else proto


def _subject(package: Package, name: str, part: "Role | None", run_torchscript: bool) -> Subject:
    """A graph, with the PyTorch module of its role if there is one here."""
    spec, module = package.manifest.graphs[name], part.module if part else None
    path = package.path / spec.path
    data = read_listed(package, spec.path)
    runtimes, not_run = onnx_runtimes(path, data, spec, precision_of(name))
    if name == role_of(name):
        scripted, not_scripted = _scripted(package, name, run_torchscript)
        runtimes, not_run = [*runtimes, *scripted], [*not_run, *not_scripted]
        runtimes += [] if module is None else [pytorch(module)]
    return Subject(name, onnx.load_from_string(data), spec, _equal(name, module), runtimes, not_run)


def _equal(name: str, module: "torch.nn.Module | None") -> "torch.nn.Module | None":
    if module is None:
        return None
    from export.variants import module_of  # torch

    return module_of(name, module)


def _scripted(package: Package, role: str, run: bool) -> tuple[list[Runtime], list[NotRun]]:
    name = f"torchscript/{role}.pt"
    if name not in _listed(package):
        return [], [NotRun(TORCHSCRIPT, "not in the package")]
    if not run:
        return [], [NotRun(TORCHSCRIPT, "it is code: --run-torchscript, if you trust the package")]
    if not _has_torch():
        return [], [NotRun(TORCHSCRIPT, NO_TORCH)]
    return torchscript(package.path / name, read_listed(package, name))


def _scripts(package: Package) -> list[Fact]:
    """P0: TorchScript is there for both roles or for none."""
    there = [role for role in ROLES if f"torchscript/{role}.pt" in _listed(package)]
    return [Fact("P0", "both", "torchscript", "its files", ", ".join(ROLES), ", ".join(there))] if there else []


def _listed(package: Package) -> set[str]:
    return {entry.path for entry in package.manifest.files}


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def _missing_for_pytorch(manifest: Manifest) -> str | None:
    """What keeps PyTorch from being the second truth here, or None."""
    if not _has_torch():
        return NO_TORCH
    return None if "network" in manifest.training else "the manifest does not say what the network is made of"


def _model(package: Package) -> "VAE":
    """The PyTorch side, rebuilt from the checkpoint; no code of the package runs."""
    import torch

    from training.errors import TrainingError
    from training.run import check_tensors, parse_tensors

    manifest, path = package.manifest, package.path / CHECKPOINT_NAME
    if CHECKPOINT_NAME not in _listed(package):
        raise ExportError(f"{path}: not in the package")
    try:
        with torch.device("meta"):  # without memory: the sizes are a stranger's
            model = _build(manifest)
        tensors, _ = parse_tensors(path, read_listed(package, CHECKPOINT_NAME))
        check_tensors(path, tensors, model.state_dict())
    except (TrainingError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        text = f"{package.path}: the checkpoint is not of the network in the manifest: {bounded(str(error))}"
        raise ExportError(text) from error
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _parts(model: "VAE | None", manifest: Manifest) -> "dict[str, Role]":
    if model is None:
        return {}
    from export.graphs import roles  # torch

    return {role.name: role for role in roles(model, manifest.model.image_shape)}


def _sigma(manifest: Manifest, model: "VAE | None") -> list[Fact]:
    """P0: scores are computed with the checkpoint's standard deviation."""
    from_checkpoint = getattr(model.likelihood, "sigma", None) if model else None
    if from_checkpoint is None:
        return []
    said = manifest.model.sigma or 0.0
    got = from_checkpoint if math.isclose(said, from_checkpoint, rel_tol=AGREEMENT) else said
    return [Fact("P0", "decoder", "manifest.json", "model.sigma", f"{from_checkpoint!r}", f"{got!r}")]


def _build(manifest: Manifest) -> "VAE":
    """A VAE of the manifest's kind, with fresh weights."""
    from training.likelihood import Bernoulli, Gaussian
    from training.model import VAE
    from training.networks import NETWORKS, NetworkSpec

    model, network = manifest.model, manifest.training["network"]
    spec = NetworkSpec(model.image_shape, model.latent_dim, tuple(network["hidden_dims"]), network["activation"])
    likelihood = Bernoulli() if model.likelihood == "bernoulli" else Gaussian(network["variance"])
    networks = NETWORKS[model.family](spec)
    return VAE(math.prod(model.image_shape), latent_dim=model.latent_dim, networks=networks, likelihood=likelihood)


def _golden(package: Package, graphs: Any, subjects: dict[str, Subject], *, judge: bool) -> Report:
    """P7: the golden vectors are replayed and, if the graphs can be judged, compared with what follows from them."""
    if not has_golden(package):
        return Report(not_run=[NotRun("golden vectors", "not in the package")])
    report = Report(facts=[Fact("P7", "both", "onnxruntime cpu", "golden vectors", "kept", _replay(package, graphs))])
    for role, golden in read_golden(package).items() if judge else ():
        report.add(_recomputed(subjects[role], golden))
    return report


def _replay(package: Package, graphs: Any) -> str:
    try:
        self_test(package, graphs)
    except SelfTestError as error:
        return str(error)
    return "kept"


def _recomputed(subject: Subject, golden: Golden) -> Report:
    """A golden truth that is not the graph's, or a limit that is wide, would prove nothing. Narrow ones do."""
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
    wider = [np.maximum(own, one) for own, one in zip(limits, judgement.limits, strict=True)]
    allowed = [(WIDER_GOLDEN - 1.0) * limit for limit in judgement.limits]
    report.add(compare({**where, "runtime": "its limits"}, subject.outputs, wider, judgement.limits, allowed))
    negative = sum(int(np.sum(limit < 0.0)) for limit in limits)
    report.facts.append(Fact("P7", subject.name, "its limits", "negative ones", "0", str(negative)))
    return report
