"""Images as a picture file that a person can look at. Loads Pillow when it is called."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaeport.arrays import to_uint8
from vaeport.errors import InvalidInputError

if TYPE_CHECKING:
    from PIL import Image

MIN_TILE_PIXELS = 64  # smaller images are enlarged to be visible
GAP_PIXELS = 2
FONT_PIXELS, LABEL_GAP_PIXELS = 12, 4


def save_grid(
    images: NDArray[np.float32],
    path: str | os.PathLike[str],
    columns: int | None = None,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> None:
    """Write images side by side, in reading order; the format follows from the suffix of `path`.

    Args:
        images: float32 [N, C, H, W] in [0, 1], with 1 or 3 channels.
        path: for example grid.png.
        columns: images in a row; None makes the grid about square.
        row_names, column_names: labels left of each row and above each column, if any.

    Raises:
        InvalidInputError: the images have neither 1 nor 3 channels, or Pillow does not write the suffix.
        OSError: the file cannot be written.
    """
    count, channels, height, width = images.shape
    if channels not in (1, 3):
        raise InvalidInputError.of("images", expected="1 or 3 channels", got=f"{channels} channels")
    if not is_written(path):
        raise InvalidInputError.of("path", expected="a suffix such as .png", got=os.fspath(path))
    factor = max(1, math.ceil(MIN_TILE_PIXELS / max(height, width)))
    tile = (factor * height, factor * width)
    picture = grid(images, columns or math.ceil(math.sqrt(count)), tile)
    labelled(picture, tile, row_names, column_names).save(path)


def is_written(path: str | os.PathLike[str]) -> bool:
    """Whether Pillow writes pictures with the suffix of `path`."""
    from PIL import Image

    return Image.registered_extensions().get(Path(path).suffix.lower()) in Image.SAVE


def grid(images: NDArray[np.float32], columns: int, tile: tuple[int, int]) -> "Image.Image":
    """Images side by side, in reading order, on white. Enlarged smoothly: a digit of 8x8 squares is hard to read.

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


def labelled(
    picture: "Image.Image", tile: tuple[int, int], row_names: Sequence[str], column_names: Sequence[str] = ()
) -> "Image.Image":
    """A `grid` with labels left of its rows and above its columns, as far as there are labels.

    Args:
        picture: the grid.
        tile: the tile that it was made with.
        row_names, column_names: from the top, and from the left.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not row_names and not column_names:
        return picture
    font = ImageFont.load_default(FONT_PIXELS)
    widest = max((font.getlength(name) for name in row_names), default=0)
    left = math.ceil(widest) + 2 * LABEL_GAP_PIXELS if row_names else 0
    top = FONT_PIXELS + 2 * LABEL_GAP_PIXELS if column_names else 0
    whole = Image.new(picture.mode, (left + picture.width, top + picture.height), "white")
    whole.paste(picture, (left, top))
    draw = ImageDraw.Draw(whole)
    for row, name in enumerate(row_names):
        middle = top + row * (tile[0] + GAP_PIXELS) + tile[0] // 2
        draw.text((left - LABEL_GAP_PIXELS, middle), name, fill="black", font=font, anchor="rm")
    for column, name in enumerate(column_names):
        middle = left + column * (tile[1] + GAP_PIXELS) + tile[1] // 2
        draw.text((middle, top // 2), name, fill="black", font=font, anchor="mm")
    return whole
