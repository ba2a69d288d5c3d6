"""The models of a server: from a folder of packages to graphs that are ready to compute."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from serving.batching import Batcher, Limits, Observer, Turn
from serving.batching.delivery import Rows
from serving.canary import Canary, canaries_of
from serving.engine import BoundGraph, ByDtype, Engine, check_placement
from serving.telemetry import SILENT, Telemetry
from vaeport.golden import TF32_SLACK, has_golden, self_test
from vaeport.graphs import CUDA_PROVIDER, Device, Graph, load_graphs, names_in_precision
from vaeport.model import model_info
from vaeport.package import FP32, Package, graph_name, open_package
from vaeport.results import ModelInfo
from vaeport.scoring import ScoringSpec
from vaeport.signing import check_signature

Rebuilding = Callable[[], AbstractContextManager[None]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A package whose graphs, by role, are in memory and have passed the self-test on this machine.

    Attributes:
        canaries: the canaries of these graphs.
    """

    package: Package
    device: Device
    graphs: dict[str, Graph] | dict[str, BoundGraph | ByDtype]
    canaries: tuple[Canary, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that takes requests."""

    info: ModelInfo
    scoring: ScoringSpec
    encoder: Batcher
    decoder: Batcher


def load_models(
    packages: Sequence[Path],
    device: Device,
    threads: int,
    precision: str = FP32,
    public_key: Path | None = None,
    buckets: Sequence[int] = (),
    rebuilding: Rebuilding = nullcontext,
) -> list[LoadedModel]:
    """Load packages, so that they are ready to compute.

    Args:
        packages: MODELS/<name>/<version>, one for each model.
        device: where they compute.
        threads: CPU threads of one call.
        precision: one of vaeport.package.PRECISIONS.
        public_key: every package must have a valid signature by this key; None does not check signatures.
        buckets: batch sizes, in rows, ascending, for each of which a graph has its own memory, as CUDA needs. None:
            graphs take batches of any size.
        rebuilding: is entered while a graph rebuilds its session.

    Raises:
        DeviceError: a node would compute elsewhere than on the device, or the device fails.
        InvalidInputError: a package does not have that precision.
        PackageError: a package breaks a rule, or lies under another name or version than its own.
        SignatureError: with `public_key`, a package is not signed by it.
        SelfTestError: a graph does not compute here what its golden vectors say.
    """
    return [_load_model(path, device, threads, precision, public_key, buckets, rebuilding) for path in packages]


def serve_model(
    model: LoadedModel, engine: Engine, limits: Limits, turn: Turn, telemetry: Telemetry = SILENT
) -> ServedModel:
    """Give a loaded model its queues; all graphs of an engine share `turn`. Needs a running loop."""
    name = model.package.manifest.name
    batchers = {}
    for role, graph in model.graphs.items():
        observer = telemetry.of_graph(name, role, None if isinstance(graph, Graph) else graph.padded_rows)
        batchers[role] = batcher_of(graph, engine, limits, turn, observer)
    info = model_info(model.package, model.device)
    scoring = ScoringSpec.of(model.package.manifest)
    return ServedModel(info, scoring, batchers["encoder"], batchers["decoder"])


def batcher_of(
    graph: Graph | BoundGraph | ByDtype, engine: Engine, limits: Limits, turn: Turn, observer: Observer | None = None
) -> Batcher:
    """The queue of one graph. Its batches shrink with the memory of the device."""
    if isinstance(graph, Graph):
        at_once = partial(engine.run_here, graph)
        return Batcher(partial(engine.run, graph), limits, turn=turn, at_once=at_once, observer=observer)

    async def compute(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        outputs = await engine.run_bound(graph, pieces)
        batcher.limit_batches(graph.max_rows)  # memory may have run out
        return outputs

    fitting = min(limits.max_batch_rows, graph.max_rows)
    batcher = Batcher(compute, replace(limits, max_batch_rows=fitting), turn=turn, observer=observer)
    return batcher


def _load_model(
    path: Path,
    device: Device,
    threads: int,
    precision: str,
    public_key: Path | None,
    buckets: Sequence[int],
    rebuilding: Rebuilding,
) -> LoadedModel:
    package = open_package(path)
    manifest = package.manifest
    if public_key is not None:
        check_signature(package, public_key)  # the graphs are compared with the manifest that it has checked
        log.info("%s: signed by %s", path, public_key)
    if buckets:
        bound, canaries = _bound_graphs(package, device, threads, precision, buckets, rebuilding)
        return LoadedModel(package, device, bound, canaries)
    names = names_in_precision(manifest, precision)
    graphs = load_graphs(package, device, threads, names.values())
    canaries = _prove(package, device, graphs)
    for role, shape in (("encoder", manifest.model.image_shape), ("decoder", (manifest.model.latent_dim,))):
        graphs[names[role]](np.zeros((1, *shape), np.float32))  # the first run allocates; no caller should wait for it
    return LoadedModel(package, device, {role: graphs[name] for role, name in names.items()}, canaries)


def _bound_graphs(
    package: Package, device: Device, threads: int, precision: str, buckets: Sequence[int], rebuilding: Rebuilding
) -> tuple[dict[str, BoundGraph | ByDtype], tuple[Canary, ...]]:
    """The graphs by role, warm, and their canaries. The encoder takes bytes, too, if the package has that graph.

    The decoder gives floats: requests for bytes share batches with requests for floats, and the graph that makes bytes
    has no logits.
    """
    names = names_in_precision(package.manifest, precision)
    of_bytes = graph_name("encoder", precision, uint8=True)
    graphs = {}
    for name in (*names.values(), *([of_bytes] if of_bytes in package.manifest.graphs else [])):
        load = partial(_load_one, package, device, threads, name)
        graphs[name] = BoundGraph(f"{package.manifest.name} {name}", load, device, buckets, rebuilding)
        graphs[name].warm_up()
        log.info("%s %s: batches of up to %d rows", package.manifest.name, name, graphs[name].max_rows)
    canaries = _prove(package, device, graphs, buckets)
    encoder, decoder = graphs[names["encoder"]], graphs[names["decoder"]]
    by_role = {"encoder": ByDtype(encoder, graphs[of_bytes]) if of_bytes in graphs else encoder, "decoder": decoder}
    return by_role, canaries


def _load_one(package: Package, device: Device, threads: int, name: str) -> Graph:
    return load_graphs(package, device, threads, [name])[name]


def _prove(
    package: Package,
    device: Device,
    graphs: dict[str, Graph] | dict[str, BoundGraph],
    buckets: Sequence[int] = (),
) -> tuple[Canary, ...]:
    """Check that every node is on the device, and that the graphs compute what the golden vectors say.

    This is checked for each of the buckets: CUDA chooses its kernels by the size of a batch.
    """
    for name, graph in graphs.items():
        nodes = check_placement(f"{package.path}: {name}", graph, device)
        log.info("%s %s: %d nodes, all on %s", package.manifest.name, name, nodes, device.provider)
    if not has_golden(package):
        log.warning("%s: no golden vectors, so not self-tested: export the run again", package.path)
        return canaries_of(package, graphs, None)
    tf32 = device.provider == CUDA_PROVIDER and device.cuda.tf32
    slack = TF32_SLACK if tf32 else 1.0
    return canaries_of(package, graphs, self_test(package, graphs, slack, buckets), slack)
