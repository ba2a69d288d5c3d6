"""Larochelle's static binarisation of MNIST: one draw, made once, that papers since 2008 report their numbers on."""

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.images import Images, Source
from training.errors import DataError

NAME = "binarized-mnist"
FILE = Path("binarized_mnist") / "binarized_mnist_packed.npz"  # train, valid, test: a row of 98 bytes is 784 bits
SHA256 = "df14a884cb4aa7ac6692463fb31798a687c4e762c73c23a8ae3114fbec4e6093"


def load(data_root: Path) -> Source:
    """Training part [50000, 1, 28, 28] and test part [10000, 1, 28, 28] of 0 and 1, without labels.

    The 10,000 images for validation stay unused.

    Raises:
        DataError: no file, or another one.
    """
    path = data_root / FILE
    if not path.is_file():
        raise DataError(
            f"{NAME}: expected {path} (VAEPORT_DATA_ROOT is the folder), which is not there and cannot be downloaded: "
            "the arrays train, valid and test of numpy.packbits(images, axis=1); --data mnist --binarization static "
            "draws another one"
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise DataError(f"{path}: expected sha256 {SHA256}, got {digest}: damaged, or another file")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        train, test = (Images(_unpack(arrays[part]), None) for part in ("train", "test"))
    return Source(train, 1.0, test=test, binary=True)


def _unpack(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, 98] bytes to [N, 1, 28, 28] pixels."""
    return np.unpackbits(rows, axis=1).reshape(-1, 1, 28, 28)
