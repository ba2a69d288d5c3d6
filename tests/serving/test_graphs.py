"""The graphs of models under their own names, and what they take."""

import re

import numpy as np
import pytest

from serving.core import Core
from serving.graphs import graphs_of
from tests.serving.toys import toy_model
from vaeport.errors import InvalidInputError, NotFoundError

IMAGE = np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 1, 2, 3)


async def test_a_model_is_an_encoder_and_a_decoder() -> None:
    encoder, decoder = graphs_of(toy_model())
    assert (encoder.name, decoder.name) == ("toy_encoder", "toy_decoder")
    assert (encoder.spec.input.name, encoder.spec.input.dims) == ("image", (1, 2, 3))
    assert [(output.name, output.dims) for output in encoder.spec.outputs] == [("mean", (2,)), ("log_var", (2,))]
    assert (decoder.spec.input.name, decoder.spec.input.dims) == ("latent", (2,))
    assert decoder.spec.output_names == ["image", "logits"]


@pytest.mark.parametrize(
    ("role", "rows", "text"),
    [
        (0, np.zeros((1, 1, 3, 2), np.float32), "image: expected shape [rows, 1, 2, 3], at least 1 row, got shape"),
        (0, np.zeros((1, 2, 3), np.float32), "image: expected shape"),
        (0, np.zeros((0, 1, 2, 3), np.float32), "at least 1 row"),
        (0, np.zeros((1, 1, 2, 3), np.float64), "image: expected float32 or float16 or uint8, got float64"),
        (0, np.where(IMAGE > 0.5, np.nan, IMAGE), "image: expected values in [0, 1], got nan at [0, 0, 1, 0]"),
        (0, IMAGE + np.float32(1e-6), "image: expected values in [0, 1]"),
        (1, np.zeros((1, 2), np.uint8), "latent: expected float32 or float16, got uint8"),
        (1, np.full((1, 2), np.inf, np.float16), "latent: expected values finite, got inf"),
    ],
)
async def test_what_a_graph_cannot_compute_is_refused_by_its_inputs_name(
    role: int, rows: np.ndarray, text: str
) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        graphs_of(toy_model())[role].spec.check(rows)


async def test_bytes_stay_bytes_and_floats_become_float32() -> None:
    encoder, decoder = graphs_of(toy_model())
    assert encoder.spec.check((IMAGE * 255).astype(np.uint8)).dtype == np.uint8
    widened = decoder.spec.check(np.array([[0.5, 2.0]], np.float16))
    assert widened.dtype == np.float32
    assert widened.tolist() == [[0.5, 2.0]]


async def test_the_core_computes_a_graph_as_the_calls_of_the_typed_service_do() -> None:
    core = Core([toy_model()], max_request_rows=4)
    inferred = await core.infer(core.graph("toy_encoder", "3"), IMAGE)
    encoded = await core.encode("toy", "", IMAGE)
    assert np.array_equal(inferred.outputs, (encoded.mean, encoded.log_var))
    assert core.graph("toy_encoder", "").batcher.statistics.success.count == 2
    with pytest.raises(InvalidInputError, match="image: expected at most 4 rows, got 5 rows"):
        await core.infer(core.graph("toy_encoder", ""), IMAGE.repeat(5, 0))
    await core.close()


@pytest.mark.parametrize(("name", "version"), [("toy", ""), ("", ""), ("toy_encoder", "4"), ("toy_encoder", "03")])
async def test_an_unknown_graph_or_version_is_not_found(name: str, version: str) -> None:
    core = Core([toy_model()], max_request_rows=4)
    with pytest.raises(NotFoundError, match=r"there is (toy_encoder, toy_decoder|3)$"):
        core.graph(name, version)
    await core.close()
