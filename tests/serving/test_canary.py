"""The canaries of a package: known rows through the very graphs that serve."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.canary import UNPROVEN_LIMIT, canaries_of
from serving.engine import ByDtype, Engine
from serving.models import LoadedModel, load_models
from serving.repository import default_packages
from vaeport.errors import SelfTestError
from vaeport.golden import read_golden
from vaeport.graphs import choose_device, load_graphs
from vaeport.package import open_package


def loaded(models: Path, buckets: tuple[int, ...] = ()) -> LoadedModel:
    (model,) = load_models(default_packages(models), choose_device("cpu"), 1, buckets=buckets)
    return model


@pytest.mark.parametrize("buckets", [(), (1, 2)])
async def test_every_graph_that_serves_has_a_canary_that_passes_on_the_engine(
    models: Path, buckets: tuple[int, ...]
) -> None:
    model, engine = loaded(models, buckets), Engine()
    names = ["encoder", "encoder.uint8", "decoder"] if buckets else ["encoder", "decoder"]
    assert sorted(canary.name for canary in model.canaries) == sorted(f"digits {name}" for name in names)
    for canary in model.canaries:
        assert len(canary.row) == 1
        assert canary.row.any()
        canary.check(await engine.run_alone(canary.graph, canary.row))
    encoder = model.graphs["encoder"]
    served = [encoder.floats, encoder.uint8] if isinstance(encoder, ByDtype) else [encoder]
    assert {id(canary.graph) for canary in model.canaries} == {
        id(graph) for graph in (*served, model.graphs["decoder"])
    }
    engine.close()


def test_an_output_is_held_to_the_limit_that_was_proven_for_it(models: Path) -> None:
    model = loaded(models)
    vectors = read_golden(model.package)
    for canary in model.canaries:
        golden = vectors[canary.name.removeprefix("digits ")]
        outputs = canary.graph(canary.row)
        for place, (name, limits) in enumerate(golden.limits.items()):
            for times, passes in ((0.5, True), (3.0, False)):
                moved = [output.astype(np.float64) for output in outputs]
                moved[place] = golden.truth[name][:1].copy()
                moved[place][0].flat[-1] += times * limits[0].flat[-1]
                if passes:
                    canary.check(tuple(moved))
                else:
                    with pytest.raises(SelfTestError, match=f"{canary.name}.{name}, index"):
                        canary.check(tuple(moved))


def test_tf32_has_its_slack(models: Path) -> None:
    package = open_package(models / "digits" / "1")
    graphs = load_graphs(package, choose_device("cpu"), 1, ["decoder"])
    (exact,), (coarse,) = (canaries_of(package, graphs, read_golden(package), slack) for slack in (1.0, 8.0))
    for name in exact.limits:
        assert np.array_equal(8.0 * exact.limits[name], coarse.limits[name])


@pytest.mark.parametrize("name", ["encoder", "encoder.uint8", "decoder"])
def test_a_package_without_golden_vectors_is_held_to_what_it_gave_when_it_was_loaded(models: Path, name: str) -> None:
    package = open_package(models / "digits" / "1")
    graphs = load_graphs(package, choose_device("cpu"), 1, [name])
    (canary,) = canaries_of(package, graphs, None)
    outputs = canary.graph(canary.row)
    canary.check(outputs)
    wrong = (outputs[0] + np.float32(3 * UNPROVEN_LIMIT * (1 + np.abs(outputs[0]).max())), *outputs[1:])
    with pytest.raises(SelfTestError):
        canary.check(wrong)


def test_outputs_of_another_shape_or_number_do_not_pass(models: Path) -> None:
    canary = loaded(models).canaries[0]
    outputs = canary.graph(canary.row)
    with pytest.raises(SelfTestError, match=r"expected shape \[1, 5\], got \[2, 5\]"):
        canary.check(tuple(np.repeat(output, 2, axis=0) for output in outputs))
    with pytest.raises(ValueError, match="zip"):
        canary.check(outputs[:1])
    with pytest.raises(ValueError, match="zip"):
        replace(canary, expected={}).check(outputs)
