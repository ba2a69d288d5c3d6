"""Checks of the folder of models, as a server with these settings would load it."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from serving.engine import check_placement
from serving.repository import model_folders
from serving.settings import Settings
from vaeport.errors import VaeportError
from vaeport.findings import Finding, fail, ok, warn
from vaeport.golden import TF32_SLACK, has_golden, self_test
from vaeport.graphs import CUDA_PROVIDER, CudaOptions, Device, choose_device, load_graphs, names_in_precision
from vaeport.machine import usable_cores
from vaeport.package import open_package
from vaeport.signing import check_signature, signature_path
from vaeport.versions import default_package, default_version, pinned, versions

WORKER_BYTES = 130 << 20  # what a worker on the CPU takes without its models (docs/results/serving.md)


def examine_models(settings: Settings) -> Iterator[Finding]:
    """A finding for each model, or one finding that there are no models."""
    try:
        names = model_names(settings.models)
    except OSError as error:
        yield fail("models", f"{settings.models}: {error.strerror}", "let this user read it")
        return
    if not names:
        yield fail("models", f"{settings.models}: no models here", "python -m export RUN --to MODELS/NAME")
        return
    yield default_model(settings.default_model, names)
    device = _device(settings)
    if device is not None:
        yield from (examine_model(settings.models / name, settings, device) for name in names)


def model_names(folder: Path) -> list[str]:
    """The models in a folder: those with a version."""
    return [path.name for path in model_folders(folder)] if folder.is_dir() else []


def default_model(wanted: str, names: Sequence[str]) -> Finding:
    """Which model a request without a name means."""
    name, there = "models", ", ".join(names)
    if wanted and wanted not in names:
        return fail(name, f"{there}; --default-model {wanted} is not there", "name one that is")
    if wanted or len(names) == 1:
        return ok(name, f"{there}; a request without a name means {wanted or there}")
    return ok(name, f"{there}; every request has to name one, without --default-model")


def _device(settings: Settings) -> Device | None:
    """The device to try models on; another finding has said if it is not the one that the settings ask for."""
    for requested in (settings.device, "cpu"):
        with contextlib.suppress(VaeportError):
            return replace(choose_device(requested), cuda=CudaOptions(tf32=settings.tf32))
    return None


def examine_model(folder: Path, settings: Settings, device: Device) -> Finding:
    """The version that would be served: its rules, its signature, and what it computes on the device."""
    name, listed = f"model {folder.name}", ", ".join(map(str, versions(folder)))
    start = time.perf_counter()
    try:
        version, chosen = default_version(folder), "pinned" if pinned(folder) else "the newest"
    except VaeportError as error:
        return fail(name, str(error), "python -m serving pin, or unpin")
    if version is None:
        return warn(name, "every version is withdrawn: it is not served", "export it again, or withdraw --undo")
    try:
        proven, notes = _try(folder / str(version), settings, device)
    except VaeportError as error:
        return fail(name, str(error), "pin a version that works, or export it again")
    text = f"version {version} of {listed}, {chosen}; {notes}, {time.perf_counter() - start:.2f} s"
    return ok(name, text) if proven else warn(name, text, "export the run again")


def _try(path: Path, settings: Settings, device: Device) -> tuple[bool, str]:
    """Whether golden vectors were replayed, and notes on the package; raises what the server would refuse it for."""
    package = open_package(path)
    if settings.require_signature is not None:
        check_signature(package, settings.require_signature)
        signed = f"signed by {settings.require_signature}"
    else:
        signed = "signed, not checked" if signature_path(path).exists() else "not signed"
    names = names_in_precision(package.manifest, settings.precision)
    graphs = load_graphs(package, device, settings.threads or usable_cores(), names.values())
    for name, graph in graphs.items():
        check_placement(f"{path}: {name}", graph, device)
    if not has_golden(package):
        return False, f"{signed}, no golden vectors"
    self_test(package, graphs, TF32_SLACK if device.provider == CUDA_PROVIDER and settings.tf32 else 1.0)
    return True, f"{signed}, computes what was proven on {device.provider}"


def memory_needed(folder: Path, workers: int) -> int:
    """Roughly the bytes that idle workers will take: each one's own memory, and twice the size of its graphs' files.

    While a reload runs there are twice as many workers.
    """
    graphs = 0
    for name in model_names(folder):
        with contextlib.suppress(VaeportError):  # another finding says so
            graphs += sum(file.stat().st_size for file in default_package(folder / name).glob("*.onnx"))
    return 2 * workers * (WORKER_BYTES + 2 * graphs)
