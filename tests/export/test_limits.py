"""The limits: never below what float32 really does, and tight enough to tell float32 from less."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from threadpoolctl import threadpool_info

from export.evaluator import evaluator
from export.inputs import SEARCH_KEPT, SEARCH_ROWS, corner_images, corner_latents, far_latents, search, search_rows
from export.limits import LAMBDA, RULES, TF32, UNIT
from export.runtimes import one_thread
from export.truth import CHUNK_ROWS, DoubleGraph
from export.variants import to_fp16
from vaeport.graph_rules import OPERATORS


def layer(inputs: int, outputs: int, *, positive: bool) -> onnx.ModelProto:
    random = np.random.default_rng(3)
    weight = (random.random if positive else random.standard_normal)((outputs, inputs)).astype(np.float32)
    node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", inputs), ("y", outputs))
    ]
    graph = onnx.helper.make_graph([node], "layer", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def test_every_operator_of_the_allow_list_has_a_limit_and_no_other() -> None:
    assert set(RULES) == OPERATORS


def test_a_layer_s_limit_is_the_formula() -> None:
    proto = layer(64, 3, positive=False)
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float64)
    rows = np.random.default_rng(0).random((2, 64), np.float32)
    expected = LAMBDA * np.sqrt(64) * UNIT * (np.abs(rows.astype(np.float64)) @ np.abs(weight).T)
    np.testing.assert_allclose(DoubleGraph(proto).judge(rows).limits[0], expected, rtol=1e-6)


def test_what_comes_in_with_an_error_goes_out_with_it() -> None:
    proto = layer(64, 3, positive=False)
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float64)
    entering = np.full((1, 64), 0.01)
    found = DoubleGraph(proto).judge(np.zeros((1, 64), np.float32), entering).deviation[0]
    np.testing.assert_allclose(found, 0.01 * np.sqrt((weight**2).sum(1))[None], rtol=1e-6)


@pytest.mark.parametrize("positive", [True, False])
def test_a_sum_in_the_worst_order_stays_within_its_limit_and_in_tf32_it_does_not(positive: bool) -> None:
    proto = layer(784, 100, positive=positive)
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    rows = np.random.default_rng(0).random((20, 784), np.float32)
    judgement = DoubleGraph(proto).judge(rows)

    def one_by_one(x: Any, w: Any) -> Any:
        total = np.zeros((len(x), len(w)), np.float32)
        for k in range(x.shape[1]):  # no blocks, no fused operations: nothing real adds up worse
            total += x[:, k : k + 1] * w[:, k]
        return total

    def share(found: Any) -> float:
        return float((np.abs(found - judgement.truth[0]) / judgement.limits[0]).max())

    assert share(one_by_one(rows, weight)) < 0.5
    assert share(one_by_one(short(rows, 10), short(weight, 10))) > 1
    if not positive:
        return
    assert share(one_by_one(rows, 1.0001 * weight)) > 1


def test_a_layer_s_limit_in_tf32_is_the_formula() -> None:
    proto = layer(64, 3, positive=False)
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float64)
    rows = np.random.default_rng(0).random((2, 64), np.float32).astype(np.float64)
    lost = 2.0**-20 * (2 * rows**2 @ (weight**2).T + (rows @ weight.T) ** 2)
    rounded = 64 * UNIT**2 * (rows @ np.abs(weight).T) ** 2
    found = DoubleGraph(proto, TF32).judge(rows.astype(np.float32)).limits[0]
    np.testing.assert_allclose(found, LAMBDA * np.sqrt(lost + rounded), rtol=1e-9)


@pytest.mark.parametrize("positive", [True, False])
def test_factors_may_lose_what_tf32_has_not_and_not_sixteen_times_that(positive: bool) -> None:
    proto = layer(784, 100, positive=positive)
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    rows = np.random.default_rng(0).random((20, 784), np.float32)
    judgement = DoubleGraph(proto, TF32).judge(rows)

    def share(bits: int, to_integer: Any) -> float:
        found = short(rows, bits, to_integer) @ short(weight, bits, to_integer).T
        return float((np.abs(found - judgement.truth[0]) / judgement.limits[0]).max())

    assert share(10, np.round) < share(10, np.trunc) < 0.3
    assert share(6, np.trunc) > 1


def test_float16_products_may_be_added_up_in_float32_and_not_one_by_one_in_float16() -> None:
    proto = to_fp16(layer(784, 100, positive=True))
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    rows = np.random.default_rng(0).random((20, 784), np.float32)
    judgement = DoubleGraph(proto).judge(rows)

    def one_by_one(x: Any, dtype: Any) -> Any:
        total = np.zeros((len(x), len(weight)), dtype)
        for k in range(x.shape[1]):
            total += (x[:, k : k + 1].astype(np.float16) * weight[:, k]).astype(dtype)
        return total.astype(np.float16)

    def share(found: Any) -> float:
        return float((np.abs(found.astype(np.float64) - judgement.truth[0]) / judgement.limits[0]).max())

    assert share(one_by_one(rows, np.float32)) < 0.5
    assert share(one_by_one(rows, np.float16)) > 1


def short(array: Any, bits: int, to_integer: Any = np.round) -> Any:
    """With so many bits of mantissa after the point."""
    mantissa, exponent = np.frexp(array)
    return np.ldexp(to_integer(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent).astype(np.float32)


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 2, 0]])
@pytest.mark.parametrize(("strides", "kernel"), [([2, 2], (4, 4)), ([3, 1], (3, 2))])
@pytest.mark.parametrize(("operator", "more"), [("Conv", {}), ("ConvTranspose", {"output_padding": [1, 0]})])
def test_our_convolutions_are_those_of_the_reference(
    operator: str, more: dict[str, Any], strides: list[int], kernel: tuple[int, int], pads: list[int]
) -> None:
    attributes: Any = {"strides": strides, "pads": pads, "kernel_shape": kernel, **more}
    weight = (2, 3, *kernel) if operator == "Conv" else (3, 2, *kernel)
    check_against_the_reference(operator, {"x": (2, 3, 6, 5), "w": weight, "b": (2,)}, attributes)


@pytest.mark.parametrize("more", [{"auto_pad": "SAME_UPPER"}, {"dilations": [2, 1]}, {"group": 3}])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_other_convolutions_are_left_to_the_reference(operator: str, more: dict[str, Any]) -> None:
    weight = (3, 1, 2, 2) if "group" in more else (3, 3, 2, 2)
    check_against_the_reference(operator, {"x": (2, 3, 6, 5), "w": weight}, more)


def check_against_the_reference(operator: str, shapes: dict[str, tuple[int, ...]], attributes: Any) -> None:
    random = np.random.default_rng(0)
    node = onnx.helper.make_node(operator, list(shapes), ["y"], **attributes)
    feeds = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    (ours,), (theirs,) = evaluator(node).run(None, feeds), ReferenceEvaluator(node).run(None, feeds)
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-12)


def test_corner_images_are_in_their_range_and_differ() -> None:
    rows = corner_images((3, 4, 5))
    assert rows.min() == 0.0
    assert rows.max() == 1.0
    assert len(np.unique(rows.reshape(len(rows), -1), axis=0)) == len(rows)


def test_corner_latents_reach_ten_in_every_dimension() -> None:
    rows = corner_latents((4,))
    assert rows.min(0).tolist() == [-10.0] * 4
    assert rows.max(0).tolist() == [10.0] * 4
    assert not rows[0].any()


def test_far_latents_go_beyond_a_hundred_and_a_thousand_on_both_sides() -> None:
    rows = far_latents((4,))
    for far in (1e2, 1e3):
        assert [far] * 4 in rows.tolist()
        assert [-far] * 4 in rows.tolist()
    wide = rows[np.abs(rows).max(1) < 100.0]
    assert (np.abs(wide).max(0) > 10.0).all()
    assert np.array_equal(rows, far_latents((4,)))
    assert not np.array_equal(rows, far_latents((4,), seed=1))


def test_the_search_finds_worse_rows_within_the_range_and_the_same_again() -> None:
    start = np.random.default_rng(5).random((10, 6), np.float32)

    def badness(rows: Any) -> Any:
        return rows.astype(np.float64).sum(1)

    found = search(start, badness, 0.0, 1.0)
    assert badness(found).min() > badness(start).max()
    assert 0.0 <= found.min() <= found.max() <= 1.0
    assert np.array_equal(found, search(start, badness, 0.0, 1.0))


def test_the_search_tries_fewer_rows_of_large_images() -> None:
    assert search_rows(28 * 28) == SEARCH_ROWS
    assert SEARCH_KEPT < search_rows(3 * 64 * 64) < SEARCH_ROWS
    assert search_rows(3 * 512 * 512) == SEARCH_KEPT


def test_the_proof_has_one_thread_and_gives_the_others_back() -> None:
    before = (torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()])
    with one_thread():
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert (torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]) == before


def test_many_rows_are_judged_as_few_are() -> None:
    graph = DoubleGraph(layer(64, 3, positive=False))
    rows = np.random.default_rng(0).random((CHUNK_ROWS + 5, 64), np.float32)
    entering = np.random.default_rng(1).random(rows.shape)
    whole, last = graph.judge(rows, entering), graph.judge(rows[-7:], entering[-7:])
    np.testing.assert_allclose(whole.truth[0][-7:], last.truth[0], rtol=1e-12)
    np.testing.assert_allclose(whole.deviation[0][-7:], last.deviation[0], rtol=1e-12)
