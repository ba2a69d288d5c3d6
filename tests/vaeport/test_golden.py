"""The self-test: a right machine passes, a wrong one and a damaged file have an error of their own."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as reference_load
from safetensors.numpy import save

import vaeport
from serving.models import load_models
from serving.repository import default_packages
from vaeport.errors import SelfTestError
from vaeport.golden import GOLDEN_NAME, compare, parse_safetensors, read_golden, self_test
from vaeport.graphs import Graph, choose_device, load_graphs
from vaeport.package import ROLES, GoldenInvalidError, open_package

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    """A package to change."""
    return Path(shutil.copytree(package, tmp_path / "models" / "digits" / "1"))


def replace(folder: Path, content: bytes | None) -> None:
    """Other golden vectors, or none, in a package whose digests are right."""
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(e for e in manifest["files"] if e["path"] == GOLDEN_NAME)
    if content is None:
        manifest["files"].remove(entry)
        (folder / GOLDEN_NAME).unlink()
    else:
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        (folder / GOLDEN_NAME).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(folder: Path, change: Change) -> None:
    tensors = {name: np.array(t) for name, t in reference_load((folder / GOLDEN_NAME).read_bytes()).items()}
    change(tensors)
    replace(folder, save(tensors))


def test_this_machine_computes_what_was_proven(package: Path) -> None:
    assert vaeport.load(package, self_test=True).latent_dim == 5


def test_our_reader_reads_what_safetensors_reads(package: Path) -> None:
    data = (package / GOLDEN_NAME).read_bytes()
    expected, found = reference_load(data), parse_safetensors(data)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert {tensor.dtype.name for tensor in found.values()} == {"float32", "float64", "uint8"}


def test_the_vectors_are_synthetic_and_reach_the_corners(package: Path) -> None:
    golden = read_golden(open_package(package))
    assert golden["encoder"].rows.shape == (8, 1, 8, 8)
    assert {0.0, 1.0} <= {float(row.min()) for row in golden["encoder"].rows}
    assert np.abs(golden["decoder"].rows).max() == 10.0
    assert all((limit > 0).all() for role in ROLES for limit in golden[role].limits.values())
    assert set(np.unique(golden["decoder.uint8"].limits["image"])) <= {0.0, 1.0}  # equal, or off by one at an edge


@pytest.mark.parametrize("output", ["encoder/mean", "encoder/log_var", "decoder/image", "decoder/logits"])
def test_an_output_that_is_off_is_named_with_both_values_and_the_limit(copy: Path, output: str) -> None:
    def shift(tensors: dict[str, Any]) -> None:
        tensors[f"{output}/truth"][3] += 2 * tensors[f"{output}/limit"][3] + 1e-6

    edit(copy, shift)
    where = rf"{output.replace('/', '.')}, index \[3, .*expected .*, got .*, error .*, limit "
    with pytest.raises(vaeport.SelfTestError, match=where):
        vaeport.load(copy, self_test=True)
    assert vaeport.load(copy).latent_dim == 5  # not unless asked for


@pytest.mark.parametrize("wrong", [lambda o: o * np.nan, lambda o: o.astype(np.float16).astype(np.float32)])
def test_a_machine_that_computes_something_else_is_found(package: Path, wrong: Callable[[Any], Any]) -> None:
    opened = open_package(package)
    graphs = load_graphs(opened, choose_device("cpu"), 1)

    class Off(Graph):
        def __init__(self, graph: Graph) -> None:
            self._graph, self.outputs = graph, graph.outputs

        def __call__(self, rows: Any) -> Any:
            return tuple(wrong(output) for output in self._graph(rows))

    self_test(opened, graphs)
    with pytest.raises(vaeport.SelfTestError, match="decoder"):
        self_test(opened, {**graphs, "decoder": Off(graphs["decoder"])})


def test_a_batch_size_that_alone_computes_something_else_is_found(package: Path) -> None:
    opened = open_package(package)
    graphs = load_graphs(opened, choose_device("cpu"), 1)
    encoder, sizes = graphs["encoder"], []

    class Sick:
        outputs = encoder.outputs

        def __call__(self, rows: Any) -> tuple[Any, ...]:
            sizes.append(len(rows))
            mean, log_var = encoder(rows)
            mean[-1] += len(rows) == 20
            return mean, log_var

    self_test(opened, {"encoder": Sick()}, batches=(2, 5, 19))
    assert sorted(sizes) == [*[1] * 8, 2, 5, 8, 19]
    with pytest.raises(SelfTestError, match=r"encoder\.mean, batch of 20, index \[19, "):
        self_test(opened, {"encoder": Sick()}, batches=(2, 20))


def test_a_graph_that_gives_one_row_for_many_is_found() -> None:
    """Though the row is every row's truth, as of a constant."""
    truth = np.zeros((8, 5))
    compare("mean", np.zeros((8, 5)), truth, truth)
    with pytest.raises(SelfTestError, match=r"mean: expected shape \[8, 5\], got \[1, 5\]"):
        compare("mean", np.zeros((1, 5)), truth, truth)


def test_slack_multiplies_the_limits_and_no_more(copy: Path) -> None:
    def shift(tensors: dict[str, Any]) -> None:
        tensors["encoder/mean/truth"] += 50 * tensors["encoder/mean/limit"]

    edit(copy, shift)
    opened = open_package(copy)
    graphs = load_graphs(opened, choose_device("cpu"), 1)
    self_test(opened, graphs, slack=100)
    with pytest.raises(vaeport.SelfTestError, match=r"encoder\.mean"):
        self_test(opened, graphs, slack=40)


def test_a_server_refuses_a_model_that_computes_something_else_here(copy: Path) -> None:
    edit(copy, lambda tensors: tensors["decoder/image/truth"].__iadd__(0.1))
    with pytest.raises(vaeport.SelfTestError, match=r"digits/1: decoder\.image"):
        load_models(default_packages(copy.parents[1]), choose_device("cpu"), 1)


def test_without_golden_vectors_only_a_self_test_fails(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    replace(copy, None)
    with pytest.raises(vaeport.SelfTestError, match=r"holds no golden\.safetensors"):
        vaeport.load(copy, self_test=True)
    assert len(load_models(default_packages(copy.parents[1]), choose_device("cpu"), 1)) == 1
    assert "no golden vectors" in caplog.text


BAD: list[tuple[Change, str]] = [
    (lambda t: t.pop("decoder/image/limit"), "decoder/image/limit"),
    (lambda t: t.update({"encoder/image": t["encoder/image"].astype(np.float64)}), "expected float32"),
    (lambda t: t.update({"encoder/image": t["encoder/image"].astype(np.int32)}), "dtype 'I32'"),
    (lambda t: t.update({"encoder/mean/truth": t["encoder/mean/truth"][:2]}), r"expected float64 \[8, 5\]"),
    (lambda t: t["encoder/mean/limit"].fill(np.inf), "not finite"),
    (lambda t: t.update({name: t[name][:0] for name in t}), "expected 1 to 1024 rows, got 0"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_vectors_that_do_not_fit_the_graphs_are_refused(copy: Path, change: Change, message: str) -> None:
    edit(copy, change)
    with pytest.raises(GoldenInvalidError, match=message):
        vaeport.load(copy, self_test=True)


def framed(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(16)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        (1 << 40).to_bytes(8, "little"),
        framed([]),
        framed({"a": 1}),
        framed({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 17]}}),
        framed({"a": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}),
        framed({"a": {"dtype": "F32", "shape": [-1, -4], "data_offsets": [0, 16]}}),
        framed({"a": {"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]}}),
        framed({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}),
        framed({"a": {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}}),
        framed({"a": {"shape": [4], "data_offsets": [0, 16]}}),
        framed({"a": {"dtype": "F32", "shape": [2**70, 0], "data_offsets": [0, 0]}}),
        framed({"a": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}),
    ],
)
def test_a_damaged_file_is_refused(copy: Path, content: bytes) -> None:
    replace(copy, content)
    with pytest.raises(GoldenInvalidError, match=r"golden\.safetensors"):
        vaeport.load(copy, self_test=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["F32", "F64", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_header_gives_tensors_or_a_value_error(header: object) -> None:
    with contextlib.suppress(ValueError):
        assert parse_safetensors(framed(header)).keys() <= {"a", "dtype", "shape", "data_offsets"}


@given(st.binary(max_size=200))
def test_any_bytes_give_tensors_or_a_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_safetensors(content), dict)


def test_a_file_that_changed_after_the_check_is_not_replayed(copy: Path) -> None:
    opened = open_package(copy)
    data = bytearray((copy / GOLDEN_NAME).read_bytes())
    data[-1] ^= 1
    (copy / GOLDEN_NAME).write_bytes(data)
    with pytest.raises(vaeport.PackageError, match=r"golden\.safetensors: expected sha256"):
        read_golden(opened)
