"""The steps of an export, in order."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import torch

from export import parity
from export.calibration import calibration_rows
from export.card import IMAGES_INSIDE, OVERRULED, RECONSTRUCTIONS
from export.end_metric import end_metric, pairs
from export.errors import ExportError, VersionExistsError
from export.golden import golden_vectors
from export.graphs import Role, graph_spec, metadata_of, roles, to_onnx
from export.inputs import Rows
from export.ladder import Subject, climb, edges
from export.package import check_destination, next_version, publish, staging, write_json, write_receipt
from export.pictures import write_pictures
from export.precisions import measure, objections_to, receipt, require_devices, require_no_objections
from export.runtimes import one_thread, onnx_runtimes, pytorch, torchscript
from export.torchscript import write_torchscript
from export.variants import module_of, variants
from training.evaluate import SETTINGS, data_of, setting_of
from training.likelihood import Gaussian
from training.model import VAE
from training.run import BEST, LAST, Metrics, Run, open_run, read_bytes
from vaeport.golden import GOLDEN_NAME
from vaeport.manifest import FORMAT, Manifest, ModelSpec, Preprocessing
from vaeport.package import CHECKPOINT_NAME, FP32, MAX_VERSION, NAME_PATTERN, precision_of, role_of

log = logging.getLogger(__name__)

FORMATS = ("onnx", "torchscript")


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """What is exported, read once: training may go on meanwhile, and replace its files.

    Attributes:
        run: that it is of.
        weights: the name of their file, BEST or LAST.
        checkpoint: its content.
        model: with these weights, in eval mode.
        metrics: of their epoch.
        spec: of the model.
        images: held out, [N, C, H, W] in [0, 1].
    """

    run: Run
    weights: str
    checkpoint: bytes
    model: VAE
    metrics: Metrics
    spec: ModelSpec
    images: Rows

    @classmethod
    def read(cls, path: Path, weights: str) -> Self:
        """From a run directory.

        Raises:
            RunError: it is no run, or a damaged one.
            ExportError: its model cannot be exported.
        """
        run = open_run(path)
        if run.config.autoencoder:
            reason = "it has no posterior to encode to and no prior to sample from"
            raise ExportError(f"{path}: a plain autoencoder: {reason}")
        checkpoint = read_bytes(run.path / weights)
        model, metrics = run.model_from(weights, checkpoint)
        return cls(run, weights, checkpoint, model, metrics, model_spec(run, model), run.heldout())

    @property
    def binarization(self) -> str:
        """What training did to the pixels."""
        binarization: str = self.run.description["data"]["preprocessing"]["binarization"]
        return binarization


def export_run(
    path: Path,
    to: Path,
    *,
    version: int | None = None,
    last: bool = False,
    formats: Sequence[str] = FORMATS,
    precisions: Sequence[str] = (FP32,),
    force: bool = False,
    data_root: Path = Path("data"),
    card_images: bool = False,
    golden_images: bool = False,
) -> Path:
    """Make the package of a run.

    Args:
        path: the run directory.
        to: `models/<name>`.
        version: the version to make; None is one more than the newest.
        last: take the weights of the last epoch instead of the best.
        formats: of FORMATS; "onnx" must be one.
        precisions: of vaeport.package.PRECISIONS, "fp32" first.
        force: publish a precision in spite of what speaks against it.
        data_root: where the named data sets lie; only "int8" needs the run's data.
        card_images: show held-out images and their reconstructions in the card.
        golden_images: make the golden vectors of held-out images instead of synthetic ones.

    Returns:
        `models/<name>/<version>`, complete.

    Raises:
        RunError: `path` is no run, or a damaged one.
        DataError: "int8" needs the run's data, and they are not there.
        ExportError: a bad name or format, a version that exists, a graph that does not compute what PyTorch does, or a
            precision that is not worth it.
    """
    _check(to, version, formats)
    require_devices(precisions, force=force)
    source = LoadedRun.read(path, LAST if last else BEST)
    log.info("exporting %s", path)
    dataset = data_of(source.run, data_root) if "int8" in precisions else None
    with staging(to) as staged:
        scripts = {}
        if "torchscript" in formats:
            scripts = write_torchscript(staged, source.run, source.weights, source.checkpoint)
        with one_thread():
            calibration = calibration_rows(dataset, source.model) if dataset else {}
            subjects = _write_graphs(staged, source, scripts, precisions, calibration)
            real = {"encoder": source.images, "decoder": _posterior_means(source.model, source.images)}
            report = _prove(subjects, real, source.spec)
            parity.require(report, "nothing is written")
            (staged / GOLDEN_NAME).write_bytes(golden_vectors(list(subjects.values()), real if golden_images else None))
            write_pictures(staged, source.model, source.images, source.binarization, reconstructions=card_images)
            measured = {p: measure(p, subjects, source.spec, source.images) for p in precisions if p != FP32}
        require_no_objections(measured, force=force)
        overruled = [text for name, one in sorted(measured.items()) for text in objections_to(name, one.spec)]
        write_json(staged / parity.PARITY_NAME, {**parity.to_json(report), OVERRULED: overruled})
        (staged / CHECKPOINT_NAME).write_bytes(source.checkpoint)
        inside = [RECONSTRUCTIONS] * card_images + [GOLDEN_NAME] * golden_images
        manifest = Manifest(
            format=FORMAT,
            name=to.name,
            version=version or next_version(to),
            model=source.spec,
            preprocessing=_preprocessing(source.run),
            graphs={graph: subject.spec for graph, subject in subjects.items()},
            training={**_training_summary(source), IMAGES_INSIDE: inside},
            parity={**parity.summary(report), OVERRULED: overruled},
            files=(),  # listed when the folder is complete
            precisions={name: one.spec for name, one in measured.items()},
        )
        made = publish(staged, to, manifest, exactly=version is not None)
    if measured:
        write_receipt(made, receipt(measured))
    return made


def _check(to: Path, version: int | None, formats: Sequence[str]) -> None:
    """Before anything is read."""
    if not NAME_PATTERN.fullmatch(to.name):
        raise ExportError(f"--to {to}: the last component names the package: expected {NAME_PATTERN.pattern}")
    if version is not None and not 1 <= version <= MAX_VERSION:
        raise ExportError(f"--version: expected 1 to {MAX_VERSION}, got {version}")
    if version is not None and os.path.lexists(to / str(version)):
        raise VersionExistsError(f"{to / str(version)}: is there already, and a package never changes")
    check_destination(to, version)
    if "onnx" not in formats or not set(formats) <= set(FORMATS):
        raise ExportError(f"--formats: expected onnx, or {','.join(FORMATS)}, got {','.join(formats) or 'nothing'}")


def _write_graphs(
    staged: Path,
    source: LoadedRun,
    scripts: Mapping[str, Path],
    precisions: Sequence[str],
    calibration: Mapping[str, Rows],
) -> dict[str, Subject]:
    """Write every ONNX graph, and take what is in the files."""
    parts = {role.name: role for role in roles(source.model, source.run.image_shape)}
    latent_dim, checkpoint = source.model.latent_dim, source.checkpoint
    plain = {name: to_onnx(role, metadata_of(role, latent_dim, checkpoint)) for name, role in parts.items()}
    return {
        name: _subject(staged, name, proto, parts[role_of(name)], scripts.get(name))
        for name, proto in variants(plain, precisions, calibration)
    }


def _subject(staged: Path, name: str, proto: onnx.ModelProto, role: Role, script: Path | None) -> Subject:
    """Write a graph and take what is in the file; its TorchScript is there already, if it was asked for."""
    path, module = staged / f"{name}.onnx", module_of(name, role.module)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    data = path.read_bytes()
    spec = graph_spec(path.name, proto)
    runtimes, not_run = onnx_runtimes(path, data, spec, precision_of(name))
    if name == role.name:
        runtimes.insert(0, pytorch(role.module))
    scripted, not_scripted = torchscript(script, script.read_bytes()) if script else ([], [])
    return Subject(name, onnx.load_from_string(data), spec, module, [*runtimes, *scripted], [*not_run, *not_scripted])


def _prove(subjects: Mapping[str, Subject], real: Mapping[str, Rows], spec: ModelSpec) -> parity.Report:
    """The ladder of every graph, on real rows by role among others, and the end metric of every precision."""
    report = parity.Report()
    for subject in subjects.values():
        report.add(climb(subject, real[subject.role]))
    if not report.failed:
        report.facts += edges(subjects)
        for encoder, decoder in pairs(subjects):
            report.add(end_metric(encoder, decoder, spec, real["encoder"]))
    return report


def _posterior_means(model: VAE, images: Rows) -> Rows:
    with torch.inference_mode():
        return np.ascontiguousarray(model.encode(torch.from_numpy(images))[0].numpy())


def _training_summary(source: LoadedRun) -> dict[str, Any]:
    run, metrics = source.run, source.metrics
    evaluation = run.description.get("evaluation")
    return {
        "data": {key: value for key, value in run.description["data"].items() if key != "preprocessing"},
        "metrics": metrics,
        "epoch_chosen_by": "last" if source.weights == LAST else "lowest test objective after the warm-up",
        "seed": run.config.seed,
        "network": {
            "hidden_dims": list(run.config.hidden_dims),
            "activation": run.config.activation,
            "variance": run.config.variance,
        },
        "setting": SETTINGS[setting_of(run)],
        "evaluation": evaluation if evaluation and evaluation["epoch"] == metrics["epoch"] else None,
    }


def _preprocessing(run: Run) -> Preprocessing:
    prepared = run.description["data"]["preprocessing"]
    return Preprocessing(**{**prepared, "size": tuple(prepared["size"])})


def model_spec(run: Run, model: VAE) -> ModelSpec:
    """The model's entry in the manifest."""
    return ModelSpec(
        family=run.config.network,
        image_shape=run.image_shape,
        latent_dim=model.latent_dim,
        likelihood=run.config.likelihood,
        sigma=model.likelihood.sigma if isinstance(model.likelihood, Gaussian) else None,
    )
