"""The rules of a graph, each broken by hand, and the device that is never silently another."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import vaeport
from tests.support import ROOT
from tests.vaeport import mutations
from vaeport.errors import DeviceError
from vaeport.graph_rules import GRAPH_MAX_BYTES, check_graph
from vaeport.graphs import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    CudaOptions,
    Device,
    Graph,
    choose_device,
    cuda_provider_options,
    graph_run_options,
    load_graph,
    load_graphs,
)
from vaeport.manifest import GraphSpec
from vaeport.package import DigestMismatchError, GraphRuleError, open_package, sha256_of

Break = Callable[[onnx.ModelProto], object]


@pytest.fixture
def decoder(package: Path) -> tuple[onnx.ModelProto, GraphSpec]:
    return onnx.load(package / "decoder.onnx"), open_package(package).manifest.graphs["decoder"]


def plain_graph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    output = onnx.helper.make_tensor_value_info("noise", onnx.TensorProto.FLOAT, [1])
    return onnx.helper.make_graph(list(nodes), "inner", [], [output])


RANDOM_NODE = onnx.helper.make_node("RandomNormal", [], ["noise"], shape=[1])


def hide_in_a_branch(proto: onnx.ModelProto) -> None:
    branch = plain_graph(RANDOM_NODE)
    proto.graph.node.append(onnx.helper.make_node("If", ["c"], ["n"], then_branch=branch, else_branch=branch))


def hide_in_a_function(proto: onnx.ModelProto) -> None:
    opset = onnx.helper.make_opsetid("", 20)
    proto.functions.append(onnx.helper.make_function("own", "f", [], ["noise"], [RANDOM_NODE], [opset]))


def hide_in_training(proto: onnx.ModelProto) -> None:
    branch = plain_graph(RANDOM_NODE)
    node = onnx.helper.make_node("If", ["c"], ["n"], then_branch=branch, else_branch=branch)
    proto.training_info.add().algorithm.node.append(node)


def expand_the_latent(proto: onnx.ModelProto, shape: list[int] | None) -> None:
    """To a large shape, when it runs; or to one that only the run could tell."""
    if shape is None:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "flat"))
        proto.graph.node.append(onnx.helper.make_node("Reshape", ["latent", "flat"], ["numbers"]))
        proto.graph.node.append(onnx.helper.make_node("Cast", ["numbers"], ["shape"], to=onnx.TensorProto.INT64))
    else:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), "shape"))
        last = onnx.numpy_helper.from_array(np.array([-1, 1, 1]), "column")
        proto.graph.initializer.append(last)
        proto.graph.node.append(onnx.helper.make_node("Reshape", ["latent", "column"], ["narrow"]))
    proto.graph.node.append(onnx.helper.make_node("Expand", ["narrow" if shape else "latent", "shape"], ["large"]))


def grow_with_the_square_of_the_batch(proto: onnx.ModelProto) -> None:
    """What is small for one row, and not for many: a shape of batch x batch x 32 x batch x 5."""
    for name, shape in (
        ("a", [-1, 1, 1, 1, 5]),
        ("b", [1, -1, 1, 1, 5]),
        ("c", [1, 1, 1, -1, 5]),
        ("d", [1, 1, 32, 1, 1]),
    ):
        tensor = np.array(shape) if name != "d" else np.ones(shape, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(tensor, f"to_{name}"))
        if name != "d":
            proto.graph.node.append(onnx.helper.make_node("Reshape", ["latent", f"to_{name}"], [name]))
    for left, right, sum_ in (("a", "b", "ab"), ("ab", "c", "abc"), ("abc", "to_d", "abcd")):
        proto.graph.node.append(onnx.helper.make_node("Add", [left, right], [sum_]))


def expand_constants(proto: onnx.ModelProto) -> None:
    """Many, each of which is small enough; what depends on the latent is small, too."""
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1 << 22]), "wide"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 1), np.float32), "one"))
    for index in range(200):
        proto.graph.node.append(onnx.helper.make_node("Expand", ["one", "wide"], [f"constant{index}"]))


def repeat_large_values(proto: onnx.ModelProto) -> None:
    """Of one row, each as large as one may be."""
    expand_the_latent(proto, [1, 1, 1 << 22])
    for index in range(200):
        proto.graph.node.append(onnx.helper.make_node("Relu", ["large"], [f"large{index}"]))


def convolve_with_a_large_kernel(proto: onnx.ModelProto) -> None:
    """Most of what comes out is cut off at once, so no value is large."""
    size = 1 << 15
    for name, shape in (("column", [-1, 1, 1, 1]), ("tall", [1, 1, size, 1])):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), name))
    kernel = onnx.numpy_helper.from_array(np.ones((1, 1, size, 1), np.float32), "kernel")
    proto.graph.initializer.append(kernel)
    proto.graph.node.append(onnx.helper.make_node("Reshape", ["latent", "column"], ["narrow"]))
    proto.graph.node.append(onnx.helper.make_node("Expand", ["narrow", "tall"], ["image1"]))
    pads = [size - 1, 0, size - 1, 0]
    proto.graph.node.append(onnx.helper.make_node("ConvTranspose", ["image1", "kernel"], ["sum"], pads=pads))


def cast_to(proto: onnx.ModelProto, dtype: int) -> None:
    proto.graph.node.append(onnx.helper.make_node("Cast", ["latent"], ["text"], to=dtype))


def add_a_foreign_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(onnx.helper.make_node("Gelu", ["latent"], ["y"], domain="com.microsoft"))


def point_outside_in_a_constant(proto: onnx.ModelProto) -> None:
    tensor = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], [0.0])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    proto.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=tensor))


def invent_a_dtype(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.elem_type = 99


def add_random_node(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(onnx.helper.make_node("RandomNormal", [], ["noise"], shape=[1]))


def point_outside(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def fix_the_batch(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def make_double(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


BREAKS: list[tuple[Break, str]] = [
    (lambda p: setattr(p.opset_import[0], "version", 28), "opset: expected 20, within .*, got 28"),
    (lambda p: setattr(p.opset_import[0], "version", 19), "opset: expected 20, within .*, got 19"),
    (lambda p: setattr(p, "ir_version", 14), "IR version: expected 10, at most 13, got 14"),
    (point_outside, "external data"),
    (add_random_node, "random operators are not allowed, got RandomNormal"),
    (lambda p: setattr(p.graph.input[0], "name", "z"), r"inputs: expected latent float32 .*, got z float32"),
    (fix_the_batch, r"inputs: expected latent float32 \['batch', 5\], got latent float32 \[3, 5\]"),
    (make_double, "outputs: expected image float32 .*, got image float64"),
    (invent_a_dtype, "outputs: expected image float32 .*, got image dtype 99"),
    (lambda p: p.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 7)), r"opset imports: .*, 20\), .*, 7\)"),
    (lambda p: p.opset_import.append(onnx.helper.make_opsetid("evil", 1)), r"expected one, of ai.onnx, got .*'evil'"),
    (lambda p: p.ClearField("opset_import"), r"opset imports: expected one, of ai.onnx, got \[\]"),
    (hide_in_a_branch, "attribute fields outside the allow-list, got g"),
    (hide_in_a_function, "model fields outside the allow-list, got functions"),
    (hide_in_training, "model fields outside the allow-list, got training_info"),
    (lambda p: p.configuration.add(name="c"), "model fields outside the allow-list, got configuration"),
    (lambda p: p.graph.sparse_initializer.add(), "graph fields outside the allow-list, got sparse_initializer"),
    (
        lambda p: p.graph.quantization_annotation.add(tensor_name="t"),
        "graph fields outside the allow-list, got quantization_annotation",
    ),
    (lambda p: setattr(p.graph.node[0], "overload", "o"), "node fields outside the allow-list, got overload"),
    (lambda p: p.MergeFromString(b"\x9a\x3f\x00"), "fields that the installed version of onnx does not know"),
    (lambda p: expand_the_latent(p, [1, 30_000, 30_000]), "expected at most 33554432 elements for each row, got shape"),
    (lambda p: expand_the_latent(p, None), "its shape is not known before it is computed"),
    (grow_with_the_square_of_the_batch, r"got shape \[1024, 1024, 32, 1024, 5\] for 1024"),
    (expand_constants, "at most 536870912 bytes in all values that depend on no input, got 33554"),
    (repeat_large_values, "at most 4294967296 bytes in all values of a row, got 168"),
    (
        convolve_with_a_large_kernel,
        "sum: expected at most 1073741824 bytes between its image and its sum, got 4294967296",
    ),
    (lambda p: cast_to(p, onnx.TensorProto.STRING), "text: expected numbers, got strings"),
    (lambda p: cast_to(p, onnx.TensorProto.UNDEFINED), "shapes cannot be inferred"),
    (lambda p: cast_to(p, 99), "shapes cannot be inferred"),
    (add_a_foreign_operator, "operators of other domains are not allowed, got com.microsoft"),
    (point_outside_in_a_constant, "external data"),
    (lambda p: setattr(p.graph.node[0], "op_type", "Erf"), "operators outside the allow-list, got Erf"),
    (lambda p: p.graph.output.reverse(), "outputs: expected image"),
]


@pytest.mark.parametrize(("broken", "message"), BREAKS)
def test_a_graph_that_breaks_a_rule_is_refused(
    decoder: tuple[onnx.ModelProto, GraphSpec], broken: Break, message: str
) -> None:
    proto, spec = decoder
    check_graph(Path("decoder.onnx"), proto.SerializeToString(), spec)
    broken(proto)
    data = proto.SerializeToString()
    with pytest.raises(GraphRuleError, match=message):
        check_graph(Path("decoder.onnx"), data, spec)


def test_a_graph_over_its_cap_is_not_read(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "package"))
    with (copy / "encoder.onnx").open("r+b") as file:
        file.truncate(GRAPH_MAX_BYTES + 1)  # no block of it is on the disk
    mutations.relist(copy, "encoder.onnx", GRAPH_MAX_BYTES + 1, sha256_of(copy / "encoder.onnx"))
    opened = open_package(copy)
    (copy / "encoder.onnx").unlink()
    with pytest.raises(GraphRuleError, match=f"expected a graph of at most {2**29} bytes, got {2**29 + 1}"):
        load_graphs(opened, choose_device("cpu"), 1)


def test_a_file_that_is_no_graph_is_refused(decoder: tuple[onnx.ModelProto, GraphSpec]) -> None:
    with pytest.raises(GraphRuleError, match="not an ONNX graph"):
        load_graph(Path("decoder.onnx"), b"\xff" * 100, decoder[1], choose_device("cpu"), 1)


def test_a_graph_that_onnx_runtime_refuses_is_the_graph_s_fault(decoder: tuple[onnx.ModelProto, GraphSpec]) -> None:
    proto, spec = decoder
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 2)
    weight.raw_data = weight.raw_data[:-1]
    with pytest.raises(GraphRuleError, match="cannot run this graph"):
        load_graph(Path("decoder.onnx"), proto.SerializeToString(), spec, choose_device("cpu"), 1)


def test_a_graph_that_changed_after_the_check_is_not_run(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "package"))
    opened = open_package(copy)
    shutil.copyfile(copy / "decoder.onnx", copy / "encoder.onnx")
    with pytest.raises(DigestMismatchError, match=r"encoder\.onnx"):
        load_graphs(opened, choose_device("cpu"), 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_in_a_batch_equals_the_row_alone_bit_by_bit(package: Path, threads: int) -> None:
    graphs = load_graphs(open_package(package), choose_device("cpu"), threads)
    random = np.random.default_rng(0)
    for role, shape in (("encoder", (1, 8, 8)), ("decoder", (5,))):
        graph = graphs[role]
        rows = random.random((300, *shape), np.float32)
        whole = graph(rows)
        for batch in (1, 2, 3, 7, 64, 257):
            parts = [graph(rows[start : start + batch]) for start in range(0, 300, batch)]
            for output, pieces in zip(whole, zip(*parts, strict=True), strict=True):
                assert np.array_equal(output, np.concatenate(pieces))


def test_a_run_has_no_more_rows_than_its_values_have_room_for(decoder: tuple[onnx.ModelProto, GraphSpec]) -> None:
    proto, spec = decoder
    assert check_graph(Path("decoder.onnx"), proto.SerializeToString(), spec) == 1024
    expand_the_latent(proto, [1, 1, 1 << 20])  # 20 MiB
    for index in range(49):
        proto.graph.node.append(onnx.helper.make_node("Relu", ["large"], [f"large{index}"]))
    assert check_graph(Path("decoder.onnx"), proto.SerializeToString(), spec) == 4


def test_rows_beyond_those_of_a_run_are_computed_in_further_runs(package: Path) -> None:
    graph = load_graphs(open_package(package), choose_device("cpu"), 1)["encoder"]
    in_parts = Graph(graph.session, graph.spec, max_rows=4)
    for rows in (1, 4, 5, 8, 11):
        images = np.random.default_rng(rows).random((rows, 1, 8, 8), np.float32)
        for whole, parts in zip(graph(images), in_parts(images), strict=True):
            assert np.array_equal(whole, parts)


def test_the_device_that_was_asked_for_says_so() -> None:
    assert choose_device("cpu").provider == CPU_PROVIDER


def test_auto_says_why() -> None:
    assert choose_device("auto").reason


@pytest.mark.skipif(choose_device("auto").provider != CPU_PROVIDER, reason="CUDA can compute here")
def test_cuda_that_cannot_compute_is_an_error_that_names_what_is_missing() -> None:
    with pytest.raises(DeviceError, match=r"device cuda cannot compute here: .*(libcuda|GPU|built without)"):
        choose_device("cuda")


@pytest.mark.parametrize("missing", ["onnxruntime", "onnx"])
def test_without_the_extras_the_error_says_what_to_install(
    missing: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DeviceError, match=rf"{missing} is missing: pip install 'vaeport\[cpu\]'"):
        vaeport.load(package)


@pytest.mark.parametrize("name", ["gpu", "CUDA", ""])
def test_an_unknown_device_is_never_taken_for_another(name: Any) -> None:
    with pytest.raises(DeviceError, match="device: expected one of auto, cpu, cuda"):
        choose_device(name)


def test_cuda_is_told_to_keep_float32_not_to_hoard_and_not_to_try_out_kernels() -> None:
    assert cuda_provider_options(CudaOptions()) == {
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "0",
    }


def test_cuda_is_told_what_was_asked_for() -> None:
    options = cuda_provider_options(CudaOptions(tf32=True, memory_limit=2**30, graphs=True))
    assert (options["use_tf32"], options["gpu_mem_limit"], options["enable_cuda_graph"]) == ("1", str(2**30), "1")


def test_each_batch_size_has_a_cuda_graph_of_its_own_where_they_are_asked_for() -> None:
    graphs = CudaOptions(graphs=True)
    run = graph_run_options(Device(CUDA_PROVIDER, "a test", graphs), 64)
    assert run.get_run_config_entry("gpu_graph_id") == "64"
    assert graph_run_options(Device(CUDA_PROVIDER, "a test"), 64) is None
    assert graph_run_options(Device(CPU_PROVIDER, "a test", graphs), 64) is None


def test_onnx_runtime_keeps_no_events_to_send(package: Path, tmp_path: Path) -> None:
    """What its telemetry would send, it first writes into a data base in the user's cache."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = f"import vaeport; vaeport.load({str(package)!r}).sample(1, seed=7)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
