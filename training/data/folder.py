"""A folder of image files."""

import contextlib
import re
from collections import Counter
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

# Not all that Pillow has a reader for: some run another program, some wait for a plug-in, some drop bits.
IMAGE_SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
        *(".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
    )
)
PART_NAMES = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the one to test on, if there are several
NAMED_SUFFIXES = 5  # of the files passed over, at most
GREY_MODES = frozenset({"1", "L", "LA"})  # Pillow's modes without colour; those with a palette; those with colour:
PALETTE_MODES = frozenset({"P", "PA"})
COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
DEEP_RAW_MODE = re.compile(r";16[BLN]$")  # Pillow's names of channels of 16 bits in a file
CAMERA_FORMAT = "MPO"  # a JPEG with previews or depth maps behind it


def load(folder: Path, config: Config) -> Source:
    """All images below `folder`, as `training.data.prepare` says; the first subfolder of each is its class.

    Raises:
        DataError: no image, more than fits into the memory, a file that cannot be read or has another size, or
            subfolders that are parts of a data set, not classes.
    """
    files, loops = _files(folder)
    paths = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    ignored = _ignored(folder, files)
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder}: no image files here or in its subfolders ({suffixes}){'; '.join(['', *ignored])}")
    labels, classes = _labels(folder, paths)
    _check_classes(folder, classes or ())
    grey = [_check_file(path) for path in paths]
    channels = config.channels or (1 if all(grey) else 3)
    pixels, transparent = _read_all(folder, paths, channels, config)
    notes = [*ignored, *(f"{link}: leads back to a folder that it is in, and is not followed" for link in loops)]
    if transparent:
        notes.append(
            f"{folder}: the transparency of {transparent} images is dropped, and what is drawn by it alone with it"
        )
    return Source(Images(pixels, labels), FILE_SCALE, classes, notes=tuple(notes))


def _read_all(folder: Path, paths: list[Path], channels: int, config: Config) -> tuple[NDArray[np.uint8], int]:
    """The pixels [N, C, H, W], and how many of the images have a transparency that varies."""
    advice = "--image-size makes them smaller, and a .npy of uint8 [N, C, H, W] stays on the disk"
    if config.image_size is not None:  # before the first is brought to it: one alone may be too large
        memory.check_fits(folder, len(paths) * channels * config.image_size**2, advice)
    first, _ = _read(paths[0], channels, config)
    memory.check_fits(folder, len(paths) * first.nbytes, advice)
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    transparent = 0
    for index, path in enumerate(paths):
        image, varies = _read(path, channels, config)
        transparent += varies
        if image.shape != first.shape:
            raise DataError(
                f"{path}: {image.shape[2]}x{image.shape[1]} pixels, but {paths[0]} has "
                f"{first.shape[2]}x{first.shape[1]}: all images must have one size; --image-size gives them one"
            )
        pixels[index] = image
    return pixels, transparent


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below `folder`, sorted, through links too, but for hidden ones, which file managers leave behind.

    And the links to folders that lead back to one that they are in.
    """
    files: list[Path] = []
    loops: list[Path] = []
    waiting: list[tuple[Path, tuple[Path, ...]]] = [(folder, (folder.resolve(),))]
    while waiting:
        parent, inside = waiting.pop()
        for path in parent.iterdir():
            if path.name[0] == "." or path.name == "__MACOSX":
                continue
            if not path.is_dir():
                files.append(path)
            elif any(each.is_relative_to(path.resolve()) for each in inside):
                loops.append(path)
            else:
                waiting.append((path, (*inside, path.resolve())))
    return sorted(files), sorted(loops)


def _ignored(folder: Path, files: list[Path]) -> list[str]:
    """What to say about files that are not taken for images."""
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in files)
    others = [(suffix, count) for suffix, count in suffixes.most_common() if suffix not in IMAGE_SUFFIXES]
    if not others:
        return []
    named = [suffix for suffix, _ in others[:NAMED_SUFFIXES]] + ["..."] * (len(others) > NAMED_SUFFIXES)
    return [f"{folder}: {sum(count for _, count in others)} files ignored ({', '.join(named)})"]


def _check_classes(folder: Path, classes: tuple[str, ...]) -> None:
    """Raise DataError for classes that are the parts of a data set: its test images would be trained on."""
    parts = {name.lower(): name for name in classes if name.lower() in PART_NAMES}
    if not parts or len(parts) < min(2, len(classes)):
        return
    train = next((folder / name for low, name in parts.items() if low.startswith("train")), None)
    test = next((folder / parts[low] for low in TEST_NAMES if low in parts), None)
    flags = [f"--data {train}"] * (train is not None) + [f"--test-data {test}"] * (test is not None)
    raise DataError(
        f"{folder}: its subfolders {' and '.join(parts.values())} are taken for classes, but named like the parts of a "
        f"data set: give {' '.join(flags)}, or rename them"
    )


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


def _read(path: Path, channels: int, config: Config) -> tuple[NDArray[np.uint8], bool]:
    """The pixels [C, H, W], and whether a transparency varies that they lack."""
    with _opened(path) as image:
        varies = image.has_transparency_data and not _is_constant(image.convert("RGBA").getchannel("A"))
        return prepare(image, channels, config.image_size, config.crop, path), varies


def _is_constant(channel: Image.Image) -> bool:
    low, high = channel.getextrema()
    return low == high


def _labels(folder: Path, paths: list[Path]) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """The index of each image's first subfolder among all of them, sorted, -1 without one; and the subfolders.

    None twice if there are no subfolders.
    """
    names = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths]
    classes = tuple(sorted(set(names) - {""}))
    number = {name: index for index, name in enumerate(classes)}
    return (np.array([number.get(name, -1) for name in names], np.int64), classes) if classes else (None, None)
