"""CIFAR-10 through torchvision; files that are there are read where they are.

The files are pickles. Their md5 is checked before anything is read, here, to say which one is wrong.
"""

import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from training.data.download import download
from training.data.images import Images, Source
from training.errors import DataError

NAME = "cifar10"
SCALE = 255.0


def load(data_root: Path) -> Source:
    """Training part [50000, 3, 32, 32] and test part [10000, 3, 32, 32], with labels; downloaded if not there.

    Raises:
        DataError: no file and no network, or a wrong checksum.
    """
    from torchvision.datasets import CIFAR10

    archive = data_root / CIFAR10.filename
    if all(path.is_file() for path, _ in _files(data_root)):
        return _read(data_root)
    if archive.is_file():
        return _read_archive(archive)
    download(NAME, "CIFAR10", data_root)
    return _read(data_root)


def _read(root: Path) -> Source:
    from torchvision.datasets import CIFAR10

    _check(_files(root))
    train, test = (CIFAR10(root=str(root), train=train) for train in (True, False))
    return Source(_images(train), SCALE, tuple(train.classes), _images(test))


def _images(part: Any) -> Images:
    pixels = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return Images(pixels, np.array(part.targets, np.int64))


def _read_archive(archive: Path) -> Source:
    """Without writing beside it, as torchvision would: the folder may be read-only."""
    from torchvision.datasets import CIFAR10

    _check([(archive, CIFAR10.tgz_md5)])
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
        return _read(Path(folder))


def _files(root: Path) -> list[tuple[Path, str]]:
    """The unpacked files and the md5 of each."""
    from torchvision.datasets import CIFAR10

    named = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    return [(root / CIFAR10.base_folder / name, md5) for name, md5 in named]


def _check(files: list[tuple[Path, str]]) -> None:
    from torchvision.datasets.utils import calculate_md5

    for path, expected in files:
        digest = calculate_md5(path)
        if digest != expected:
            raise DataError(f"{path}: expected md5 {expected}, got {digest}: damaged; delete it to fetch it again")
