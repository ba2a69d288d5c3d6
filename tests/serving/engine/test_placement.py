"""Nodes that are elsewhere than on the device are refused."""

from types import SimpleNamespace
from typing import Any

import pytest

from serving.engine.placement import check_capturable, check_placement
from tests.serving.engine.toys import CPU, encoder
from vaeport.errors import DeviceError
from vaeport.graphs import CUDA_PROVIDER, Device

CUDA = Device(CUDA_PROVIDER, "a test")


def placed(**nodes: int) -> Any:
    return SimpleNamespace(placement=nodes)


def with_nodes(*operators: str) -> Any:
    part = SimpleNamespace(get_nodes=lambda: [SimpleNamespace(op_type=name) for name in operators])
    return SimpleNamespace(session=SimpleNamespace(get_provider_graph_assignment_info=lambda: [part]))


def test_a_real_graph_is_where_it_should_be() -> None:
    assert check_placement("encoder", encoder(), CPU) > 0


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ({"CUDAExecutionProvider": 5, "CPUExecutionProvider": 1}, "1 on CPUExecutionProvider, 5 on CUDA"),
        ({"CPUExecutionProvider": 6}, "6 on CPUExecutionProvider"),
        ({}, "no record"),
    ],
)
def test_a_single_node_elsewhere_is_an_error_that_counts_them(nodes: dict[str, int], found: str) -> None:
    with pytest.raises(DeviceError, match=f"encoder: expected all nodes on CUDAExecutionProvider, got {found}"):
        check_placement("encoder", placed(**nodes), CUDA)


def test_a_node_that_answers_on_the_host_forbids_cuda_graphs() -> None:
    check_capturable("decoder", with_nodes("Gemm", "Relu", "Reshape"))
    with pytest.raises(DeviceError, match="decoder: --cuda-graphs: cannot be captured, because of Shape; leave it off"):
        check_capturable("decoder", with_nodes("Gemm", "Shape", "Reshape"))
