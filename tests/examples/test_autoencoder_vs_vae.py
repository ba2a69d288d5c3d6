"""The precision of samples, where it is known."""

import numpy as np
import pytest

from examples.autoencoder_vs_vae import precision


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 16))


def test_samples_that_are_real_images_have_precision_one() -> None:
    assert precision(images(50), images(50)) == 1.0


def test_samples_far_away_have_precision_nought() -> None:
    assert precision(images(50), images(50) + 10.0) == 0.0


def test_each_sample_counts_for_itself() -> None:
    real = images(50)
    assert precision(real, np.concatenate((real[:30], real[:10] + 10.0))) == 0.75


@pytest.mark.parametrize(("neighbours", "expected"), [(1, 0.0), (2, 1.0)])
def test_the_ball_of_an_image_ends_at_its_kth_neighbour(neighbours: int, expected: float) -> None:
    real = np.array([[0.0], [1.0], [3.0], [4.0]])  # 1 to the first neighbour everywhere; 3 or 2 to the second
    assert precision(real, np.array([[-1.5], [2.0 + 3.9]]), neighbours) == expected
