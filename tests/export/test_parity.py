"""The comparison can fail: graphs that are wrong in known ways are caught, and the message says where."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export import parity
from export.errors import ParityError
from export.graphs import Role, graph_spec, roles, to_onnx
from training import VAE
from vaeport.graphs import choose_device, load_graph

Break = Callable[[onnx.ModelProto], object]


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Role, onnx.ModelProto]]:
    torch.manual_seed(0)
    model = VAE(16, 8, 8).eval()  # layers of 8x8, so that a transposed weight still fits
    return {role.name: (role, to_onnx(role)) for role in roles(model, (1, 4, 4))}


def checks_of(role: Role, proto: onnx.ModelProto) -> list[parity.Check]:
    graph = load_graph(Path(role.path), proto.SerializeToString(), graph_spec(role, proto), choose_device("cpu"), 1)
    real = np.random.default_rng(1).random((5, *role.input_shape), np.float32)
    return parity.compare(role, graph, parity.inputs_for(role, real))


def edit_weight(proto: onnx.ModelProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
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


BREAKS: dict[str, Break] = {
    "transposed weight": lambda p: edit_weight(p, np.transpose),
    "wrong constant": lambda p: edit_weight(p, lambda a: a + np.float32(1e-3)),
    "float16 weight": lambda p: edit_weight(p, lambda a: a.astype(np.float16).astype(np.float32)),
    "swapped outputs": swap_outputs,
    "dropped activation": drop_an_activation,
    "not a number": lambda p: edit_weight(p, lambda a: np.full_like(a, np.nan)),
}


def test_a_right_graph_passes_every_check(made: dict[str, tuple[Role, onnx.ModelProto]]) -> None:
    for role, proto in made.values():
        checks = checks_of(role, proto)
        parity.require(checks)
        assert {check.batch for check in checks} == {1, 2, 3, 7, 64}
        assert {check.input for check in checks} == {"real", "random"}
        assert {check.output for check in checks} == set(role.output_names)
        assert {check.runtime for check in checks} == {"onnxruntime", "torch float32"}


@pytest.mark.parametrize("role_name", ["encoder", "decoder"])
@pytest.mark.parametrize("broken", BREAKS)
def test_a_wrong_graph_is_caught(made: dict[str, tuple[Role, onnx.ModelProto]], role_name: str, broken: str) -> None:
    role, right = made[role_name]
    wrong = onnx.ModelProto()
    wrong.CopyFrom(right)
    BREAKS[broken](wrong)
    checks = checks_of(role, wrong)
    assert all(check.passed for check in checks if check.runtime == "torch float32")
    where = rf"{role_name}\.\w+, onnxruntime, .* index .* expected .* got .* error .* limit"
    with pytest.raises(ParityError, match=where):
        parity.require(checks)


def test_the_rows_are_json_and_the_summary_names_the_worst(made: dict[str, tuple[Role, onnx.ModelProto]]) -> None:
    role, proto = made["encoder"]
    checks = checks_of(role, proto)
    rows = json.loads(json.dumps(parity.to_json(checks), allow_nan=False))["checks"]
    assert len(rows) == len(checks)
    assert all(row["passed"] for row in rows)
    summary = parity.summary(checks)
    assert summary["worst_share_of_limit"] == max(row["worst_error"] / row["limit"] for row in rows)
