"""The model in this process, against PyTorch and against itself."""

import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import vaeport
from vaeport.errors import InvalidInputError
from vaeport.package import NotAPackageError
from vaeport.prior import standard_normal


@pytest.fixture(scope="module")
def model(package: Path) -> vaeport.Model:
    return vaeport.load(package)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8), np.uint8)


def test_it_says_what_it_is(model: vaeport.Model) -> None:
    (only,) = model.info().models
    assert (only.name, only.version) == ("digits", "1")
    assert model.image_shape == only.image_shape == (1, 8, 8)
    assert model.latent_dim == only.latent_dim == 5
    assert only.providers == ("CPUExecutionProvider",)


def test_a_folder_of_versions_means_the_newest(models: Path) -> None:
    assert vaeport.load(models / "digits").info().models[0].version == "1"


def test_a_folder_that_is_neither_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotAPackageError, match="no package here"):
        vaeport.load(tmp_path)
    with pytest.raises(NotAPackageError, match="no such folder"):
        vaeport.load(tmp_path / "nothing")


def test_everything_equals_pytorch(model: vaeport.Model, digits_run: Path, images: np.ndarray) -> None:
    import torch

    from training.run import open_run

    reference, _ = open_run(digits_run).load_model()
    with torch.inference_mode():
        mean, log_var = reference.encode(torch.from_numpy(images / np.float32(255)))
        decoded = reference.decode(mean).reshape(-1, 1, 8, 8)
        drawn = reference.decode(torch.from_numpy(standard_normal(7, 0, 4, 5))).reshape(-1, 1, 8, 8)
    encoding = model.encode(images)
    assert encoding.version == "1"
    np.testing.assert_allclose(encoding.mean, mean, atol=1e-5)
    np.testing.assert_allclose(encoding.log_var, log_var, atol=1e-5)
    np.testing.assert_allclose(model.decode(mean.numpy()), decoded, atol=1e-5)
    np.testing.assert_allclose(model.reconstruct(images), decoded, atol=1e-5)
    np.testing.assert_allclose(model.sample(4, seed=7), drawn, atol=1e-5)


def test_bytes_and_floats_mean_the_same(model: vaeport.Model, images: np.ndarray) -> None:
    assert np.array_equal(model.encode(images).mean, model.encode(images / np.float32(255)).mean)


def test_results_are_float32_in_their_shapes(model: vaeport.Model, images: np.ndarray) -> None:
    for array, shape in (
        (model.encode(images[0]).mean, (1, 5)),
        (model.encode(images[:, 0]).log_var, (9, 5)),
        (model.sample(3), (3, 1, 8, 8)),
        (model.decode(np.zeros(5)), (1, 1, 8, 8)),
        (model.reconstruct(images), (9, 1, 8, 8)),
    ):
        assert array.dtype == np.float32
        assert array.shape == shape
    assert model.sample(3).min() >= 0
    assert model.sample(3).max() <= 1


def test_a_long_array_is_computed_in_pieces_with_the_same_result(model: vaeport.Model) -> None:
    long = np.random.default_rng(1).integers(0, 256, (2500, 8, 8), np.uint8)
    assert np.array_equal(model.encode(long).mean[2400:], model.encode(long[2400:]).mean)
    samples = model.sample(2500, seed=1)
    assert np.array_equal(samples[2400:], model.sample(100, seed=1, first_row=2400))


def test_temperature_zero_is_the_image_of_the_prior_mean(model: vaeport.Model) -> None:
    assert np.array_equal(model.sample(1, temperature=0.0), model.decode(np.zeros(5)))


def test_without_a_seed_samples_differ(model: vaeport.Model) -> None:
    assert not np.array_equal(model.sample(2), model.sample(2))


@pytest.mark.parametrize("count", [0, -1])
def test_no_images_cannot_be_drawn(model: vaeport.Model, count: int) -> None:
    with pytest.raises(InvalidInputError, match="count: expected at least 1 row"):
        model.sample(count)


def test_a_negative_number_of_threads_is_refused(package: Path) -> None:
    with pytest.raises(InvalidInputError, match="threads: expected 0 or more, got -1"):
        vaeport.load(package, threads=-1)


CALLS: list[Callable[[vaeport.Model, np.ndarray], np.ndarray]] = [
    lambda model, images: model.encode(images).mean,
    lambda model, images: model.encode(iter(images)).log_var,
    lambda model, images: model.reconstruct(images),
    lambda model, images: model.sample(9, seed=1),
    lambda model, images: np.concatenate(list(model.sample_stream(9, seed=1, chunk_rows=2))),
    lambda model, images: model.interpolate(images[0], images[1], 9, spherical=True),
    lambda model, images: model.score(images, importance_samples=3, seed=1).elbo,
]


def test_threads_may_share_a_model(model: vaeport.Model, images: np.ndarray) -> None:
    expected = [call(model, images) for call in CALLS]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda index: CALLS[index % len(CALLS)](model, images), range(40 * len(CALLS))))
    assert all(np.array_equal(found, expected[index % len(CALLS)]) for index, found in enumerate(results))


def peak_bytes(call: Callable[[], object]) -> int:
    """What numpy and Python have allocated at most meanwhile, above what there was."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_file_larger_than_memory_is_computed_in_bounded_memory(model: vaeport.Model, tmp_path: Path) -> None:
    rows, latents = 40_000, 40_000 * 5 * 4
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((rows, 8, 8)))  # 20 MB
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert peak_bytes(lambda: model.encode(mapped)) < 4 * latents + 2_000_000  # twice, while the pieces are joined
    assert peak_bytes(lambda: model.encode(iter(mapped))) < 4 * latents + 2_000_000
    assert peak_bytes(lambda: [None for _ in model.sample_stream(rows)]) < 2_000_000
    images = rows * 64 * 4
    assert peak_bytes(lambda: model.sample(rows)) < images + 3_000_000
