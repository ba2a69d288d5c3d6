"""Bound memory changes nothing about the result, and memory that runs out costs time, not answers."""

import subprocess
import sys
import weakref
from functools import partial

import pytest

from serving.engine import BoundGraph, ByDtype, DeviceLostError
from tests.serving.engine.toys import CPU, OUT_OF_MEMORY, SIZES, Memory, encoder, images, same
from tests.support import ROOT
from vaeport.arrays import to_float
from vaeport.errors import DeviceError, PackageError
from vaeport.graphs import CUDA_PROVIDER, Device, Graph

LOST = RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=x")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 16, 37])
def test_a_padded_or_cut_batch_is_the_plain_one_bit_for_bit(rows: int) -> None:
    floats = to_float(images(rows))
    assert same(Memory().bound()(floats), encoder()(floats))


def test_a_batch_runs_in_the_smallest_size_that_holds_it() -> None:
    memory = Memory()
    graph = memory.bound()
    for rows in (1, 2, 3, 5, 8, 13):
        graph(to_float(images(rows)))
    assert memory.ran == [1, 2, 4, 8, 8, 8, 8]  # 13 are 8 and 5


def test_the_padding_of_a_batch_does_not_cross_back() -> None:
    memory = Memory()
    graph = memory.bound()
    for rows in (5, 8, 3):
        for output in graph(to_float(images(rows))):
            assert output.base is None  # nothing else is kept with it
    assert memory.fetched == [5, 5, 3, 3]  # of two outputs; 8 rows fill their memory


def test_pieces_of_both_dtypes_are_one_batch() -> None:
    rows = images(6)
    mixed = Memory().bound().run([rows[:2], to_float(rows[2:3]), rows[3:]])
    assert same(mixed, encoder()(to_float(rows)))


def test_an_answer_is_not_overwritten_by_the_next_batch() -> None:
    graph = Memory().bound()
    first = graph(to_float(images(3, seed=1)))
    kept = tuple(output.copy() for output in first)
    graph(to_float(images(3, seed=2)))
    assert same(first, kept)


def test_every_size_is_run_twice_before_the_first_caller_the_largest_first() -> None:
    memory = Memory()
    graph = BoundGraph("toy encoder", memory.load, CPU, SIZES)
    graph.warm_up()
    graph.warm_up()  # once is enough
    assert memory.ran == [8, 8, 4, 4, 2, 2, 1, 1]
    assert (graph.outputs, graph.placement) == (("mean", "log_var"), encoder().placement)


def test_images_that_are_all_bytes_go_to_the_graph_that_takes_bytes() -> None:
    floats = BoundGraph("floats", encoder, CPU, SIZES)
    of_bytes = BoundGraph("bytes", partial(encoder, "uint8"), CPU, SIZES)
    floats.warm_up()
    of_bytes.warm_up()
    both = ByDtype(floats, of_bytes)
    plain = encoder()(to_float(images(5)))
    assert same(both.run([images(5)]), plain)
    assert same(both.run([images(5)[:2], to_float(images(5)[2:])]), plain)
    with pytest.raises(TypeError):
        of_bytes(to_float(images(5)))  # so the second one went to the other graph


def test_sizes_for_which_there_is_no_memory_at_the_start_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(rows=7)  # 1 + 2 + 4
    graph = memory.bound()
    assert (graph.max_rows, memory.sessions) == (4, 2)
    assert "toy encoder: out of memory, so batches of 8 rows are given up: " in caplog.text
    assert same(graph(to_float(images(8))), encoder()(to_float(images(8))))


def test_memory_that_runs_out_later_costs_nobody_the_answer() -> None:
    memory = Memory()
    graph = memory.bound()
    memory.rows = 3
    floats = to_float(images(8))
    assert same(graph(floats), encoder()(floats))
    assert (graph.max_rows, memory.sessions) == (2, 3)  # of 8, 4, and 2 rows
    assert same(graph(floats), encoder()(floats))
    assert memory.sessions == 3


def test_the_old_session_is_gone_before_the_new_one_is_made() -> None:
    memory = Memory()
    made: list[weakref.ref[object]] = []

    def load() -> Graph:
        assert all(session() is None for session in made)
        graph = memory.load()
        made.append(weakref.ref(graph.session))
        return graph

    graph = BoundGraph("toy encoder", load, CPU, SIZES)
    graph.warm_up()
    memory.errors = [RuntimeError(OUT_OF_MEMORY)]
    graph(to_float(images(8)))
    assert len(made) == 2


def test_no_memory_for_a_single_row_is_a_lost_device() -> None:
    memory = Memory()
    graph = memory.bound()
    memory.rows = 0
    with pytest.raises(DeviceLostError, match="toy encoder: no memory for a batch of 1 rows: BFCArena"):
        graph(to_float(images(1)))
    assert graph.max_rows == 0
    with pytest.raises(DeviceLostError, match="toy encoder: the device is lost"):
        graph(to_float(images(1)))
    with pytest.raises(DeviceLostError):
        Memory(rows=0).bound()


def test_a_lost_device_is_never_tried_again() -> None:
    memory = Memory()
    graph = memory.bound()
    memory.errors = [LOST]
    with pytest.raises(DeviceLostError, match="toy encoder: the device is lost: CUDA failure 700") as caught:
        graph(to_float(images(8)))
    assert caught.value.__cause__ is LOST
    assert (memory.ran, memory.sessions) == ([], 1)


def test_an_error_of_the_rows_is_theirs_and_the_next_batch_runs() -> None:
    memory = Memory()
    graph = memory.bound()
    memory.errors = [ValueError("bad rows")]
    with pytest.raises(ValueError, match="bad rows"):
        graph(to_float(images(2)))
    assert same(graph(to_float(images(2))), encoder()(to_float(images(2))))
    assert memory.sessions == 1


def test_a_session_that_cannot_be_made_again_is_a_lost_device() -> None:
    memory = Memory()
    graph = BoundGraph("toy encoder", lambda: loads.pop()(), CPU, SIZES)

    def gone() -> Graph:
        raise PackageError("encoder.onnx: changed")

    loads = [gone, memory.load]
    graph.warm_up()
    memory.errors = [RuntimeError(OUT_OF_MEMORY)]
    with pytest.raises(DeviceLostError, match=r"toy encoder: cannot be loaded again: encoder\.onnx: changed"):
        graph(to_float(images(1)))


def test_a_device_that_fails_while_it_warms_up_ends_the_start() -> None:
    memory = Memory(errors=[LOST])
    with pytest.raises(DeviceError, match="toy encoder: CPUExecutionProvider does not compute: CUDA failure 700"):
        memory.bound()


def test_nodes_elsewhere_than_on_the_device_end_the_start() -> None:
    graph = BoundGraph("toy encoder", encoder, Device(CUDA_PROVIDER, "a test"), SIZES)
    with pytest.raises(DeviceError, match="toy encoder: expected all nodes on CUDAExecutionProvider, got 4 on CPU"):
        graph.warm_up()


def test_onnx_runtime_s_own_out_of_memory_is_survived() -> None:
    command = [sys.executable, "-m", "tests.serving.engine.memory"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Available memory of" in done.stderr
    before, after = map(int, done.stdout.split())
    assert 1 <= after < before == 1024
