"""On a GPU: every batch size, dtype and way to run computes what the package proves. Skipped where there is none."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.batching import Limits, Turn
from serving.engine import BoundGraph, ByDtype, Engine, bucket_sizes
from serving.models import LoadedModel, load_models, serve_model
from serving.repository import default_packages
from vaeport.arrays import to_float
from vaeport.golden import TF32_SLACK, Golden, read_golden
from vaeport.graphs import CUDA_PROVIDER, CudaOptions, choose_device

DEVICE = choose_device("auto")
BUCKETS = bucket_sizes(20)

pytestmark = pytest.mark.skipif(DEVICE.provider != CUDA_PROVIDER, reason=f"needs a GPU: {DEVICE.reason}")


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture(params=[False, True], ids=["plain", "cuda-graphs"])
def model(request: pytest.FixtureRequest, engine: Engine, models: Path) -> LoadedModel:
    """The digits, loaded as a worker does: placed, warm and self-tested on the engine's thread."""
    return load(engine, models, CudaOptions(graphs=request.param))


def load(engine: Engine, models: Path, cuda: CudaOptions) -> LoadedModel:
    (loaded,) = engine.call(load_models, default_packages(models), replace(DEVICE, cuda=cuda), 1, buckets=BUCKETS)
    return loaded


def bound(model: LoadedModel) -> dict[str, BoundGraph]:
    """By the name in the manifest."""
    encoder, decoder = model.graphs["encoder"], model.graphs["decoder"]
    assert isinstance(encoder, ByDtype)
    assert isinstance(decoder, BoundGraph)
    return {"encoder": encoder.floats, "encoder.uint8": encoder.uint8, "decoder": decoder}


def check(graph: BoundGraph, golden: Golden, engine: Engine, order: list[int], slack: float = 1.0) -> None:
    """The golden rows in this order, as one batch, are within their limits."""
    outputs = engine.call(graph, golden.rows[order])
    for name, output in zip(graph.outputs, outputs, strict=True):
        error = np.abs(output.astype(np.float64) - golden.truth[name][order])
        assert np.all(error <= slack * golden.limits[name][order]), name


def test_every_node_is_on_the_gpu(model: LoadedModel) -> None:
    for graph in bound(model).values():
        assert graph.placement.keys() == {CUDA_PROVIDER}


def test_every_number_of_rows_is_within_the_limits_that_the_package_proves(model: LoadedModel, engine: Engine) -> None:
    random = np.random.default_rng(0)
    vectors = read_golden(model.package)
    for name, graph in bound(model).items():
        assert graph.max_rows == BUCKETS[-1]
        golden = vectors[name]
        for rows in (*range(1, 2 * BUCKETS[-1] + 2), *BUCKETS):  # each size again, with other rows: a replay must not
            check(graph, golden, engine, random.integers(0, len(golden.rows), rows).tolist())  # give the last answer


def test_bytes_and_floats_agree_to_twice_the_limits(model: LoadedModel, engine: Engine) -> None:
    golden = read_golden(model.package)["encoder.uint8"]
    graphs = bound(model)
    floats = engine.call(graphs["encoder"], to_float(golden.rows))
    of_bytes = engine.call(graphs["encoder.uint8"], golden.rows)
    for name, left, right in zip(graphs["encoder"].outputs, floats, of_bytes, strict=True):
        assert np.all(np.abs(left.astype(np.float64) - right) <= 2 * golden.limits[name]), name


def test_tf32_is_within_what_the_self_test_allows_for_it(engine: Engine, models: Path) -> None:
    model = load(engine, models, CudaOptions(tf32=True))
    for name, graph in bound(model).items():
        golden = read_golden(model.package)[name]
        check(graph, golden, engine, list(range(len(golden.rows))), TF32_SLACK)


def test_a_memory_limit_that_is_too_small_for_the_largest_batches_leaves_smaller_ones(
    engine: Engine, models: Path
) -> None:
    sizes = bucket_sizes(1 << 16)  # 65,536 images of 8x8 in 16 MB
    device = replace(DEVICE, cuda=CudaOptions(memory_limit=16 * 2**20))
    (model,) = engine.call(load_models, default_packages(models), device, 1, buckets=sizes)
    for graph in bound(model).values():
        assert 1 <= graph.max_rows < sizes[-1]


async def test_callers_of_one_batch_get_their_own_rows(model: LoadedModel, engine: Engine) -> None:
    golden = read_golden(model.package)["encoder.uint8"]
    served = serve_model(model, engine, Limits(BUCKETS[-1], 1000, 10**8), Turn())
    numbers = np.random.default_rng(0).integers(0, len(golden.rows), 200)
    answers = await asyncio.gather(*(served.encoder.submit(golden.rows[[number]]) for number in numbers))
    for number, answer in zip(numbers, answers, strict=True):
        error = np.abs(answer.outputs[0][0].astype(np.float64) - golden.truth["mean"][number])
        assert np.all(error <= golden.limits["mean"][number])
    await served.encoder.close()
    await served.decoder.close()
