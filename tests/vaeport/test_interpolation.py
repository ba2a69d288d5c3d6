"""The way from one latent to another."""

import numpy as np
import pytest

from vaeport.interpolation import latents_between

A, B = np.array([3.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


@pytest.mark.parametrize("spherical", [False, True])
def test_both_ends_are_there_to_the_bit(spherical: bool) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 20)).astype(np.float32)
    latents = latents_between(a, b, 7, spherical=spherical)
    assert latents.shape == (7, 20)
    assert latents.dtype == np.float32
    assert np.array_equal(latents[0], a)
    assert np.array_equal(latents[-1], b)


def test_a_line_has_equal_steps() -> None:
    assert latents_between(A, B, 3, spherical=False).tolist() == [[3, 0], [1.5, 0.5], [0, 1]]


def test_a_great_circle_has_equal_angles_and_keeps_the_length() -> None:
    latents = latents_between(A / np.float32(3), B, 4, spherical=True).astype(np.float64)
    angles = np.degrees(np.arctan2(latents[:, 1], latents[:, 0]))
    np.testing.assert_allclose(angles, [0, 30, 60, 90], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(latents, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("b", [2 * A, -A, 0 * A, A])
def test_where_there_is_no_great_circle_the_way_is_straight(b: np.ndarray) -> None:
    assert np.array_equal(latents_between(A, b, 5, spherical=True), latents_between(A, b, 5, spherical=False))
    assert np.isfinite(latents_between(A, b, 5, spherical=True)).all()
