"""Images as a picture file that a person can look at. Loads Pillow when it is called."""

import math
import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaeport.arrays import to_uint8
from vaeport.errors import InvalidInputError

if TYPE_CHECKING:
    from PIL import Image

MIN_TILE_PIXELS = 64  # smaller images are enlarged, or nobody would see anything
GAP_PIXELS = 2


def save_grid(images: NDArray[np.float32], path: str | os.PathLike[str], columns: int | None = None) -> None:
    """Write images side by side, in reading order; the format follows from the suffix of `path`.

    Args:
        images: float32 [N, C, H, W] in [0, 1], with 1 or 3 channels.
        path: for example grid.png.
        columns: images in a row; None makes the grid about square.

    Raises:
        InvalidInputError: neither 1 nor 3 channels, or a suffix that Pillow does not write.
        OSError: the file cannot be written.
    """
    count, channels, height, width = images.shape
    if channels not in (1, 3):
        raise InvalidInputError.of("images", expected="1 or 3 channels", got=f"{channels} channels")
    factor = max(1, math.ceil(MIN_TILE_PIXELS / max(height, width)))
    picture = grid(images, columns or math.ceil(math.sqrt(count)), (factor * height, factor * width))
    try:
        picture.save(path)
    except ValueError as error:  # Pillow: unknown file extension
        raise InvalidInputError.of("path", expected="a suffix such as .png", got=os.fspath(path)) from error


def grid(images: NDArray[np.float32], columns: int, tile: tuple[int, int]) -> "Image.Image":
    """Images side by side, in reading order, on white.

    Args:
        images: float32 [N, C, H, W] in [0, 1], with 1 or 3 channels.
        columns: images in a row.
        tile: (height, width) in pixels that each image gets.
    """
    from PIL import Image

    count, channels = images.shape[:2]
    height, width = tile
    rows = -(-count // columns)
    size = (columns * (width + GAP_PIXELS) - GAP_PIXELS, rows * (height + GAP_PIXELS) - GAP_PIXELS)
    picture = Image.new("L" if channels == 1 else "RGB", size, "white")
    for index, pixels in enumerate(to_uint8(images)):
        image = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        row, column = divmod(index, columns)
        corner = (column * (width + GAP_PIXELS), row * (height + GAP_PIXELS))
        picture.paste(image.resize((width, height), Image.Resampling.BICUBIC), corner)
    return picture
