"""What another precision costs and gains, and whether it may be published.

A variant that is slower than fp32 on its own target, that changes the ELBO by more than its limit, or whose speed
could not be measured, is published only with --force.
"""

import statistics
import sys
import timeit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.end_metric import exact_elbo
from export.errors import ExportError
from export.inputs import Rows, random_images, random_latents
from export.ladder import Subject
from export.parity import Fact, Report, compare
from export.runtimes import ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, TARGETS, cuda_device
from export.truth import DoubleGraph
from vaeport.manifest import ModelSpec, PrecisionSpec
from vaeport.package import FP32, PRECISIONS, graph_name

# Of the ELBO's mean absolute change, in nats per pixel and channel. On MNIST that are 0.08 and 1.6 nats per image: far
# below, and about, what distinguishes one published model from the next.
ELBO_LIMITS = {"fp16": 1e-4, "int8": 2e-3}

DRAWN, AS_STATED = 64, 4.0  # images that the model draws, and by how much they may exceed a figure of held-out ones

REFUSED = "nothing is written; --force publishes it all the same"
TIMED_ROWS, TIMED_ROUNDS, TIMED_RUNS = 64, 9, 5
Pair = tuple[Subject, Subject]  # encoder and decoder of one precision
RUNTIMES = {"cpu": ONNXRUNTIME_CPU, "cuda": ONNXRUNTIME_CUDA}


@dataclass(frozen=True, slots=True)
class Measured:
    """A precision that was asked for.

    Attributes:
        spec: its entry in the manifest.
        speedup: seconds of fp32 by its own, for both graphs on its target; None where that is not here. It is of this
            machine, and so stands in the receipt, not in the package.
        objections: why it should not be published, for people.
    """

    spec: PrecisionSpec
    speedup: float | None
    objections: tuple[str, ...]


def parse_precisions(text: str) -> list[str]:
    """ "fp32,int8" as a list.

    Raises:
        ExportError: an unknown one, one twice, or not fp32 first.
    """
    chosen = text.split(",")
    if chosen[0] != FP32 or len(set(chosen)) != len(chosen) or not set(chosen) <= set(PRECISIONS):
        raise ExportError(f"--precisions: expected fp32, and after it any of fp16,int8, got {text or 'nothing'}")
    return chosen


def require_devices(precisions: Sequence[str], *, force: bool) -> None:
    """Before any work: a precision for a device that is not here cannot be measured, and so needs `force`.

    Raises:
        ExportError: naming the precision and its device.
    """
    for name in precisions:
        if TARGETS.get(name) == "cuda" and not force and cuda_device() is None:
            raise ExportError(f"{_unmeasured(name)}\n{REFUSED}")


def measure(precision: str, subjects: Mapping[str, Subject], model: ModelSpec, images: Rows) -> Measured:
    """Compare a precision with fp32.

    Args:
        precision: of TARGETS.
        subjects: all graphs, by name.
        model: of the manifest.
        images: held-out ones, float32 [rows, C, H, W] in [0, 1].
    """
    plain, other = _pair(subjects, FP32), _pair(subjects, precision)
    elbo_change, image_change = changes(plain, other, model, images)
    ratio = speedup(plain, other, RUNTIMES[TARGETS[precision]])
    spec = PrecisionSpec(
        target=TARGETS[precision],
        elbo_change=elbo_change,
        elbo_limit=elbo_limit(precision, model),
        image_change=image_change,
        speed_measured=ratio is not None,
    )
    slower = f"{precision}: it is slower than fp32 on this machine: {ratio:.2f} times its speed" if ratio else ""
    return Measured(spec, ratio, (*objections_to(precision, spec), *([slower] if ratio and ratio < 1.0 else [])))


def changes(plain: Pair, other: Pair, model: ModelSpec, images: Rows) -> tuple[float, float]:
    """What `other` changes in exact arithmetic: `elbo_change` and `image_change` of PrecisionSpec, on these images."""
    change = np.abs(exact_elbo(*other, model, images) - exact_elbo(*plain, model, images)).mean()
    pixels = _reconstructions(*other, images) - _reconstructions(*plain, images)
    return float(change), float(np.sqrt(np.mean(pixels**2)))


def elbo_limit(precision: str, model: ModelSpec) -> float:
    """In nats per image."""
    return ELBO_LIMITS[precision] * float(np.prod(model.image_shape))


def objections_to(precision: str, spec: PrecisionSpec) -> list[str]:
    """Why a precision should not be published, by its entry in the manifest."""
    found = []
    if spec.elbo_change > spec.elbo_limit:
        figures = f"expected at most {spec.elbo_limit:.3g} nats per image, got {spec.elbo_change:.3g}"
        found.append(f"{precision}: it changes the ELBO: {figures}")
    if not spec.speed_measured:
        found.append(f"{precision}: its speed was not measured on what it is for, {spec.target}")
    return found


def recheck(subjects: Mapping[str, Subject], model: ModelSpec, stated: Mapping[str, PrecisionSpec]) -> Report:
    """P6: what the manifest says about each precision, held to images that the model itself draws.

    A package has no held-out images, from which the figures are. On drawn ones the ELBO changes less and pixels about
    as much: by 0.1 to 1.0 and 0.8 to 1.1 of the figures of four models; random images, which int8 was not calibrated
    for, by up to 40 times. So AS_STATED times a figure is allowed.
    """
    report = Report()
    if not stated:
        return report
    latents = random_latents((model.latent_dim,))[:DRAWN]
    images = DoubleGraph(subjects["decoder"].proto).judge(latents).truth[0].astype(np.float32)
    for name, spec in stated.items():
        found = changes(_pair(subjects, FP32), _pair(subjects, name), model, images)
        where = {"rung": "P6", "graph": f"both.{name}", "runtime": "onnx in float64", "input": "drawn", "batch": DRAWN}
        limits = [np.array([AS_STATED * figure]) for figure in (spec.elbo_change, spec.image_change)]
        measured = [np.array([figure]) for figure in found]
        report.add(compare(where, ["elbo_change", "image_change"], measured, [np.zeros(1)] * 2, limits))
        expected = {"target": TARGETS[name], "elbo_limit": f"{elbo_limit(name, model):.6g}"}
        got = {"target": spec.target, "elbo_limit": f"{spec.elbo_limit:.6g}"}
        what = f"manifest.precisions.{name}"
        report.facts += [Fact("P6", "both", "manifest.json", f"{what}.{key}", expected[key], got[key]) for key in got]
    return report


def speedup(plain: Pair, other: Pair, runtime: str) -> float | None:
    """The median of the seconds of `plain` by that of `other`, measured in turn; None if they do not run there."""
    if not all(_runs_in(runtime, subject) for subject in (*plain, *other)):
        return None
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED_ROUNDS):
        for pair, times in zip((plain, other), seconds, strict=True):
            times.append(sum(_seconds(subject, runtime) for subject in pair))
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def require_no_objections(measured: Mapping[str, Measured], *, force: bool) -> None:
    """Raise ExportError for objections, unless they are overruled: then they go to stderr."""
    objections = [text for one in measured.values() for text in one.objections]
    if objections and not force:
        raise ExportError("\n".join([*objections, REFUSED]))
    for text in objections:
        print(f"export: overruled by --force: {text}", file=sys.stderr)


def receipt(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """What was measured on this machine, for the file beside the package."""
    return {
        name: {"speedup": one.speedup, "rows": TIMED_ROWS, "overruled": list(one.objections)}
        for name, one in measured.items()
    }


def _pair(subjects: Mapping[str, Subject], precision: str) -> Pair:
    return subjects[graph_name("encoder", precision)], subjects[graph_name("decoder", precision)]


def _runs_in(name: str, subject: Subject) -> bool:
    return any(runtime.name == name for runtime in subject.runtimes)


def _seconds(subject: Subject, name: str) -> float:
    """Seconds of the fastest of a few runs: disturbances make a run slower, never faster."""
    run = next(runtime.run for runtime in subject.runtimes if runtime.name == name)
    make = random_images if subject.role == "encoder" else random_latents
    rows = make(subject.row_shape)[:TIMED_ROWS]
    return min(timeit.repeat(lambda: run(rows), number=1, repeat=TIMED_RUNS))


def _reconstructions(encoder: Subject, decoder: Subject, images: Rows) -> Any:
    """In float64, [rows, C, H, W]."""
    mean = DoubleGraph(encoder.proto).judge(images).truth[0]
    return DoubleGraph(decoder.proto).judge(mean).truth[0]


def _unmeasured(precision: str) -> str:
    return f"{precision}: it is for {TARGETS[precision]}, and its speed cannot be measured here"
