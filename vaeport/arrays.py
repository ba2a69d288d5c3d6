"""Checks of input arrays and their shapes: the same rules in the server, in the client and in-process."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport.errors import InvalidInputError


def as_images(images: ArrayLike, image_shape: tuple[int, int, int]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Bring images into the form that is computed and sent: `check_images`, then `as_pixels`."""
    return as_pixels(check_images(images, image_shape))


def check_images(images: ArrayLike, image_shape: tuple[int, int, int]) -> NDArray[Any]:
    """Check images, and bring them into shape. An array is not copied, so it may be larger than memory.

    Args:
        images: [N, C, H, W], one image [C, H, W], and for grey models also [N, H, W] or one image [H, W].
        image_shape: (C, H, W) of the model.

    Returns:
        [N, C, H, W], uint8 (meaning value / 255) or any float dtype.

    Raises:
        InvalidInputError: a wrong shape or dtype, no rows, or a value that is NaN, infinite or outside [0, 1].
    """
    array = _as_array("images", images)
    shaped: NDArray[Any] = array.reshape(_batch_shape(array.shape, image_shape))
    if shaped.dtype == np.uint8:
        return shaped
    if not np.issubdtype(shaped.dtype, np.floating):
        raise InvalidInputError.of("images", expected="uint8, or float in [0, 1]", got=f"dtype {array.dtype}")
    check_range("images", shaped, 0.0, 1.0)  # before any cast, which could turn 1e300 into infinity
    return shaped


def as_pixels(images: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Checked images, C-contiguous; uint8 stays uint8, every float becomes float32."""
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images, dtype=np.uint8)
    return np.ascontiguousarray(images, dtype=np.float32)


def as_latents(latents: ArrayLike, latent_dim: int) -> NDArray[np.float32]:
    """Bring latents into the form that is computed and sent.

    Args:
        latents: [N, latent_dim] or one latent [latent_dim], any float dtype.
        latent_dim: the model's number of latent dimensions.

    Returns:
        float32 [N, latent_dim], C-contiguous.

    Raises:
        InvalidInputError: a wrong shape or dtype, no rows, or a value that is NaN or infinite in float32.
    """
    array = _as_array("latents", latents)
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidInputError.of("latents", expected="a float dtype", got=f"dtype {array.dtype}")
    if array.ndim not in (1, 2) or array.shape[-1] != latent_dim:
        raise InvalidInputError.of("latents", expected=f"shape [rows, {latent_dim}]", got=f"shape {list(array.shape)}")
    check_rows("latents", array.size // latent_dim)
    with np.errstate(over="ignore"):  # an overflow becomes infinite, and is refused by name below
        rows = np.ascontiguousarray(array.reshape(-1, latent_dim), dtype=np.float32)
    limit = float(np.finfo(np.float32).max)
    check_range("latents", rows, -limit, limit)
    return rows


def check_rows(field: str, rows: int) -> None:
    """Raise InvalidInputError unless there is at least one row."""
    if rows < 1:
        raise InvalidInputError.of(field, expected="at least 1 row", got=f"{rows} rows")


def check_range(field: str, values: NDArray[np.floating], low: float, high: float) -> None:
    """Raise InvalidInputError, naming the first wrong value, unless all `values` are in [low, high]. NaN never is."""
    if low <= values.min() and values.max() <= high:  # false for NaN, which both reductions pass on
        return
    offenders = ~((values >= low) & (values <= high))
    index = tuple(int(i) for i in np.argwhere(offenders)[0])
    bounds = f"in [{low:g}, {high:g}]" if high <= 1.0 else "finite"
    raise InvalidInputError.of(field, expected=f"values {bounds}", got=f"{values[index]} at {list(index)}")


def to_float(
    images: NDArray[np.uint8] | NDArray[np.float32], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Pixels as the graphs take them: uint8 divided by 255 (correctly rounded), float32 as it is.

    With `out` the result is written there, whatever the dtype.
    """
    if images.dtype == np.uint8:
        floats: NDArray[np.float32] = np.divide(images, np.float32(255), out=out, dtype=np.float32)
        return floats
    if out is None:
        return images.astype(np.float32, copy=False)
    np.copyto(out, images)
    return out


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels in [0, 1] as bytes: 255 times the value, to the nearest integer, ties to even."""
    pixels: NDArray[np.uint8] = np.rint(images * np.float32(255)).astype(np.uint8)
    return pixels


def _batch_shape(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """[N, C, H, W] for an accepted shape, or InvalidInputError."""
    if len(shape) == 4 and shape[1:] == image_shape:
        batch = shape
    elif shape == image_shape:
        batch = (1, *shape)
    elif image_shape[0] == 1 and len(shape) in (2, 3) and shape[-2:] == image_shape[1:]:
        batch = (1 if len(shape) == 2 else shape[0], *image_shape)
    else:
        expected = f"shape [rows, {', '.join(map(str, image_shape))}]"
        if len(shape) >= 3 and (shape[-1], *shape[-3:-1]) == image_shape:
            expected += " (channels before height and width)"
        raise InvalidInputError.of("images", expected=expected, got=f"shape {list(shape)}")
    check_rows("images", batch[0])
    return batch


def _as_array(field: str, value: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of different lengths, or not an array at all
        raise InvalidInputError.of(field, expected="an array", got=error) from error
