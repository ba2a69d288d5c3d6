"""The models of a server: from a folder of packages to graphs that are ready to compute."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from serving.batching import Batcher, Limits, Turn
from serving.engine import Engine
from vaeport.errors import PackageError
from vaeport.golden import has_golden, self_test
from vaeport.graphs import Device, Graph, load_graphs, names_in_precision
from vaeport.model import model_info
from vaeport.package import FP32, Package, open_package, versions
from vaeport.results import ModelInfo
from vaeport.scoring import ScoringSpec
from vaeport.signing import check_signature

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A package whose graphs, by role, are in memory and have passed the self-test on this machine."""

    package: Package
    device: Device
    graphs: dict[str, Graph]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that takes requests."""

    info: ModelInfo
    scoring: ScoringSpec
    encoder: Batcher
    decoder: Batcher


def load_models(
    folder: Path, device: Device, threads: int, precision: str = FP32, public_key: Path | None = None
) -> list[LoadedModel]:
    """Load the newest version of every model in `folder`, sorted by name.

    Args:
        folder: `<name>/<version>` for each package.
        device: where they compute.
        threads: CPU threads of one call.
        precision: of vaeport.package.PRECISIONS.
        public_key: every package must have a valid signature by this key. None: signatures are not looked at.

    Raises:
        InvalidInputError: one has not that precision.
        PackageError: there is none, one breaks a rule, or one lies under another name or version than its own.
        SignatureError: with `public_key`, one is not signed by it.
        SelfTestError: a graph does not give here what its golden vectors say.
    """
    if not folder.is_dir():
        raise PackageError(f"{folder}: no such folder of models")
    found = [path / str(numbers[-1]) for path in sorted(folder.iterdir()) if (numbers := versions(path))]
    if not found:
        raise PackageError(f"{folder}: no models here; make one with: python -m export RUN --to {folder}/NAME")
    return [_load_model(path, device, threads, precision, public_key) for path in found]


def serve_model(model: LoadedModel, engine: Engine, limits: Limits, turn: Turn) -> ServedModel:
    """Give a loaded model its queues; all graphs of an engine share `turn`. Needs a running loop."""
    batchers = {
        role: Batcher(partial(engine.run, graph), limits, turn=turn, at_once=partial(engine.run_here, graph))
        for role, graph in model.graphs.items()
    }
    info = model_info(model.package, model.device)
    scoring = ScoringSpec.of(model.package.manifest)
    return ServedModel(info, scoring, batchers["encoder"], batchers["decoder"])


def _load_model(path: Path, device: Device, threads: int, precision: str, public_key: Path | None) -> LoadedModel:
    package = open_package(path)
    manifest = package.manifest
    if (manifest.name, str(manifest.version)) != (path.parent.name, path.name):
        raise PackageError(f"{path}: holds version {manifest.version} of {manifest.name!r}; a package keeps its name")
    if public_key is not None:
        check_signature(package, public_key)  # the graphs are held to the manifest that it has seen
        log.info("%s: signed by %s", path, public_key)
    names = names_in_precision(manifest, precision)
    graphs = load_graphs(package, device, threads, names.values())
    if has_golden(package):
        self_test(package, graphs)
    else:
        log.warning("%s: no golden vectors, so not self-tested: export the run again", path)
    for role, shape in (("encoder", manifest.model.image_shape), ("decoder", (manifest.model.latent_dim,))):
        graphs[names[role]](np.zeros((1, *shape), np.float32))  # the first run allocates; no caller should pay for it
    return LoadedModel(package, device, {role: graphs[name] for role, name in names.items()})
