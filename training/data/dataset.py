"""What a data set is, and where each kind comes from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data import builtin, files, idx
from training.errors import DataError

TEST_FRACTION = 0.1  # of a data set without a test set of its own


@dataclass(frozen=True, slots=True)
class Images:
    """Images in memory.

    Attributes:
        pixels: [N, C, H, W], uint8, or float32 for data that came as floats.
        labels: [N] integers, or None.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: NDArray[np.int64]) -> "Images":
        """The images at `index`, in that order."""
        return Images(self.pixels[index], None if self.labels is None else self.labels[index])


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set, split.

    Attributes:
        name: as it was asked for; of a path the last component, since the rest belongs to this machine.
        train, test: the two parts.
        scale: a pixel divided by it lies in [0, 1].
        digest: "sha256:..." over the pixels and labels of both parts before the split.
    """

    name: str
    train: Images
    test: Images
    scale: float
    digest: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.train.pixels.shape
        return channels, height, width


def load(name: str, data_root: Path, seed: int) -> Dataset:
    """Load a data set by name or path.

    Args:
        name: "digits", "mnist", "fashion-mnist", or a path to a folder of images, a .npy or a .npz.
        data_root: where the named sets lie, or are downloaded to.
        seed: of the split, for a set without a test part of its own.

    Raises:
        DataError: nothing there, unreadable, shapes that differ, values out of range, or too few images.
    """
    if name in idx.DATASETS:
        (pixels, labels), (test_pixels, test_labels) = idx.load(name, data_root)
        train, test = Images(pixels, labels), Images(test_pixels, test_labels)
        return Dataset(name, train, test, 255.0, _digest(train, test))
    if name == "digits":
        pixels, labels, scale = builtin.digits()
        whole = Images(pixels, labels)
    else:
        path_pixels, path_labels, scale = files.load(Path(name))
        whole = Images(path_pixels, path_labels)
    train, test = _split(name, whole, seed)
    return Dataset(Path(name).name, train, test, scale, _digest(whole))


def _split(name: str, images: Images, seed: int) -> tuple[Images, Images]:
    """A seeded shuffle, then the first part for training and at least one image for the test."""
    if len(images) < 2:
        raise DataError(f"{name}: expected at least 2 images, one to train and one to test on, got {len(images)}")
    order = np.random.default_rng(seed).permutation(len(images))
    tests = max(1, round(TEST_FRACTION * len(images)))
    return images.take(np.sort(order[tests:])), images.take(np.sort(order[:tests]))


def _digest(*parts: Images) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.pixels, part.labels):
            if array is not None:
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"
