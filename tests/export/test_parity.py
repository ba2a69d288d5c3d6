"""The ladder can fail: graphs that are wrong in known ways are caught by their rung, and the text says where."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from export import parity
from export.end_metric import elbo, end_metric
from export.errors import ParityError
from export.graphs import graph_spec, roles, to_onnx
from export.ladder import BATCHES, SERVED, Subject, climb
from export.limits import FLOAT32, TF32, Rounding
from export.runtimes import Runtime, onnx_runtimes, pytorch
from training import VAE
from training.likelihood import Bernoulli, Gaussian
from training.networks import NETWORKS, NetworkSpec
from training.objective import kl_divergence
from vaeport.graphs import choose_device
from vaeport.manifest import ModelSpec
from vaeport.package import FP32

Break = Callable[[onnx.ModelProto], object]
Outputs = tuple[NDArray[np.float32], ...]
SHAPE = (1, 4, 4)
IMAGES = np.random.default_rng(1).random((5, *SHAPE), np.float32)
REAL = {"encoder": IMAGES, "decoder": np.random.default_rng(2).standard_normal((5, 8), np.float32)}


def subject_of(role: Any, proto: onnx.ModelProto) -> Subject:
    spec, data = graph_spec(f"{role.name}.onnx", proto), proto.SerializeToString()
    runtimes, not_run = onnx_runtimes(Path(spec.path), data, spec, FP32)
    return Subject(role.name, proto, spec, role.module, [pytorch(role.module), *runtimes], not_run)


def in_float32(subject: Subject) -> Subject:
    """Without the runtimes of a GPU that are coarser."""
    return replace(subject, runtimes=[runtime for runtime in subject.runtimes if runtime.float32 is FLOAT32])


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Any, onnx.ModelProto]]:
    torch.manual_seed(0)
    model = VAE(16, 8, 8).eval()  # layers of 8x8, so that a transposed weight still fits
    return {role.name: (role, to_onnx(role)) for role in roles(model, SHAPE)}


@pytest.fixture(scope="module")
def report(made: dict[str, tuple[Any, onnx.ModelProto]]) -> parity.Report:
    """Of both graphs as they are."""
    whole = parity.Report()
    for name, (role, proto) in made.items():
        whole.add(climb(subject_of(role, proto), REAL[name]))
    return whole


def edit_weight(proto: onnx.ModelProto, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Change the square weight of the middle layer."""
    initializer = next(i for i in proto.graph.initializer if list(i.dims) == [8, 8])
    array = change(numpy_helper.to_array(initializer))
    initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), initializer.name))


def swap_outputs(proto: onnx.ModelProto) -> None:
    """Each output carries the other one's values: rename them inside the graph, and not in its signature."""
    first, second = proto.graph.output[0].name, proto.graph.output[1].name
    other = {first: second, second: first}
    for node in proto.graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]
        node.output[:] = [other.get(name, name) for name in node.output]


def drop_an_activation(proto: onnx.ModelProto) -> None:
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name == relu.output[0]:
                node.input[i] = relu.input[0]
    proto.graph.node.remove(relu)


def freeze_the_batch(proto: onnx.ModelProto) -> None:
    """What an exporter does that traces sizes as numbers."""
    reshape = next(node for node in proto.graph.node if node.op_type == "Reshape")
    initializer = next(i for i in proto.graph.initializer if i.name == reshape.input[1])
    shape = numpy_helper.to_array(initializer).copy()
    shape[0] = 3
    initializer.CopyFrom(numpy_helper.from_array(shape, initializer.name))


def round_to_half(proto: onnx.ModelProto) -> None:
    """A detour of every linear layer's output through float16, which is what the graph says, too."""
    nodes = []
    for node in proto.graph.node:
        nodes.append(copy.deepcopy(node))
        if node.op_type == "Gemm":
            name = node.output[0]
            nodes[-1].output[0] = f"{name}_exact"
            nodes.append(onnx.helper.make_node("Cast", [f"{name}_exact"], [f"{name}_half"], to=TensorProto.FLOAT16))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    proto.graph.ClearField("node")
    proto.graph.node.extend(nodes)


def scale_and_scale_back(proto: onnx.ModelProto) -> None:
    """Weights times 2^20, and a Gemm that takes them times 2^-20: the same numbers, and wider limits."""
    gemm = next(node for node in proto.graph.node if node.op_type == "Gemm")
    initializer = next(i for i in proto.graph.initializer if i.name == gemm.input[1])
    array = numpy_helper.to_array(initializer) * np.float32(2**20)
    initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    for attribute in gemm.attribute:
        if attribute.name == "alpha":
            attribute.f = 2.0**-20


def tear_a_constant(proto: onnx.ModelProto) -> None:
    """One that nobody uses, of 10^12 numbers that are not there."""
    proto.graph.initializer.append(TensorProto(name="torn", data_type=TensorProto.FLOAT, dims=[10**6, 10**6]))


def leave_out_the_bias(proto: onnx.ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Gemm").input[2] = ""


BREAKS: dict[str, tuple[Break, str]] = {
    "a detour through float16": (round_to_half, "P0"),
    "a factor of a product": (scale_and_scale_back, "P0"),
    "a constant that is not there": (tear_a_constant, "P0"),
    "a bias left out by an empty name": (leave_out_the_bias, "P0"),
    "transposed weight": (lambda p: edit_weight(p, np.transpose), "P1"),
    "wrong constant": (lambda p: edit_weight(p, lambda a: a + np.float32(1e-6)), "P1"),
    "float16 weight": (lambda p: edit_weight(p, lambda a: a.astype(np.float16).astype(np.float32)), "P1"),
    "swapped outputs": (swap_outputs, "P1"),
    "dropped activation": (drop_an_activation, "P1"),
    "not a number": (lambda p: edit_weight(p, lambda a: np.full_like(a, np.nan)), "P1"),
    "frozen batch": (freeze_the_batch, "P0"),
    "an operator outside the list": (lambda p: setattr(p.graph.node[-1], "op_type", "Erf"), "P0"),
}


def test_a_right_graph_passes_every_rung(report: parity.Report) -> None:
    parity.require(report, "it should not")
    assert {fact.rung for fact in report.facts} == {"P0", "P5"}
    assert {check.rung for check in report.checks} == {"P1", "P2", "P3", "P4"}
    judged = [check for check in report.checks if check.rung in ("P2", "P3")]
    assert {check.batch for check in judged if check.runtime == "pytorch cpu"} == set(BATCHES)
    assert {check.batch for check in judged if check.runtime == "onnxruntime cpu"} == {*BATCHES, *SERVED}
    assert {check.input for check in judged} == {"real", "random", "corner", "extreme", "far", "worst"}
    assert {check.output for check in judged} == {"mean", "log_var", "image", "logits"}
    assert {"pytorch cpu", "onnxruntime cpu"} <= {check.runtime for check in judged}


def test_cuda_has_rows_or_a_row_that_says_why_not(report: parity.Report) -> None:
    rows = {check.runtime for check in report.checks} | {row.runtime for row in report.not_run}
    assert {"onnxruntime cuda", "onnxruntime cuda tf32"} <= rows


def test_on_a_gpu_float32_runs_in_tf32_as_well_and_other_precisions_do_not(
    made: dict[str, tuple[Any, onnx.ModelProto]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, proto = made["encoder"]
    spec, data = graph_spec("encoder.onnx", proto), proto.SerializeToString()
    monkeypatch.setattr("export.runtimes.cuda_device", lambda: choose_device("cpu"))  # what can be had everywhere

    def found(precision: str) -> list[tuple[str, Rounding]]:
        runtimes, not_run = onnx_runtimes(Path(spec.path), data, spec, precision)
        assert not_run == []
        return [(runtime.name, runtime.float32) for runtime in runtimes]

    cpu, cuda = ("onnxruntime cpu", FLOAT32), ("onnxruntime cuda", FLOAT32)
    assert found("fp32") == [cpu, cuda, ("onnxruntime cuda tf32", TF32)]
    assert found("fp16") == [cpu, cuda]
    assert found("int8") == [cpu]


@pytest.mark.parametrize("role_name", ["encoder", "decoder"])
@pytest.mark.parametrize("broken", BREAKS)
def test_a_wrong_graph_is_caught_by_its_rung(
    made: dict[str, tuple[Any, onnx.ModelProto]], role_name: str, broken: str
) -> None:
    role, right = made[role_name]
    wrong = onnx.ModelProto()
    wrong.CopyFrom(right)
    change, rung = BREAKS[broken]
    if (broken, role_name) == ("swapped outputs", "decoder"):
        rung = "P0"  # known before it computes: no Clip gives the image
    subject = subject_of(role, right)
    change(wrong)
    found = climb(Subject(role_name, wrong, subject.spec, role.module, subject.runtimes), REAL[role_name])
    assert rung in {row.rung for row in found.failed}
    with pytest.raises(ParityError, match=rf"{rung}: {role_name}.* expected .* got "):
        parity.require(found, "as it should")


def cut_off_latents(proto: onnx.ModelProto, at: float) -> None:
    """Right for every latent whose values are between -at and at."""
    bounds = {"low": np.float32(-at), "high": np.float32(at)}
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in bounds.items())
    for node in proto.graph.node:
        node.input[:] = ["cut" if name == "latent" else name for name in node.input]
    proto.graph.node.insert(0, onnx.helper.make_node("Clip", ["latent", *bounds], ["cut"]))


@pytest.mark.parametrize("at", [10.5, 50.0, 500.0])
def test_a_decoder_that_is_wrong_for_far_latents_alone_is_caught(
    made: dict[str, tuple[Any, onnx.ModelProto]], at: float
) -> None:
    role, right = made["decoder"]
    wrong = onnx.ModelProto()
    wrong.CopyFrom(right)
    subject = subject_of(role, right)
    cut_off_latents(wrong, at)
    found = climb(subject_of(role, wrong), REAL["decoder"])
    assert {(row.rung, row.input) for row in found.failed if isinstance(row, parity.Check)} >= {("P1", "far")}
    assert subject.spec == graph_spec("decoder.onnx", wrong)


def half(run: Callable[[NDArray[np.float32]], Outputs]) -> Callable[[NDArray[np.float32]], Outputs]:
    """A runtime whose outputs have the precision of float16."""
    return lambda rows: tuple(output.astype(np.float16).astype(np.float32) for output in run(rows))


def tf32(run: Callable[[NDArray[np.float32]], Outputs]) -> Callable[[NDArray[np.float32]], Outputs]:
    """A runtime that gives its matrix products ten bits, as CUDA does with TF32; here, of the input alone."""

    def short(rows: NDArray[np.float32]) -> Outputs:
        mantissa, exponent = np.frexp(rows)
        return run(np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent).astype(np.float32))

    return short


class Coarse(TorchFunctionMode):
    """PyTorch whose products lose all but `bits` of both factors, as tensor cores do it."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (functional.linear, functional.conv2d, functional.conv_transpose2d):
            # the bias as well: ONNX Runtime may make a product with ones of it
            args = (*(None if arg is None else self.cut(arg) for arg in args[:3]), *args[3:])
        return func(*args, **(kwargs or {}))

    def cut(self, factor: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(factor)
        return torch.ldexp(torch.trunc(mantissa * 2 ** (self.bits + 1)) / 2 ** (self.bits + 1), exponent)


def coarse(name: str, module: torch.nn.Module, bits: int, float32: Rounding) -> Runtime:
    def run(rows: NDArray[np.float32]) -> Outputs:
        with torch.inference_mode(), Coarse(bits):
            return tuple(output.numpy() for output in module(torch.from_numpy(rows)))

    return Runtime(name, run, float32=float32)


def leak(run: Callable[[NDArray[np.float32]], Outputs]) -> Callable[[NDArray[np.float32]], Outputs]:
    """A runtime in which rows of a large batch see each other."""

    def leaky(rows: NDArray[np.float32]) -> Outputs:
        outputs = run(rows)
        return tuple(o + np.float32(1e-3) * o.mean(0) for o in outputs) if len(rows) > 1 else outputs

    return leaky


def larger(run: Callable[[NDArray[np.float32]], Outputs]) -> Callable[[NDArray[np.float32]], Outputs]:
    """A runtime whose outputs are too large by a thousandth."""
    return lambda rows: tuple(np.float32(1.001) * output for output in run(rows))


def fail_above(run: Callable[[NDArray[np.float32]], Outputs]) -> Callable[[NDArray[np.float32]], Outputs]:
    def failing(rows: NDArray[np.float32]) -> Outputs:
        if len(rows) > 100:
            raise RuntimeError("too many rows")
        return run(rows)

    return failing


@pytest.mark.parametrize(("wrong", "rung"), [(half, "P2"), (tf32, "P2"), (leak, "P4"), (fail_above, "P2")])
def test_a_wrong_runtime_is_caught_by_its_rung(
    made: dict[str, tuple[Any, onnx.ModelProto]], wrong: Callable[[Any], Any], rung: str
) -> None:
    role, proto = made["encoder"]
    subject = subject_of(role, proto)
    bad = Runtime("wrong", wrong(pytorch(role.module).run))
    found = climb(Subject("encoder", proto, subject.spec, role.module, [*subject.runtimes, bad]), REAL["encoder"])
    assert rung in {row.rung for row in found.failed}
    assert {row.runtime for row in found.failed} == {"wrong"}


@pytest.mark.parametrize(("family", "hidden_dims"), [("mlp", (8, 8)), ("conv", (3, 4)), ("linear", ())])
def test_tf32_has_limits_of_its_own_from_the_first_layer_to_the_elbo(family: str, hidden_dims: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    shape = (1, 4, 4)
    networks = NETWORKS[family](NetworkSpec(shape, 8, hidden_dims, "relu"))
    images = np.random.default_rng(1).random((5, *shape), np.float32)
    found = parity.Report()

    def subject(role: Any) -> Subject:
        imitated = [
            coarse("tf32", role.module, 10, TF32),
            coarse("tf32 as float32", role.module, 10, FLOAT32),
            coarse("less than tf32", role.module, 5, TF32),
        ]
        right = in_float32(subject_of(role, to_onnx(role)))
        made = replace(right, runtimes=[*right.runtimes, *imitated])
        found.add(climb(made, images if role.name == "encoder" else REAL["decoder"]))
        return made

    encoder, decoder = (subject(role) for role in roles(VAE(16, latent_dim=8, networks=networks).eval(), shape))
    found.add(end_metric(encoder, decoder, replace(SPECS["bernoulli"], image_shape=shape), images))
    assert {check.rung for check in found.checks if check.runtime == "tf32"} == {"P2", "P3", "P4", "P6"}
    assert {row.runtime for row in found.failed} == {"tf32 as float32", "less than tf32"}
    for wrong in ("tf32 as float32", "less than tf32"):
        assert {"P2", "P3"} <= {row.rung for row in found.failed if row.runtime == wrong}


def test_a_node_on_another_provider_is_caught(made: dict[str, tuple[Any, onnx.ModelProto]]) -> None:
    role, proto = made["encoder"]
    subject = subject_of(role, proto)
    run = next(runtime.run for runtime in subject.runtimes if runtime.placement)
    for nodes in ({"CUDAExecutionProvider": 6, "CPUExecutionProvider": 1}, {}):
        moved = Runtime("onnxruntime cpu", run, ("CUDAExecutionProvider", nodes))
        found = climb(Subject("encoder", proto, subject.spec, role.module, [moved]), REAL["encoder"])
        assert [row.rung for row in found.failed] == ["P5"]


def test_a_module_that_is_off_by_a_millionth_is_caught(
    made: dict[str, tuple[Any, onnx.ModelProto]],
) -> None:
    """The other truth can be the wrong one."""
    role, proto = made["decoder"]
    subject = subject_of(role, proto)
    module = copy.deepcopy(role.module)
    with torch.no_grad():
        next(p for name, p in module.named_parameters() if name.endswith("bias"))[0] += 1e-6
    found = climb(Subject("decoder", proto, subject.spec, module, subject.runtimes), REAL["decoder"])
    assert "P1" in {row.rung for row in found.failed}


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian])
def test_an_image_that_is_not_clipped_is_caught(likelihood: Callable[[], Bernoulli | Gaussian]) -> None:
    """ONNX Runtime's Sigmoid goes beyond 1 by one digit, which is far within its limit."""
    torch.manual_seed(0)
    role = roles(VAE(16, 8, 8, likelihood=likelihood()).eval(), SHAPE)[1]
    right, wrong = to_onnx(role), to_onnx(role)
    clip = next(node for node in wrong.graph.node if node.op_type == "Clip")
    before = next(node for node in wrong.graph.node if clip.input[0] in node.output)
    if before.op_type == "Sigmoid":
        before.output[0] = clip.output[0]
        wrong.graph.node.remove(clip)
    else:  # of a Gaussian, the mean
        clip.op_type = "Identity"
        del clip.input[1:]
    assert climb(subject_of(role, right), None).failed == []
    found = climb(replace(subject_of(role, wrong), module=None), None)
    assert [row.what for row in found.failed if isinstance(row, parity.Fact)] == ["where the image comes from"]


SPECS = {
    "bernoulli": ModelSpec("mlp", SHAPE, 8, "bernoulli", None),
    "gaussian": ModelSpec("mlp", SHAPE, 8, "gaussian", 0.3),
}


@pytest.mark.parametrize("likelihood", SPECS)
def test_the_elbo_is_that_of_training(likelihood: str) -> None:
    random = np.random.default_rng(0)
    x, parameters = random.random((4, 16)), 3 * random.standard_normal((4, 16))
    mean, log_var = random.standard_normal((2, 4, 8))
    judge = (Bernoulli() if likelihood == "bernoulli" else Gaussian("fixed", 0.3)).double()
    tensors = [torch.from_numpy(array) for array in (x, parameters, mean, log_var)]
    expected = -judge.negative_log_likelihood(tensors[0], tensors[1]) - kl_divergence(tensors[2], tensors[3])
    # sigma is a float32 tensor in training
    np.testing.assert_allclose(elbo(SPECS[likelihood], x, mean, log_var, parameters), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("likelihood", SPECS)
def test_the_elbo_agrees_in_every_runtime_and_a_decoder_that_is_off_is_caught(likelihood: str) -> None:
    torch.manual_seed(0)
    kind = Bernoulli() if likelihood == "bernoulli" else Gaussian("fixed", 0.3)
    model = VAE(16, 8, 8, likelihood=kind).eval()
    encoder, decoder = (in_float32(subject_of(role, to_onnx(role))) for role in roles(model, SHAPE))
    right = end_metric(encoder, decoder, SPECS[likelihood], IMAGES)
    assert {check.rung for check in right.checks} == {"P6"}
    assert right.failed == []
    off = [Runtime(runtime.name, larger(runtime.run)) for runtime in decoder.runtimes]
    wrong = Subject("decoder", decoder.proto, decoder.spec, decoder.module, off)
    found = end_metric(encoder, wrong, SPECS[likelihood], IMAGES)
    assert [check.passed for check in found.checks] == [False] * len(off)


def test_the_rows_are_json_and_the_summary_names_the_worst(report: parity.Report) -> None:
    value = json.loads(json.dumps(parity.to_json(report), allow_nan=False))
    assert len(value["checks"]) == len(report.checks)
    assert all(row["passed"] for row in (*value["checks"], *value["facts"]))
    shares = [row["error"] / row["limit"] for row in value["checks"] if row["rung"] != "P1" and row["limit"]]
    assert parity.summary(report)["worst_share_of_limit"] == max(shares)


def test_the_table_has_a_line_per_rung_output_and_runtime_and_names_what_failed(report: parity.Report) -> None:
    text = parity.table(report)
    assert "FAIL" not in text
    assert len([line for line in text.splitlines() if line.startswith("P2  ")]) == len(
        {(check.output, check.runtime) for check in report.checks if check.rung == "P2"}
    )
    where = {"rung": "P2", "graph": "encoder", "runtime": "x", "input": "real", "batch": 1}
    wrong = parity.compare(where, ["mean"], [np.full((1, 2), np.nan)], [np.zeros((1, 2))], [np.ones((1, 2))])
    assert "FAIL P2: encoder.mean, x, real input, batch 1, index [0, 0]: expected 0.0, got nan" in parity.table(wrong)


def test_a_wrong_shape_is_a_row_and_no_crash() -> None:
    where = {"rung": "P2", "graph": "encoder", "runtime": "x", "input": "real", "batch": 1}
    found = parity.compare(where, ["mean"], [np.zeros((1, 3))], [np.zeros((1, 2))], [np.ones((1, 2))])
    assert str(found.failed[0]).endswith("shape of mean, real input, batch 1: expected (1, 2), got (1, 3)")
