"""Scores against PyTorch in double precision, an analytic likelihood, and themselves."""

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vaeport
from tests.support import BAD_SCORE_NUMBERS
from tests.vaeport.test_prior import VECTORS
from training.estimators import log_likelihood
from training.objective import kl_divergence
from training.run import open_run
from vaeport import scoring
from vaeport.arrays import to_float
from vaeport.errors import InvalidInputError
from vaeport.package import open_package
from vaeport.prior import standard_normal
from vaeport.scoring import ScoringSpec


@pytest.fixture(scope="module")
def model(package: Path) -> vaeport.Model:
    return vaeport.load(package)


@pytest.fixture(scope="module")
def spec(package: Path) -> ScoringSpec:
    return ScoringSpec.of(open_package(package).manifest)


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8), np.uint8)


def test_every_number_is_pytorch_s(model: vaeport.Model, digits_run: Path, images: NDArray[np.uint8]) -> None:
    samples = 7
    reference, _ = open_run(digits_run).load_model()
    reference = reference.double()
    x = torch.from_numpy(to_float(images).astype(np.float64))
    epsilon = torch.from_numpy(standard_normal(5, 3 * samples, 9 * samples, 5).astype(np.float64)).reshape(
        9, samples, 5
    )
    with torch.inference_mode():
        mean, log_var = reference.encode(x)
        z = mean[:, None] + torch.exp(0.5 * log_var)[:, None] * epsilon
        logits = reference.decoder(z.reshape(-1, 5)).reshape(9, samples, -1)
        targets = x.reshape(9, 1, -1).expand_as(logits)
        log_p = -torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(2)
        prior: Any
        posterior: Any
        prior, posterior = (
            torch.distributions.Normal(0.0, 1.0),
            torch.distributions.Normal(mean[:, None], torch.exp(0.5 * log_var)[:, None]),
        )
        weights = log_p + (prior.log_prob(z) - posterior.log_prob(z)).sum(2)
        expected = {
            "reconstruction": -log_p.mean(1),
            "kl": kl_divergence(mean, log_var),
            "elbo": log_p.mean(1) - kl_divergence(mean, log_var),
            "log_likelihood": weights.logsumexp(1) - math.log(samples),
        }
    found = model.score(images, importance_samples=samples, seed=5, first_row=3)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-5, err_msg=name)
    assert (found.seed, found.version, found.setting) == (5, "1", "grey")


def test_the_likelihood_is_the_trainer_s_estimate(
    model: vaeport.Model, digits_run: Path, images: NDArray[np.uint8]
) -> None:
    reference, _ = open_run(digits_run).load_model()
    generator = torch.Generator().manual_seed(0)
    theirs = log_likelihood(reference, torch.from_numpy(to_float(images)), 4000, generator)
    ours = model.score(images, importance_samples=4000, seed=0).log_likelihood
    np.testing.assert_allclose(ours, theirs, atol=0.5)


def test_a_row_does_not_depend_on_the_others(model: vaeport.Model, images: NDArray[np.uint8]) -> None:
    together = model.score(images, importance_samples=3, seed=1)
    for i in range(len(images)):
        alone = model.score(images[i], importance_samples=3, seed=1, first_row=i)
        for name in ("reconstruction", "kl", "elbo", "log_likelihood", "percentile"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[i], err_msg=name)


def test_more_draws_than_one_batch_of_the_decoder_are_the_same(
    model: vaeport.Model, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.score(images, importance_samples=100, seed=1)
    monkeypatch.setattr("vaeport.model.CHUNK_ROWS", 33)
    np.testing.assert_array_equal(model.score(images, importance_samples=100, seed=1).elbo, whole.elbo)


def test_the_bound_is_at_most_zero_for_binary_pixels_and_rises_with_the_draws(
    model: vaeport.Model, images: NDArray[np.uint8]
) -> None:
    binary = 255 * (images > 127).astype(np.uint8)
    bounds = [model.score(binary, importance_samples=k, seed=2).log_likelihood.mean() for k in (1, 10, 1000)]
    assert bounds == sorted(bounds)
    found = model.score(binary, importance_samples=1000, seed=2)
    assert found.setting == "binary"
    assert (found.elbo <= found.log_likelihood).all()
    assert (found.log_likelihood <= 0).all()


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_a_gaussian_s_density_is_scipy_s(spec: ScoringSpec, sigma: float) -> None:
    from scipy.stats import norm

    gaussian = replace(spec, likelihood="gaussian", sigma=sigma)
    random = np.random.default_rng(0)
    images, means = (random.random((4, 1, 8, 8), np.float32) for _ in range(2))
    expected = norm.logpdf(images.astype(float), means.astype(float), sigma).sum((1, 2, 3))
    np.testing.assert_allclose(scoring.log_density(gaussian, images, means), expected, rtol=1e-10)
    assert not scoring.are_grey(gaussian, images).any()


def test_the_percentile_places_an_image_among_the_held_out_ones(
    model: vaeport.Model, digits_run: Path, images: NDArray[np.uint8], spec: ScoringSpec
) -> None:
    held_out = open_run(digits_run).heldout()
    usual = model.score(held_out, seed=0).percentile
    assert usual is not None
    assert 20 < np.median(usual) < 80
    noise = model.score(images, seed=0).percentile
    assert noise is not None
    assert noise.max() == 0.0  # below every held-out image
    assert spec.elbo_quantiles is not None
    middle = scoring.percentiles(spec, np.array([spec.elbo_quantiles["0.5"], 1e9]), np.ones(2, bool))
    np.testing.assert_array_equal(middle, np.array([50.0, 100.0], np.float32))


@pytest.mark.parametrize("quantiles", [None, {}])
def test_without_figures_there_is_no_percentile(spec: ScoringSpec, quantiles: Any) -> None:
    assert scoring.percentiles(replace(spec, elbo_quantiles=quantiles), np.array([-1.0]), np.array([False])) is None


@pytest.mark.parametrize("rows_of_a_piece", [9, 2, 1])
def test_only_grey_images_have_no_percentile_where_pixels_were_binary(
    model: vaeport.Model, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, rows_of_a_piece: int
) -> None:
    monkeypatch.setattr(model, "_scoring", replace(model._scoring, binarization="dynamic"))
    monkeypatch.setattr(scoring, "MAX_LATENTS", rows_of_a_piece)
    mixed = 255 * (images > 127).astype(np.uint8)
    mixed[4, 0, 2, 3] = 100
    found = model.score(mixed, seed=0)
    assert found.percentile is not None
    np.testing.assert_array_equal(np.isnan(found.percentile), np.arange(9) == 4)
    assert found.setting == "grey"
    assert model.score(np.delete(mixed, 4, axis=0), seed=0).setting == "binary"


@pytest.mark.parametrize("log_var", [0.0, -30.0, -35.0, -60.0])
def test_a_narrow_posterior_is_told_from_its_mean(log_var: float) -> None:
    mean = np.full((2, 3), 1.7, np.float32)
    found = scoring.draw(mean, np.full_like(mean, log_var), scoring.Sampling.of(4, 1, 0, 2))
    epsilon = standard_normal(1, 0, 8, 3).astype(np.float64)
    z = mean.astype(np.float64)[0] + math.exp(0.5 * log_var) * epsilon
    expected = 0.5 * (epsilon**2 + log_var - z**2).sum(1)
    np.testing.assert_allclose(found.log_ratio, expected, rtol=1e-10)


def test_the_memory_of_the_densities_does_not_grow_with_the_rows(spec: ScoringSpec) -> None:
    parameters = np.zeros((64, 1, 512, 512), np.float32)
    images = np.zeros((32, 1, 512, 512), np.float32)
    peaks = []
    for rows in (16, 64):  # one piece, and four of them
        tracemalloc.start()
        found = scoring.log_densities(spec, images, 0, 2, parameters[:rows])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        np.testing.assert_allclose(found, -512 * 512 * math.log(2))
    assert peaks[1] < 1.1 * peaks[0]


def test_densities_in_pieces_are_those_at_once(spec: ScoringSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images, parameters = (random.random((rows, 1, 8, 8), np.float32) for rows in (4, 10))
    of_rows = images[np.array([0, 0, 1, 1, 1, 2, 2, 2, 3, 3])]
    expected = scoring.log_density(spec, of_rows, parameters)
    for pixels in (1, 200, 1 << 22):
        monkeypatch.setattr(scoring, "PIECE_PIXELS", pixels)
        np.testing.assert_array_equal(scoring.log_densities(spec, images, 1, 3, parameters), expected)


@pytest.mark.parametrize("samples", [0, -1, scoring.MAX_LATENTS + 1])
def test_draws_outside_their_range_are_refused(model: vaeport.Model, images: NDArray[np.uint8], samples: int) -> None:
    with pytest.raises(InvalidInputError, match=f"importance_samples: expected 1 to 65536, got {samples}"):
        model.score(images, importance_samples=samples)


@pytest.mark.parametrize(("numbers", "text"), BAD_SCORE_NUMBERS)
def test_a_number_that_cannot_be_is_refused_before_images_are_encoded(
    model: vaeport.Model, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, numbers: Any, text: str
) -> None:
    monkeypatch.setattr(model, "_graphs", {})
    with pytest.raises(InvalidInputError, match=text):
        model.score(images, **numbers)


def test_numpy_s_integers_do_not_overflow(model: vaeport.Model, images: NDArray[np.uint8]) -> None:
    first, samples = 2**62, 3
    found = model.score(images, importance_samples=np.int64(samples), seed=1, first_row=np.int64(first))  # type: ignore[arg-type]
    expected = model.score(images, importance_samples=samples, seed=1, first_row=first)
    np.testing.assert_array_equal(found.elbo, expected.elbo)


def test_draws_of_wide_latents_are_fewer(
    model: vaeport.Model, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.score(images, importance_samples=4, seed=1)
    monkeypatch.setattr(scoring, "MAX_NORMALS", 44)  # two images of four draws of five numbers
    np.testing.assert_array_equal(model.score(images, importance_samples=4, seed=1).elbo, whole.elbo)
    with pytest.raises(InvalidInputError, match=r"importance_samples: expected 1 to 8 with 5 latent dim.*, got 9"):
        model.score(images, importance_samples=9)


def test_pieces_of_a_large_array_are_the_whole(
    model: vaeport.Model, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.score(images, importance_samples=5, seed=3, first_row=2)
    monkeypatch.setattr(scoring, "MAX_LATENTS", 20)
    pieces = model.score(images, importance_samples=5, seed=3, first_row=2)
    for name in ("reconstruction", "kl", "elbo", "log_likelihood", "percentile"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name), err_msg=name)


@pytest.mark.parametrize(("seed", "first_row"), [(7, 0), (2**64 - 1, 2**63 - 1)])
def test_the_rows_of_draws_are_those_of_the_docs(seed: int, first_row: int) -> None:
    zeros = np.zeros((1, 3), np.float32)  # a standard normal posterior, so the latents are the normals
    drawn = scoring.draw(zeros, zeros, scoring.Sampling.of(2, seed, first_row, 1))
    assert drawn.latents[1] == pytest.approx(VECTORS[seed, 2 * first_row + 1, 3], rel=1e-6)
