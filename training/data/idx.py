"""MNIST and its relatives in the IDX format, as torchvision stores them; files that are there are read where they are.

torchvision itself unpacks the archives beside themselves, which fails in a read-only folder; so it only downloads here.
"""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.builtin import DIGIT_CLASSES
from training.data.download import download
from training.data.images import Images, Source
from training.errors import DataError

# The name of the class in torchvision.datasets, which is also the folder under the data root.
DATASETS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
PARTS = ("train", "t10k")
UBYTE = 0x08  # the type code of unsigned bytes in the third byte of an IDX file
SCALE = 255.0


def load(name: str, data_root: Path) -> Source:
    """Training part [60000, 1, 28, 28] and test part [10000, 1, 28, 28], with labels; downloaded if not there.

    Raises:
        DataError: no file and no network, a wrong checksum, or a file that is not what it says.
    """
    folder = data_root / DATASETS[name] / "raw"
    if not all(_find(folder, stem) for stem in _stems()):
        download(name, DATASETS[name], data_root)
    checksums = _checksums(name)
    train, test = (_load_part(folder, part, checksums) for part in PARTS)
    return Source(train, SCALE, _classes(name), test)


def read_idx(path: Path, data: bytes) -> NDArray[np.uint8]:
    """The array in the bytes of an IDX file of unsigned bytes: two zero bytes, type, axes, sizes, values."""
    if len(data) < 4 or data[:3] != bytes((0, 0, UBYTE)) or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: expected an IDX file of unsigned bytes, got {len(data)} bytes: {data[:4].hex()}...")
    start = 4 + 4 * data[3]
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], ">u4"))
    if len(data) - start != math.prod(shape):
        raise DataError(f"{path}: expected {math.prod(shape)} values of shape {shape}, got {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _load_part(folder: Path, part: str, checksums: dict[str, str]) -> Images:
    pixels, labels = (_read(folder, f"{part}-{kind}-ubyte", checksums) for kind in ("images-idx3", "labels-idx1"))
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise DataError(f"{folder}: images of shape {pixels.shape} and labels of shape {labels.shape} do not match")
    return Images(pixels[:, np.newaxis], labels.astype(np.int64))


def _stems() -> list[str]:
    return [f"{part}-{kind}-ubyte" for part in PARTS for kind in ("images-idx3", "labels-idx1")]


def _find(folder: Path, stem: str) -> Path | None:
    candidates = (folder / f"{stem}.gz", folder / stem)
    return next((path for path in candidates if path.is_file()), None)


def _read(folder: Path, stem: str, checksums: dict[str, str]) -> NDArray[np.uint8]:
    path = _find(folder, stem)
    if path is None:
        raise DataError(f"{folder}: {stem}.gz is missing")
    data = path.read_bytes()
    if path.suffix != ".gz":  # unpacked: there is no published checksum, only the shape can be checked
        return read_idx(path, data)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest != checksums[path.name]:
        raise DataError(
            f"{path}: expected md5 {checksums[path.name]}, got {digest}: damaged; delete it to fetch it again"
        )
    try:
        return read_idx(path, gzip.decompress(data))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: {error}") from error


def _classes(name: str) -> tuple[str, ...]:
    from torchvision import datasets

    return DIGIT_CLASSES if name == "mnist" else tuple(getattr(datasets, DATASETS[name]).classes)


def _checksums(name: str) -> dict[str, str]:
    """md5 of each archive, as torchvision publishes them."""
    from torchvision import datasets

    return dict(getattr(datasets, DATASETS[name]).resources)
