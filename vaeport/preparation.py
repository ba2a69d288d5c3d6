"""From a picture to an input of the encoder: what training did to an image file, as the manifest says.

docs/package-format.md, section Preprocessing, has the steps; training/data/prepare.py takes them in training, and a
test checks that both give the same numbers. Loads Pillow when it is called.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vaeport.errors import InvalidInputError
from vaeport.manifest import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

BYTE_SCALE = 255.0  # uint8 means value / 255 everywhere else
MODES = {1: "L", 3: "RGB"}
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
DEEP_RAW_MODE = re.compile(r";16[BLN]$")  # Pillow's names of channels of 16 bits in a file
CAMERA_FORMAT = "MPO"  # a JPEG followed by previews or depth maps; the first image is the picture
MAX_RESIZED_PIXELS = 1 << 26  # before the middle is cut out: at most 200 MB, for a file that may be far smaller
CROPS, BINARIZATIONS = ("none", "center", "pad"), ("none", "threshold", "dynamic", "static")


def prepare_file(path: str | os.PathLike[str], how: Preprocessing) -> NDArray[np.uint8] | NDArray[np.float32]:
    """`prepare` of a picture in a file.

    Raises:
        InvalidInputError: it is not a readable picture, or what `prepare` raises.
        OSError: the file cannot be opened.
    """
    from PIL import Image

    with open(path, "rb") as file, readable(os.fspath(path)), Image.open(file) as image:  # noqa: PTH123 - any path-like
        return prepare(image, how, os.fspath(path))


def prepare(image: "Image.Image", how: Preprocessing, name: str = "images") -> NDArray[np.uint8] | NDArray[np.float32]:
    """A picture as the encoder takes it: [C, H, W], uint8 where that means the same as in training, else float32.

    Args:
        image: a Pillow image of 8 bits per channel.
        how: what training did.
        name: its name in errors.

    Raises:
        InvalidInputError: it has more bits, several pictures, a pixel over the scale, another size than all images in
            training had, or is so long that resizing it would fill the memory.
    """
    _check_known(how)
    _check_picture(image, name)
    pixels = _pixels(image, how, name)
    if pixels.max() > how.scale:
        raise InvalidInputError.of(name, expected=f"pixels up to {how.scale:g}", got=pixels.max())
    if how.scale == BYTE_SCALE and how.binarization != "threshold":
        return pixels
    scaled: NDArray[np.float32] = np.divide(pixels, np.float32(how.scale), dtype=np.float32)
    return (scaled > 0.5).astype(np.float32) if how.binarization == "threshold" else scaled


def _pixels(image: "Image.Image", how: Preprocessing, name: str) -> NDArray[np.uint8]:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    upright.info.pop("transparency", None)  # or Pillow warns that it drops it
    converted = upright.convert(MODES[how.channels])
    height, width = how.size
    if how.crop == "none" and converted.size != (width, height):
        got = f"{converted.width}x{converted.height}"
        raise InvalidInputError.of(name, expected=f"{width}x{height} pixels, as all images in training", got=got)
    pixels = np.asarray(converted if how.crop == "none" else _fit(converted, height, crop=how.crop, name=name))
    return np.ascontiguousarray(pixels[np.newaxis] if how.channels == 1 else pixels.transpose(2, 0, 1))


def _fit(image: "Image.Image", size: int, *, crop: str, name: str) -> "Image.Image":
    """Size x size pixels: the middle for "center", the whole between black bars for "pad"."""
    from PIL import Image

    decisive = min(image.size) if crop == "center" else max(image.size)
    width, height = (max(1, (side * size + decisive // 2) // decisive) for side in image.size)
    if width * height > MAX_RESIZED_PIXELS:
        expected = f"at most {MAX_RESIZED_PIXELS} pixels when the shorter side has {size}"
        raise InvalidInputError.of(name, expected=expected, got=f"{image.width}x{image.height}")
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    if crop == "center":
        return resized.crop((left, top, left + size, top + size))
    square = Image.new(image.mode, (size, size))  # black
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return square


def _check_known(how: Preprocessing) -> None:
    """Check that this version knows the preprocessing: a later server may describe one that it does not know."""
    if how.crop not in CROPS or how.binarization not in BINARIZATIONS or how.channels not in MODES:
        raise InvalidInputError(f"images: this version does not know how to prepare a picture for this model: {how}")


def _check_picture(image: "Image.Image", name: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != CAMERA_FORMAT:
        raise InvalidInputError.of(name, expected="one image", got=f"an animation or pages: {frames}")
    if image.mode not in EIGHT_BIT_MODES or _is_deep(image):  # Pillow would clip them, or drop bits
        raise InvalidInputError.of(name, expected="8 bits per channel", got=f"more, in Pillow's mode {image.mode!r}")


def _is_deep(image: "Image.Image") -> bool:
    """Whether channels have 16 bits in the file, of which Pillow silently drops half."""
    for tile in getattr(image, "tile", ()):
        raw_mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if DEEP_RAW_MODE.search(str(raw_mode)) or (tile.codec_name == "ppm" and int(rest[0]) > BYTE_SCALE):
            return True
    return False


@contextlib.contextmanager
def readable(path: str = "") -> Iterator[None]:
    """Turn any error into an InvalidInputError that names the file, if there is one.

    Damaged data make Pillow's readers raise nearly anything.
    """
    try:
        yield
    except InvalidInputError:
        raise
    except Exception as error:
        got = f"{path}: {error}" if path else error
        raise InvalidInputError.of("images", expected="a readable picture", got=got) from error
