"""Images of one's own: a folder of image files, a .npy or a .npz."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
GREY_MODES = frozenset({"1", "L", "LA"})  # Pillow's modes without colour; with it, or with a palette:
COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"})

Pixels = NDArray[np.uint8] | NDArray[np.float32]
Loaded = tuple[Pixels, NDArray[np.int64] | None, float]


def load(path: Path) -> Loaded:
    """Pixels [N, C, H, W], labels [N] or None, and the scale that brings the pixels into [0, 1].

    Raises:
        DataError: naming the file, what was expected and what came.
    """
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder, and no data set of that name (digits, mnist, fashion-mnist)")
    if path.suffix == ".npy":
        array = _read_numpy(path)
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path}: holds several arrays: expected a .npz suffix")
        return _from_array(path, array, None)
    if path.suffix == ".npz":
        return _load_npz(path)
    raise DataError(f"{path}: expected a folder of images, a .npy or a .npz")


def _load_npz(path: Path) -> Loaded:
    arrays = _read_numpy(path)
    if not isinstance(arrays, dict) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise DataError(f"{path}: not a .npz, or holds something else than arrays")
    if "images" in arrays and arrays.keys() <= {"images", "labels"}:
        return _from_array(path, arrays["images"], arrays.get("labels"))
    if len(arrays) == 1:
        return _from_array(path, next(iter(arrays.values())), None)
    raise DataError(f"{path}: expected one array, or `images` and `labels`, got {', '.join(arrays) or 'nothing'}")


def _read_numpy(path: Path) -> Any:
    """The array of a .npy, or all arrays of a .npz by name. Pickled objects are never loaded."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except Exception as error:  # zipfile and zlib have errors of their own
        raise DataError(f"{path}: damaged: {error}") from error


def _from_array(path: Path, array: NDArray[Any], labels: NDArray[Any] | None) -> Loaded:
    if array.ndim == 3:
        array = array[:, np.newaxis]
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise DataError(
            f"{path}: expected images [N, H, W], or [N, C, H, W] with 1 or 3 channels, got shape {list(array.shape)}"
        )
    if labels is not None and (labels.shape != array.shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(
            f"{path}: expected {len(array)} integer labels, got {labels.dtype} of shape {list(labels.shape)}"
        )
    pixels, scale = _check_pixels(path, array)
    return pixels, None if labels is None else labels.astype(np.int64), scale


def _check_pixels(path: Path, array: NDArray[Any]) -> tuple[Pixels, float]:
    """Pixels in the range of the Bernoulli likelihood, [0, 1] once divided by the scale."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8), 1.0
    if array.dtype == np.uint8:
        if array.max() == 1:
            raise DataError(f"{path}: uint8 pixels mean value / 255, but none is above 1; save binary images as bool")
        return np.ascontiguousarray(array), 255.0
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path}: expected pixels of uint8, bool, or float in [0, 1], got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):  # false for NaN, too
        raise DataError(
            f"{path}: the Bernoulli likelihood takes float pixels in [0, 1], got {low:g} to {high:g}; "
            "save 0 to 255 as uint8, or divide by 255"
        )
    return np.ascontiguousarray(array, np.float32), 1.0


def _load_folder(folder: Path) -> Loaded:
    paths = sorted(_image_files(folder))
    if not paths:
        raise DataError(f"{folder}: no image files here or in its subfolders ({', '.join(sorted(IMAGE_SUFFIXES))})")
    grey = {_mode(path) for path in paths} <= GREY_MODES
    first = _read_image(paths[0], grey)
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    for index, path in enumerate(paths):
        image = _read_image(path, grey)
        if image.shape != first.shape:
            raise DataError(
                f"{path}: {image.shape[2]}x{image.shape[1]} pixels, but {paths[0]} has "
                f"{first.shape[2]}x{first.shape[1]}: all images must have one size"
            )
        pixels[index] = image
    checked, scale = _check_pixels(folder, pixels)
    return checked, _labels(folder, paths), scale


def _open(path: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error


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


def _mode(path: Path) -> str:
    with _open(path) as image:
        mode: str = image.mode
    if mode not in GREY_MODES | COLOUR_MODES:  # 16 and 32 bits, which Pillow would clip to 255
        raise DataError(f"{path}: expected 8 bits per channel, got Pillow's mode {mode!r}")
    return mode


def _read_image(path: Path, grey: bool) -> NDArray[np.uint8]:
    """[1 or 3, H, W], upright; transparency is dropped."""
    from PIL import ImageOps

    with _open(path) as image:
        try:
            upright = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow's decoders raise on damaged data
            raise DataError(f"{path}: not a readable image: {error}") from error
        pixels = np.asarray(upright)
    return pixels[np.newaxis] if grey else pixels.transpose(2, 0, 1)


def _labels(folder: Path, paths: list[Path]) -> NDArray[np.int64] | None:
    """The index of each image's first subfolder among all of them, sorted; -1 without one, None if none has one."""
    names = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths]
    number = {name: index for index, name in enumerate(sorted(set(names) - {""}))}
    return np.array([number.get(name, -1) for name in names], np.int64) if number else None
