"""A folder of image files."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from training.config import Config
from training.data import memory
from training.data.images import Images, Source
from training.data.prepare import FILE_SCALE, prepare
from training.errors import DataError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
GREY_MODES = frozenset({"1", "L", "LA"})  # Pillow's modes without colour; those with a palette; those with colour:
PALETTE_MODES = frozenset({"P", "PA"})
COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
DEEP_RAW_MODE = re.compile(r";16[BLN]$")  # Pillow's names of channels of 16 bits in a file
CAMERA_FORMAT = "MPO"  # a JPEG with previews or depth maps behind it


def load(folder: Path, config: Config) -> Source:
    """All images below `folder`, as `training.data.prepare` says; the first subfolder of each is its class.

    Raises:
        DataError: no image, more than fits into the memory, or a file that cannot be read or has another size.
    """
    paths = sorted(_image_files(folder))
    if not paths:
        raise DataError(f"{folder}: no image files here or in its subfolders ({', '.join(sorted(IMAGE_SUFFIXES))})")
    grey = [_check_file(path) for path in paths]
    channels = config.channels or (1 if all(grey) else 3)
    labels, classes = _labels(folder, paths)
    return Source(Images(_read_all(folder, paths, channels, config), labels), FILE_SCALE, classes)


def _read_all(folder: Path, paths: list[Path], channels: int, config: Config) -> NDArray[np.uint8]:
    advice = "--image-size makes them smaller, and a .npy of uint8 [N, C, H, W] stays on the disk"
    if config.image_size is not None:  # before the first is brought to it: one alone may be too large
        memory.check_fits(folder, len(paths) * channels * config.image_size**2, advice)
    first = _read(paths[0], channels, config)
    memory.check_fits(folder, len(paths) * first.nbytes, advice)
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    for index, path in enumerate(paths):
        image = _read(path, channels, config)
        if image.shape != first.shape:
            raise DataError(
                f"{path}: {image.shape[2]}x{image.shape[1]} pixels, but {paths[0]} has "
                f"{first.shape[2]}x{first.shape[1]}: all images must have one size; --image-size gives them one"
            )
        pixels[index] = image
    return pixels


def _image_files(folder: Path) -> Iterator[Path]:
    """Image files below `folder`, through links too, but for hidden ones, which file managers leave behind."""
    entered: set[Path] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        resolved = Path(parent).resolve()
        if resolved in entered:  # a link that leads back
            folders.clear()
            continue
        entered.add(resolved)
        folders[:] = [name for name in folders if name[0] != "." and name != "__MACOSX"]
        yield from (Path(parent, n) for n in names if n[0] != "." and Path(n).suffix.lower() in IMAGE_SUFFIXES)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The file, open in Pillow; whatever goes wrong with it meanwhile is a DataError that names it."""
    try:
        with Image.open(path) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # damaged data make Pillow's readers raise nearly anything
        raise DataError(f"{path}: not a readable image: {error}") from error


def _check_file(path: Path) -> bool:
    """Whether the image is grey; DataError if it is not one image of 8 bits per channel."""
    with _opened(path) as image:
        if image.mode not in GREY_MODES | PALETTE_MODES | COLOUR_MODES:  # Pillow would clip them to 255
            raise DataError(f"{path}: expected 8 bits per channel, got Pillow's mode {image.mode!r}; convert it")
        if _is_deep(image):
            raise DataError(f"{path}: expected 8 bits per channel, got 16; convert it")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != CAMERA_FORMAT:
            raise DataError(f"{path}: expected one image, got an animation or pages: {frames}; save each as a file")
        return image.mode in GREY_MODES or (image.mode in PALETTE_MODES and _has_grey_palette(image))


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Channels of 16 bits, where Pillow has 8 and drops the rest without a word."""
    for tile in image.tile:
        raw_mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if DEEP_RAW_MODE.search(str(raw_mode)) or (tile.codec_name == "ppm" and int(rest[0]) > FILE_SCALE):
            return True
    return False


def _has_grey_palette(image: ImageFile.ImageFile) -> bool:
    """No pixel has a colour; what else is in the palette does not matter."""
    colours = prepare(image, 3, None, "center")
    return bool((colours == colours[:1]).all())


def _read(path: Path, channels: int, config: Config) -> NDArray[np.uint8]:
    with _opened(path) as image:
        return prepare(image, channels, config.image_size, config.crop)


def _labels(folder: Path, paths: list[Path]) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """The index of each image's first subfolder among all of them, sorted, -1 without one; and the subfolders.

    None twice if there are no subfolders.
    """
    names = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths]
    classes = tuple(sorted(set(names) - {""}))
    number = {name: index for index, name in enumerate(classes)}
    return (np.array([number.get(name, -1) for name in names], np.int64), classes) if classes else (None, None)
