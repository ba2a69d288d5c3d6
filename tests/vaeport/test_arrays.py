"""What comes in is brought into one form, or refused with the field, what was expected and what came."""

from collections.abc import Callable

import numpy as np
import pytest

from vaeport.arrays import as_images, as_latents, to_float, to_uint8
from vaeport.errors import InvalidInputError

GREY = (1, 4, 3)
COLOUR = (3, 4, 5)


@pytest.mark.parametrize(
    ("shape", "image_shape", "batch"),
    [
        ((7, 1, 4, 3), GREY, 7),
        ((7, 4, 3), GREY, 7),
        ((1, 4, 3), GREY, 1),
        ((4, 3), GREY, 1),
        ((7, 3, 4, 5), COLOUR, 7),
        ((3, 4, 5), COLOUR, 1),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_every_accepted_shape_becomes_a_batch(
    shape: tuple[int, ...], image_shape: tuple[int, int, int], batch: int, dtype: type[np.generic]
) -> None:
    images = as_images(np.ones(shape, dtype), image_shape)
    assert images.shape == (batch, *image_shape)
    assert images.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    assert images.flags.c_contiguous


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 5, 3), np.uint8), r"images: expected shape \[rows, 1, 4, 3\], got shape \[2, 5, 3\]"),
        (np.zeros((2, 4, 3, 1), np.uint8), r"\(channels before height and width\), got shape \[2, 4, 3, 1\]"),
        (np.zeros(12, np.uint8), r"got shape \[12\]"),
        (np.zeros((0, 4, 3), np.uint8), "images: expected at least 1 row, got 0 rows"),
        (np.zeros((2, 4, 3), np.int64), r"images: expected uint8, or float in \[0, 1\], got dtype int64"),
        (np.zeros((2, 4, 3), np.complex64), "got dtype complex64"),
        (np.full((2, 4, 3), 255.0), r"images: expected values in \[0, 1\], got 255.0 at \[0, 0, 0, 0\]"),
        (np.full((2, 4, 3), -1e-6), r"expected values in \[0, 1\]"),
        (np.full((2, 4, 3), 1e300), r"expected values in \[0, 1\], got 1e\+300"),
    ],
)
def test_other_images_are_refused_by_name(images: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        as_images(images, GREY)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_bad_pixel_is_named(bad: float) -> None:
    images = np.full((2, 1, 4, 3), 0.5)
    images[1, 0, 2, 1] = bad
    with pytest.raises(InvalidInputError, match=rf"got {bad} at \[1, 0, 2, 1\]"):
        as_images(images, GREY)


def test_latents_become_float32_rows() -> None:
    assert as_latents(np.zeros((3, 5)), 5).dtype == np.float32
    assert as_latents(np.zeros(5, np.float16), 5).shape == (1, 5)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((3, 4)), r"latents: expected shape \[rows, 5\], got shape \[3, 4\]"),
        (np.zeros((1, 3, 5)), r"got shape \[1, 3, 5\]"),
        (np.float64(0), r"got shape \[\]"),
        (np.zeros((3, 5), np.int32), "latents: expected a float dtype, got dtype int32"),
        (np.zeros((0, 5)), "latents: expected at least 1 row"),
        (np.full((3, 5), np.nan), "latents: expected values finite, got nan"),
        (np.full((3, 5), 1e300), "latents: expected values finite, got inf"),
    ],
)
def test_other_latents_are_refused_by_name(latents: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        as_latents(latents, 5)


@pytest.mark.parametrize("call", [lambda v: as_images(v, (1, 2, 2)), lambda v: as_latents(v, 2)])
def test_rows_of_different_lengths_are_no_array(call: Callable[[object], object]) -> None:
    with pytest.raises(InvalidInputError, match="expected an array"):
        call([[1.0, 2.0], [3.0]])


def test_bytes_and_floats_are_each_others_inverse() -> None:
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(to_float(every)), every)
    assert np.array_equal(to_float(every), (every.astype(np.float64) / 255).astype(np.float32))


def test_half_way_bytes_go_to_the_even_one() -> None:
    assert to_uint8(np.array([0.5 / 255, 1.5 / 255, 2.5 / 255], np.float32)).tolist() == [0, 2, 2]
