"""The clients without a server that other services test with."""

import inspect
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vaeport
from vaeport.testing import AsyncFakeClient, FakeClient

IMAGES = np.random.default_rng(0).integers(0, 256, (700, 4, 4), np.uint8)


def make() -> FakeClient:
    return FakeClient((1, 4, 4), 3)


def test_they_are_clients() -> None:
    assert issubclass(FakeClient, vaeport.Client)
    assert issubclass(AsyncFakeClient, vaeport.AsyncClient)
    assert inspect.signature(FakeClient) == inspect.signature(AsyncFakeClient)


def test_they_compute_what_can_be_done_by_hand() -> None:
    client = make()
    encoding = client.encode(IMAGES[0])
    pixels = IMAGES[0].reshape(-1) / np.float32(255)
    assert np.array_equal(encoding.mean[0], pixels[:3])
    assert not encoding.log_var.any()
    decoded = client.decode(np.array([0.0, 1.0, -1.0]))[0, 0]
    expected = 1 / (1 + np.exp(-np.resize([0.0, 1.0, -1.0], (4, 4))))
    np.testing.assert_allclose(decoded, expected, rtol=1e-6)
    assert np.array_equal(client.reconstruct(IMAGES), client.decode(client.encode(IMAGES).mean))


def test_results_do_not_depend_on_how_images_came() -> None:
    client = make()
    assert np.array_equal(client.encode(IMAGES).mean, client.encode(iter(IMAGES)).mean)
    stream = np.concatenate(list(client.sample_stream(700, seed=1, chunk_rows=100)))
    assert np.array_equal(stream, client.sample(700, seed=1))
    assert np.array_equal(client.sample(10, seed=1, first_row=690), stream[690:])
    whole, part = client.score(IMAGES, seed=2), client.score(IMAGES[600:], seed=2, first_row=600)
    assert np.array_equal(whole.elbo[600:], part.elbo)
    assert client.encode(Image.new("RGB", (9, 5))).mean.shape == (1, 3)


def test_the_next_call_fails_and_the_one_after_does_not() -> None:
    client = make()
    client.fail_next(vaeport.OverloadedError("full", retry_after=1.0), vaeport.UnavailableError("gone"))
    with pytest.raises(vaeport.OverloadedError, match="full") as refused:
        client.sample(1)
    assert refused.value.retry_after == 1.0
    with pytest.raises(vaeport.UnavailableError):
        client.encode(IMAGES)
    assert client.sample(1).shape == (1, 1, 4, 4)


def test_a_stream_fails_at_its_next_chunk() -> None:
    client = make()
    chunks = client.sample_stream(10, chunk_rows=5)
    assert len(next(chunks)) == 5
    client.fail_next(vaeport.UnavailableError("gone"))
    with pytest.raises(vaeport.UnavailableError):
        next(chunks)


def test_what_a_closed_client_does_is_what_the_real_one_does() -> None:
    with make() as client:
        assert client.info().models[0].name == "fake"
    with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
        client.sample(1)


def test_it_says_what_it_was_told_to_be() -> None:
    client = FakeClient((3, 6, 4), 2, model="faces", version="7")
    (model,) = client.info().models
    assert (model.name, model.version, model.preprocessing.crop) == ("faces", "7", "none")  # type: ignore[union-attr]
    assert (client.image_shape, client.latent_dim) == ((3, 6, 4), 2)


async def test_the_asynchronous_one_gives_the_same() -> None:
    client = make()
    async with AsyncFakeClient((1, 4, 4), 3) as fake:
        assert await fake.info() == client.info()
        assert np.array_equal((await fake.encode(iter(IMAGES))).mean, client.encode(IMAGES).mean)
        assert np.array_equal((await fake.score(IMAGES, seed=1)).elbo, client.score(IMAGES, seed=1).elbo)
        chunks: list[Any] = [each async for each in fake.sample_stream(9, seed=1, chunk_rows=5)]
        assert np.array_equal(np.concatenate(chunks), client.sample(9, seed=1))
        fake.fail_next(vaeport.OverloadedError("full"))
        with pytest.raises(vaeport.OverloadedError):
            await fake.interpolate(IMAGES[0], IMAGES[1], 3)
        assert np.array_equal(
            await fake.interpolate(IMAGES[0], IMAGES[1], 3), client.interpolate(IMAGES[0], IMAGES[1], 3)
        )
    with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
        await fake.sample(1)
