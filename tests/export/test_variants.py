"""Variants of the graphs: bytes at the edges, float16 and int8 inside, each with a truth and limits that can fail."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from threadpoolctl import threadpool_info, threadpool_limits

import vaeport
from export import pipeline, precisions
from export.edges import with_bytes
from export.errors import ExportError
from export.graphs import graph_spec, roles, to_onnx
from export.inputs import Rows, random_images, random_latents
from export.ladder import Subject, climb, edges
from export.pipeline import export_run
from export.runtimes import Runtime, cuda_device, onnx_runtimes
from export.variants import module_of, to_int8, variants
from training import VAE
from vaeport.arrays import to_float, to_uint8
from vaeport.errors import InvalidInputError
from vaeport.graphs import choose_device, load_graphs
from vaeport.manifest import ModelSpec
from vaeport.package import PRECISIONS, open_package, precision_of, role_of

ROOT = Path(__file__).parents[2]
SHAPE = (1, 4, 4)
MODEL = ModelSpec("mlp", SHAPE, 8, "bernoulli", None)
IMAGES = np.random.default_rng(1).random((5, *SHAPE), np.float32)
LATENTS = np.random.default_rng(2).standard_normal((5, 8), np.float32)
REAL = {"encoder": IMAGES, "decoder": LATENTS}
CALIBRATION = {"encoder": random_images(SHAPE), "decoder": random_latents((8,))}
NAMES = [f"{role}{precision}{edge}" for precision in ("", ".fp16", ".int8") for role in REAL for edge in ("", ".uint8")]


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    """All variants of a small network whose hidden layers are wide enough for every kind of error."""
    torch.manual_seed(0)
    model = VAE(16, 24, 8).eval()
    for parameter in model.parameters():
        parameter.data *= 2.0
    parts = {role.name: role for role in roles(model, SHAPE)}
    plain = {name: to_onnx(role) for name, role in parts.items()}
    return {
        name: subject_of(name, proto, module_of(name, parts[role_of(name)].module))
        for name, proto in variants(plain, PRECISIONS, CALIBRATION)
    }


def subject_of(name: str, proto: onnx.ModelProto, module: torch.nn.Module | None) -> Subject:
    spec = graph_spec(f"{name}.onnx", proto)
    runtimes, not_run = onnx_runtimes(Path(spec.path), proto.SerializeToString(), spec, precision_of(name))
    return Subject(name, proto, spec, module, runtimes, not_run)


def run(subject: Subject, rows: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return subject.runtimes[0].run(rows)


def test_every_variant_has_its_name(subjects: Mapping[str, Subject]) -> None:
    assert sorted(subjects) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_right_variant_passes_every_rung(subjects: Mapping[str, Subject], name: str) -> None:
    report = climb(subjects[name], REAL[role_of(name)])
    assert report.failed == []
    second_truth = {"P1"} if precision_of(name) != "int8" else set()
    assert {check.rung for check in report.checks} == {"P2", "P3", "P4"} | second_truth
    assert {fact.rung for fact in report.facts} == {"P0", "P5"}


def test_far_latents_are_computed_in_every_precision_but_float16_whose_numbers_end_before(
    subjects: Mapping[str, Subject],
) -> None:
    rungs = {}
    for name in ("decoder", "decoder.fp16", "decoder.int8"):
        checks = [check for check in climb(subjects[name], None).checks if "far" in check.input]
        rungs[name] = {check.rung for check in checks}
    assert rungs == {"decoder": {"P1", "P3", "P4"}, "decoder.fp16": {"P1"}, "decoder.int8": {"P3", "P4"}}


def test_bytes_in_give_the_bits_of_the_same_pixels_as_floats(subjects: Mapping[str, Subject]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, *SHAPE), np.uint8)
    for precision in ("", ".fp16", ".int8"):
        expected = run(subjects[f"encoder{precision}"], to_float(pixels))
        for found, floats in zip(run(subjects[f"encoder{precision}.uint8"], pixels), expected, strict=True):
            np.testing.assert_array_equal(found, floats)


def test_bytes_out_are_the_floats_to_the_nearest_integer(subjects: Mapping[str, Subject]) -> None:
    latents = np.random.default_rng(0).standard_normal((300, 8), np.float32)
    for precision, off in (("", 0), (".int8", 0), (".fp16", 1)):  # on the CPU, float16's casts are optimised away
        (pixels,) = run(subjects[f"decoder{precision}.uint8"], latents)
        assert pixels.dtype == np.uint8
        expected = to_uint8(run(subjects[f"decoder{precision}"], latents)[0])
        assert np.abs(pixels.astype(int) - expected).max() <= off


def remove(proto: onnx.ModelProto, op_type: str) -> None:
    """The last node of that kind; its output is its input."""
    node = [node for node in proto.graph.node if node.op_type == op_type][-1]
    for other in proto.graph.node:
        other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
    proto.graph.node.remove(node)


def edit(proto: onnx.ModelProto, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """An initializer, the first whose name ends so."""
    initializer = next(i for i in proto.graph.initializer if i.name.endswith(name))
    initializer.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(initializer)), initializer.name))


BREAKS: dict[str, tuple[str, Callable[[onnx.ModelProto], object]]] = {
    "bytes cut off, not rounded": ("decoder.uint8", lambda p: remove(p, "Round")),
    "bytes of 256 levels": ("decoder.uint8", lambda p: edit(p, "full", lambda a: np.float32(256.0) + 0 * a)),
    "pixels divided by 256": ("encoder.uint8", lambda p: edit(p, "full", lambda a: np.float32(256.0) + 0 * a)),
    "pixels not divided": ("encoder.uint8", lambda p: remove(p, "Div")),
    "a float16 weight off by its last bit": ("encoder.fp16", lambda p: edit(p, "body.0.weight", next_half)),
    "a float16 activation dropped": ("decoder.fp16", lambda p: remove(p, "Relu")),
}


def next_half(weight: NDArray[Any]) -> NDArray[Any]:
    changed = weight.copy()
    changed[0, 0] = np.nextafter(changed[0, 0], np.float16(1))
    return changed


@pytest.mark.parametrize("broken", BREAKS)
def test_a_wrong_variant_is_no_longer_the_module(subjects: Mapping[str, Subject], broken: str) -> None:
    name, change = BREAKS[broken]
    wrong = onnx.ModelProto()
    wrong.CopyFrom(subjects[name].proto)
    change(wrong)
    report = climb(dataclasses.replace(subjects[name], proto=wrong), REAL[role_of(name)])
    assert "P1" in {row.rung for row in report.failed}


def test_a_graph_with_bytes_is_its_sibling_and_no_other(subjects: Mapping[str, Subject]) -> None:
    """A changed weight may change no byte by more than its limit, and of int8 there is no module to compare with."""
    assert all(fact.passed for fact in edges(subjects))
    assert len(edges(subjects)) == len(NAMES) / 2
    for name, weight in (("decoder.uint8", "weight"), ("encoder.int8.uint8", "weight_quantized")):
        wrong = onnx.ModelProto()
        wrong.CopyFrom(subjects[name].proto)
        edit(wrong, weight, lambda a: (a + (np.arange(a.size).reshape(a.shape) == 0)).astype(a.dtype))
        changed = {**subjects, name: dataclasses.replace(subjects[name], proto=wrong)}
        assert [fact.graph for fact in edges(changed) if not fact.passed] == [name]


def float8(rows: NDArray[Any]) -> NDArray[Any]:
    mantissa, exponent = np.frexp(rows)
    return np.asarray(np.ldexp(np.round(mantissa * 2**4) / 2**4, exponent), np.float32)


RUNTIME_ERRORS: dict[str, tuple[str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "float8 for float16": ("encoder.fp16", lambda right: lambda rows: right(float8(rows))),
    "a byte more": ("decoder.uint8", lambda right: lambda rows: tuple(o + (o < 255) for o in right(rows))),
    "saturated sums": ("decoder.int8", lambda right: lambda rows: tuple(np.clip(o, -2.0, 2.0) for o in right(rows))),
    "a step of the input more": ("encoder.int8", lambda right: lambda rows: right(rows + np.float32(1 / 255))),
}


@pytest.mark.parametrize("broken", RUNTIME_ERRORS)
def test_a_wrong_runtime_of_a_variant_is_caught(subjects: Mapping[str, Subject], broken: str) -> None:
    name, change = RUNTIME_ERRORS[broken]
    right = subjects[name].runtimes[0]
    wrong = Runtime("wrong", change(right.run))
    report = climb(dataclasses.replace(subjects[name], runtimes=[right, wrong]), REAL[role_of(name)])
    assert {"P2", "P3"} <= {row.rung for row in report.failed}
    assert {row.runtime for row in report.failed} == {"wrong"}


def test_int8_is_nearer_to_fp32_the_more_of_the_range_its_calibration_saw() -> None:
    """What the calibration is for: without bright images, bright ones are cut off."""
    torch.manual_seed(0)
    encoder = next(iter(roles(VAE(16, 24, 8).eval(), SHAPE)))
    plain = to_onnx(encoder)
    exact = run(subject_of("encoder", plain, None), IMAGES)[0]

    def error(rows: Rows) -> float:
        return float(np.abs(run(subject_of("encoder.int8", to_int8(plain, rows), None), IMAGES)[0] - exact).max())

    assert error(random_images(SHAPE)) < 0.25 * error(0.2 * random_images(SHAPE))


def test_a_precision_that_changes_the_elbo_is_objected_to(subjects: Mapping[str, Subject]) -> None:
    right = precisions.measure("int8", subjects, MODEL, IMAGES)
    assert right.spec.elbo_change > 0
    assert 0 < right.spec.image_change < 0.02
    proto = onnx.ModelProto()
    proto.CopyFrom(subjects["decoder.int8"].proto)
    edit(proto, "weight_scale", lambda a: 1.5 * a)
    wrong = {**subjects, "decoder.int8": dataclasses.replace(subjects["decoder.int8"], proto=proto)}
    found = precisions.measure("int8", wrong, MODEL, IMAGES)
    assert found.spec.elbo_change > 10 * right.spec.elbo_change
    assert any(re.match(r"int8: it changes the ELBO: expected at most 0\.032 nats", text) for text in found.objections)


def test_what_a_package_says_about_a_precision_is_held_to_its_graphs(subjects: Mapping[str, Subject]) -> None:
    stated = {name: precisions.measure(name, subjects, MODEL, IMAGES).spec for name in ("fp16", "int8")}

    def failed(subjects: Mapping[str, Subject] = subjects, **changed: Any) -> set[str]:
        found = {**stated, "int8": dataclasses.replace(stated["int8"], **changed)}
        return {str(row) for row in precisions.recheck(subjects, MODEL, found).failed}

    assert failed() == set()
    assert failed(elbo_change=1e-9)
    assert failed(elbo_change=-1.0)
    assert failed(image_change=0.0)
    assert failed(image_change=-1.0)
    assert failed(elbo_limit=1e9) == {
        "P6: both, manifest.json, manifest.precisions.int8.elbo_limit: expected 0.032, got 1e+09"
    }
    assert failed(target="cuda")
    junk = onnx.ModelProto()
    junk.CopyFrom(subjects["decoder.int8"].proto)
    edit(junk, "weight_quantized", lambda a: a[::-1, ::-1].copy())
    wrong = {**subjects, "decoder.int8": dataclasses.replace(subjects["decoder.int8"], proto=junk)}
    assert any(row.startswith("P6: both.int8.image_change") for row in failed(wrong))


def test_a_precision_that_is_slower_is_objected_to(
    subjects: Mapping[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "_seconds", lambda subject, _: 4.0 if "int8" in subject.name else 3.0)
    measured = precisions.measure("int8", subjects, MODEL, IMAGES)
    assert measured.speedup == 0.75
    assert "int8: it is slower than fp32 on this machine: 0.75 times its speed" in measured.objections
    with pytest.raises(ExportError, match=r"slower than fp32(.|\n)*nothing is written; --force"):
        precisions.require_no_objections({"int8": measured}, force=False)
    precisions.require_no_objections({"int8": measured}, force=True)
    assert precisions.receipt({"int8": measured})["int8"]["overruled"] == list(measured.objections)


def test_what_goes_into_the_package_is_computed_on_one_thread(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of sums depend on the number of threads, and the manifest has them."""
    threads, threads_of_means = [], []
    posterior_means = pipeline._posterior_means

    def here() -> set[int]:
        return {library["num_threads"] for library in threadpool_info()} | {torch.get_num_threads()}

    def measure(*arguments: Any) -> precisions.Measured:
        threads.append(here())
        return precisions.measure(*arguments)

    def means(*arguments: Any) -> Rows:
        threads_of_means.append(here())
        return posterior_means(*arguments)

    monkeypatch.setattr(pipeline, "measure", measure)
    monkeypatch.setattr(pipeline, "_posterior_means", means)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        export_run(digits_run, tmp_path / "digits", formats=["onnx"], precisions=["fp32", "int8"], force=True)
    torch.set_num_threads(before)
    assert threads == [{1}]
    assert threads_of_means == [{1}]


@pytest.mark.parametrize("text", ["", "int8", "fp16,fp32", "fp32,fp32", "fp32,bf16", "fp32,int8,int8"])
def test_other_precisions_are_refused(text: str) -> None:
    with pytest.raises(ExportError, match="--precisions: expected fp32, and after it any of fp16,int8, got"):
        precisions.parse_precisions(text)


def export(run: Path, to: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export", str(run), "--to", str(to), "--formats", "onnx", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(cuda_device() is not None, reason="a GPU measures it")
def test_what_cannot_be_measured_here_is_published_by_force_alone(digits_run: Path, tmp_path: Path) -> None:
    refused = export(digits_run, tmp_path / "digits", "--precisions", "fp32,fp16")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "fp16: it is for cuda, and its speed cannot be measured here" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(tmp_path.iterdir())  # it was known at once


@pytest.fixture(scope="module")
def all_precisions(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with everything; on so small a network int8 may be slower."""
    to = tmp_path_factory.mktemp("models") / "digits"
    return export_run(digits_run, to, formats=["onnx"], precisions=PRECISIONS, force=True)


def test_the_manifest_says_what_each_precision_costs(all_precisions: Path) -> None:
    manifest = open_package(all_precisions).manifest
    assert sorted(manifest.graphs) == sorted(NAMES)
    assert sorted(manifest.precisions) == ["fp16", "int8"]
    fp16, int8 = manifest.precisions["fp16"], manifest.precisions["int8"]
    assert (fp16.target, int8.target, int8.speed_measured) == ("cuda", "cpu", True)
    assert 0 < fp16.elbo_change < int8.elbo_change < int8.elbo_limit
    card = (all_precisions / "README.md").read_text()
    assert f"| `int8` | cpu | {int8.elbo_change:.3g} nats per image, at most {int8.elbo_limit:.3g} |" in card
    assert re.search(r"\| `fp16` \| cuda \|.*\| not measured \|", card)


@pytest.mark.skipif(cuda_device() is not None, reason="a GPU measures it")
def test_what_was_overruled_is_in_the_package(all_precisions: Path) -> None:
    said = ["fp16: its speed was not measured on what it is for, cuda"]
    assert open_package(all_precisions).manifest.parity["overruled"] == said
    assert json.loads((all_precisions / "parity.json").read_text())["overruled"] == said
    assert f"Published in spite of this:\n\n* {said[0]}\n" in (all_precisions / "README.md").read_text()


def test_what_is_overruled_is_printed(subjects: Mapping[str, Subject], capsys: pytest.CaptureFixture[str]) -> None:
    measured = precisions.measure("int8", subjects, MODEL, IMAGES)
    measured = dataclasses.replace(measured, objections=("int8: it is bad",))
    precisions.require_no_objections({"int8": measured}, force=True)
    assert capsys.readouterr().err == "export: overruled by --force: int8: it is bad\n"


def test_the_receipt_lies_beside_the_package_and_has_its_digest(all_precisions: Path) -> None:
    receipt = json.loads((all_precisions.parent / "1.receipt.json").read_text())
    assert receipt["package"] == open_package(all_precisions).digest
    assert receipt["precisions"]["int8"]["speedup"] > 0
    assert vaeport.load(all_precisions.parent).info().models[0].version == "1"  # it is no version


def test_the_same_run_gives_the_same_bytes_in_every_precision(
    all_precisions: Path, digits_run: Path, tmp_path: Path
) -> None:
    again = export_run(digits_run, tmp_path / "digits", formats=["onnx"], precisions=PRECISIONS, force=True)
    for entry in open_package(all_precisions).manifest.files:
        assert (again / entry.path).read_bytes() == (all_precisions / entry.path).read_bytes(), entry.path
    assert (again / "manifest.json").read_bytes() == (all_precisions / "manifest.json").read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_package_computes_in_the_precision_that_is_asked_for(all_precisions: Path, precision: str) -> None:
    images = np.random.default_rng(0).random((3, 8, 8), np.float32)
    exact = vaeport.load(all_precisions).encode(images).mean
    found = vaeport.load(all_precisions, precision=precision, self_test=True).encode(images).mean
    difference = np.abs(found - exact).max()
    assert difference < 0.05
    assert (difference == 0) == (precision == "fp32")


def test_a_precision_that_is_not_there_is_named(package: Path) -> None:
    with pytest.raises(InvalidInputError, match="precision: expected what digits version 1 has: fp32, got int8"):
        vaeport.load(package, precision="int8")


def test_every_graph_replays_its_golden_vectors(all_precisions: Path) -> None:
    opened = open_package(all_precisions)
    vaeport.golden.self_test(opened, load_graphs(opened, choose_device("cpu"), 1, list(opened.manifest.graphs)))


def test_a_graph_that_left_its_package_names_it(all_precisions: Path) -> None:
    for name, spec in open_package(all_precisions).manifest.graphs.items():
        said = {prop.key: prop.value for prop in onnx.load(all_precisions / spec.path).metadata_props}
        assert (said["vaeport.name"], said["vaeport.version"]) == ("digits", "1")
        assert said["vaeport.role"] == role_of(name)
        assert len(said["vaeport.checkpoint_sha256"]) == 64


def test_verify_repeats_the_proof_of_every_variant(all_precisions: Path) -> None:
    command = [sys.executable, "-m", "export", "verify", str(all_precisions)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in NAMES:
        assert re.search(rf"^P2 +{re.escape(name)}\.", printed, re.MULTILINE), name


def test_with_bytes_needs_nothing_of_the_logits(subjects: Mapping[str, Subject]) -> None:
    proto = with_bytes("decoder", subjects["decoder.fp16"].proto)
    assert [output.name for output in proto.graph.output] == ["image"]
    needed = {name for node in proto.graph.node for name in node.input} | {"image"}
    assert all(set(node.output) <= needed for node in proto.graph.node)


PROGRESS_AFTER_ADVICE = """
import logging, sys
from unittest import mock
import export.pipeline
from export.__main__ import main

def export_run(*arguments, **options):
    logging.warning("advice")  # which gives the root logger a handler, as the quantiser does
    assert logging.root.handlers
    logging.getLogger("export.ladder").info("proving encoder")

sys.argv = ["export", "run", "--to", "models/a"]
with mock.patch.object(export.pipeline, "export_run", export_run):
    sys.exit(main())
"""


def test_a_line_of_progress_comes_once_after_the_quantiser_s_advice() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRESS_AFTER_ADVICE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "proving encoder" in line] == ["export: proving encoder"]
