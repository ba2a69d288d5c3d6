"""Images as a picture file that a person can look at. Loads Pillow when it is called."""

import math
import os

import numpy as np
from numpy.typing import NDArray

from vaeport.arrays import to_uint8
from vaeport.errors import InvalidInputError

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
    from PIL import Image

    count, channels, height, width = images.shape
    if channels not in (1, 3):
        raise InvalidInputError.of("images", expected="1 or 3 channels", got=f"{channels} channels")
    columns = columns or math.ceil(math.sqrt(count))
    factor = max(1, math.ceil(MIN_TILE_PIXELS / max(height, width)))
    tile_width, tile_height = factor * width, factor * height
    size = (
        columns * (tile_width + GAP_PIXELS) - GAP_PIXELS,
        -(-count // columns) * (tile_height + GAP_PIXELS) - GAP_PIXELS,
    )
    grid = Image.new("L" if channels == 1 else "RGB", size, "white")
    for index, pixels in enumerate(to_uint8(images)):
        tile = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        row, column = divmod(index, columns)
        corner = (column * (tile_width + GAP_PIXELS), row * (tile_height + GAP_PIXELS))
        grid.paste(tile.resize((tile_width, tile_height), Image.Resampling.BICUBIC), corner)
    try:
        grid.save(path)
    except ValueError as error:  # Pillow: unknown file extension
        raise InvalidInputError.of("path", expected="a suffix such as .png", got=os.fspath(path)) from error
