"""From a picture to the pixels that the network is trained on. Repeating these steps gives the same pixels:

1. Open it with Pillow. Of several pictures in a camera's file (MPO), the first.
2. Turn it upright as its EXIF orientation says: `ImageOps.exif_transpose`.
3. Convert it to mode "L" (1 channel) or "RGB" (3). Transparency is dropped, not blended.
4. Bring it to S x S pixels, where there is a size to bring it to. All of it in integers:
   * "center": with s the shorter side, resize each side to (side * S + s // 2) // s, then cut out the S x S pixels from
     left (width - S) // 2 and top (height - S) // 2.
   * "pad": with s the longer side, resize each side to (side * S + s // 2) // s, but at least 1, then put it on S x S
     black pixels at left (S - width) // 2 and top (S - height) // 2.
   Resizing is Pillow's `resize` with `Resampling.BILINEAR`, which averages over what a smaller pixel covers. An image
   that would have more than MAX_RESIZED_PIXELS then is refused.
5. Take the uint8 values [C, H, W] and divide by the scale.
"""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from training.config import Config, ConfigError
from training.data import memory
from training.data.images import Images, Source
from training.errors import DataError

FILE_SCALE = 255.0  # of the 8 bits that step 5 gives
MAX_RESIZED_PIXELS = 1 << 26  # at most 200 MB, for a file that may be far smaller
MODES = {1: "L", 3: "RGB"}

Crop = Literal["center", "pad"]


def prepare(
    image: Image.Image, channels: int, size: int | None, crop: Crop, name: object = "image"
) -> NDArray[np.uint8]:
    """Steps 2 to 5, but for the division: uint8 [C, H, W]. Errors call the image by `name`."""
    upright = ImageOps.exif_transpose(image)
    upright.info.pop("transparency", None)  # or Pillow warns that it drops it
    converted = upright.convert(MODES[channels])
    pixels = np.asarray(converted if size is None else fit(converted, size, crop, name))
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


def fit(image: Image.Image, size: int, crop: Crop, name: object = "image") -> Image.Image:
    """Step 4.

    Raises:
        DataError: an image so long that resizing it would fill the memory.
    """
    reference = min(image.size) if crop == "center" else max(image.size)
    width, height = (max(1, (side * size + reference // 2) // reference) for side in image.size)
    if width * height > MAX_RESIZED_PIXELS:
        raise DataError(
            f"{name}: expected at most {MAX_RESIZED_PIXELS} pixels when the shorter side has {size}, "
            f"got {image.width}x{image.height}"
        )
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    if crop == "center":
        left, top = (width - size) // 2, (height - size) // 2
        return resized.crop((left, top, left + size, top + size))
    padded = Image.new(image.mode, (size, size))  # black
    padded.paste(resized, ((size - width) // 2, (size - height) // 2))
    return padded


def prepare_arrays(name: str, source: Source, config: Config) -> Source:
    """The same for images that came as an array, where `config` asks for another size or number of channels.

    Raises:
        ConfigError: it does, and the pixels are not the 0 to 255 of a picture, or not in memory.
    """
    if all(_target_shape(part, config) == part.pixels.shape for part in source.parts):
        return source
    resident = all(part.resident for part in source.parts)
    if source.scale != FILE_SCALE or not resident:
        raise ConfigError(
            f"--image-size, --channels: only uint8 from 0 to {FILE_SCALE:g} in memory is resized or converted; "
            f"the pixels of {name} are {source.kind}, {'in memory' if resident else 'on the disk'}, and stay "
            f"{'x'.join(str(axis) for axis in source.images.pixels.shape[1:])}"
        )
    images, *test = (_prepare_all(name, part, config) for part in source.parts)
    return replace(source, images=images, test=test[0] if test else None)


def _target_shape(images: Images, config: Config) -> tuple[int, int, int, int]:
    count, channels, height, width = images.pixels.shape
    size = (height, width) if config.image_size is None else (config.image_size, config.image_size)
    return (count, config.channels or channels, *size)


def _prepare_all(name: str, images: Images, config: Config) -> Images:
    shape = _target_shape(images, config)
    memory.check_fits(name, math.prod(shape), "choose a smaller --image-size")
    pixels = np.empty(shape, np.uint8)
    for index, image in enumerate(images.pixels):
        pixels[index] = prepare(_picture(image), shape[1], config.image_size, config.crop, f"{name}, image {index}")
    return Images(pixels, images.labels)


def _picture(image: NDArray[Any]) -> Image.Image:
    """[C, H, W] as Pillow has it."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
