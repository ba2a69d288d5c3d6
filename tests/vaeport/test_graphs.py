"""The rules of a graph, each broken by hand, and the device that is never silently another."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from vaeport.errors import DeviceError
from vaeport.graphs import CPU_PROVIDER, check_graph, choose_device, load_graph, usable_cores
from vaeport.manifest import GraphSpec
from vaeport.package import GraphRuleError, open_package

Break = Callable[[onnx.ModelProto], object]


@pytest.fixture
def decoder(package: Path) -> tuple[onnx.ModelProto, GraphSpec]:
    return onnx.load(package / "decoder.onnx"), open_package(package).manifest.graphs["decoder"]


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
    (lambda p: p.graph.output.reverse(), "outputs: expected image"),
]


@pytest.mark.parametrize(("broken", "message"), BREAKS)
def test_a_graph_that_breaks_a_rule_is_refused(
    decoder: tuple[onnx.ModelProto, GraphSpec], broken: Break, message: str
) -> None:
    proto, spec = decoder
    check_graph(Path("decoder.onnx"), proto, spec)
    broken(proto)
    with pytest.raises(GraphRuleError, match=message):
        check_graph(Path("decoder.onnx"), proto, spec)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, decoder: tuple[onnx.ModelProto, GraphSpec]) -> None:
    (tmp_path / "decoder.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(GraphRuleError, match="not an ONNX graph"):
        load_graph(tmp_path, decoder[1], choose_device("cpu"), 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_in_a_batch_equals_the_row_alone_bit_by_bit(package: Path, threads: int) -> None:
    opened = open_package(package)
    random = np.random.default_rng(0)
    for role, shape in (("encoder", (1, 8, 8)), ("decoder", (5,))):
        graph = load_graph(package, opened.manifest.graphs[role], choose_device("cpu"), threads)
        rows = random.random((300, *shape), np.float32)
        whole = graph(rows)
        for batch in (1, 2, 3, 7, 64, 257):
            parts = [graph(rows[start : start + batch]) for start in range(0, 300, batch)]
            for output, pieces in zip(whole, zip(*parts, strict=True), strict=True):
                assert np.array_equal(output, np.concatenate(pieces))


def test_the_device_that_was_asked_for_says_so() -> None:
    assert choose_device("cpu").provider == CPU_PROVIDER


def test_auto_says_why() -> None:
    assert choose_device("auto").reason


@pytest.mark.skipif(choose_device("auto").provider != CPU_PROVIDER, reason="CUDA can compute here")
def test_cuda_that_cannot_compute_is_an_error_that_names_what_is_missing() -> None:
    with pytest.raises(DeviceError, match=r"device cuda cannot compute here: .*(libcuda|GPU|built without)"):
        choose_device("cuda")


def test_without_onnx_runtime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match=r"pip install 'vaeport\[cpu\]'"):
        choose_device("auto")


def test_usable_cores_are_those_of_the_affinity() -> None:
    import os

    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
