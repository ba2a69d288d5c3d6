"""Images as an array: a .npy, or a .npz."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data import memory
from training.data.images import Images, Pixels, Source
from training.errors import DataError

MAPPED_ADVICE = "a .npy of uint8 [N, C, H, W] stays on the disk"
FIRST_IMAGES = 1000  # to look at before all of a file is read
MAX_LABEL = 2**31


def load_npy(path: Path) -> Source:
    """The images of a .npy. One of uint8 or bool that is too large for the memory stays on the disk.

    Raises:
        DataError: naming the file, what was expected and what came.
    """
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if mapped.dtype in (np.uint8, np.bool_) and not memory.fits(mapped.nbytes):
        return _from_array(path, mapped, None)
    memory.check_fits(path, mapped.nbytes, MAPPED_ADVICE)
    return _from_array(path, np.array(mapped, order="C"), None)


def load_npz(path: Path) -> Source:
    """The images of a .npz: its only array; or `images`, and `labels` [N] of integers.

    Raises:
        DataError: as above; also if it does not fit into the memory.
    """
    arrays = _read_archive(path)
    if "images" in arrays and arrays.keys() <= {"images", "labels"}:
        return _from_array(path, arrays["images"], arrays.get("labels"))
    if len(arrays) == 1:
        return _from_array(path, next(iter(arrays.values())), None)
    raise DataError(f"{path}: expected one array, or `images` and `labels`, got {', '.join(arrays) or 'nothing'}")


def _read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays by name. Pickled objects are never loaded."""
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                memory.check_fits(path, sum(entry.file_size for entry in archive.infolist()), MAPPED_ADVICE)
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False))
    except DataError:
        raise
    except Exception as error:  # zipfile and zlib have errors of their own
        raise DataError(f"{path}: cannot be read as a .npz: {error}") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise DataError(f"{path}: holds something else than arrays")
    return arrays


def _from_array(path: Path, array: NDArray[Any], labels: NDArray[Any] | None) -> Source:
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
    if labels is not None and not (labels.min() >= -1 and labels.max() < MAX_LABEL):
        raise DataError(
            f"{path}: expected labels from -1 (none) to {MAX_LABEL - 1}, got {labels.min()} to {labels.max()}"
        )
    pixels, scale = _check_pixels(path, array)
    images = Images(pixels, None if labels is None else labels.astype(np.int64))
    return Source(images, scale, binary=scale == 1.0 and pixels.dtype == np.uint8)


def _check_pixels(path: Path, array: NDArray[Any]) -> tuple[Pixels, float]:
    """The pixels, and the scale that brings them into [0, 1]. Floats that are all 0 or 1 become bytes, as bool does."""
    if array.dtype == np.bool_:
        return array.view(np.uint8), 1.0
    if array.dtype == np.uint8:
        if array[:FIRST_IMAGES].max() <= 1 and array.max() == 1:
            raise DataError(f"{path}: uint8 pixels mean value / 255, but none is above 1; save binary images as bool")
        return array, 255.0
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path}: expected pixels of uint8, bool, or float in [0, 1], got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):  # false for NaN, too
        raise DataError(
            f"{path}: float pixels must be in [0, 1], got {low:g} to {high:g}; save 0 to 255 as uint8, or divide by 255"
        )
    if array.dtype != np.float32:
        memory.check_fits(path, 4 * array.size, MAPPED_ADVICE)
    if all(np.isin(rows, (0.0, 1.0)).all() for rows in np.array_split(array, -(-len(array) // FIRST_IMAGES))):
        return array.astype(np.uint8, order="C"), 1.0
    return np.ascontiguousarray(array, np.float32), 1.0
