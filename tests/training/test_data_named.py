"""Data sets by name: read where they are, checked against published digests, and a clear answer where they are not."""

import gzip
import pickle
import shutil
import tarfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from tests.training.test_data import load, noise
from training.data import binarized_mnist, idx
from training.errors import DataError


def test_mnist_is_read_where_it_is_and_nothing_is_written(mnist_root: Path) -> None:
    before = sorted(mnist_root.rglob("*"))
    dataset = load("mnist", mnist_root)
    assert (dataset.train.pixels.shape, dataset.test.pixels.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert dataset.train.labels is not None
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.train.pixels.mean() == pytest.approx(0.1306604762738429 * 255)  # torchvision's well-known mean
    assert sorted(mnist_root.rglob("*")) == before
    assert dataset.classes == tuple("0123456789")
    assert dataset.split == {"kind": "own"}


def test_unpacked_files_are_read_too(mnist_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (mnist_root / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))
    assert load("mnist", tmp_path).digest == load("mnist", mnist_root).digest


def test_a_damaged_archive_is_named_with_both_checksums(mnist_root: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(mnist_root / "MNIST" / "raw", tmp_path / "MNIST" / "raw"))
    archive = raw / "t10k-labels-idx1-ubyte.gz"
    archive.chmod(0o644)
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: expected md5 ec29112d.*, got .*: damaged"):
        load("mnist", tmp_path)


def test_without_files_and_network_the_offline_choice_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])
    with pytest.raises(DataError, match="--data digits"):
        load("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08",
        b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00",
        b"\x00\x00\x08\x01\x00\x00\x00\x02\x00",
        b"\x00\x00\x08\x03\x00",
    ],
)
def test_bytes_that_are_no_idx_file_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"f: expected"):
        idx.read_idx(Path("f"), content)


# --- binarised MNIST ---


@pytest.fixture
def binarized_root(mnist_root: Path) -> Path:
    """The folder with Larochelle's file; the test is skipped without one."""
    if not (mnist_root / binarized_mnist.FILE).is_file():
        pytest.skip(f"needs {binarized_mnist.FILE} under VAEPORT_DATA_ROOT")
    return mnist_root


def test_binarized_mnist_is_larochelles_training_and_test_part(binarized_root: Path) -> None:
    dataset = load("binarized-mnist", binarized_root)
    assert (dataset.train.pixels.shape, dataset.test.pixels.shape) == ((50000, 1, 28, 28), (10000, 1, 28, 28))
    assert (dataset.train.labels, dataset.test.labels, dataset.classes) == (None, None, None)
    assert np.unique(dataset.train.pixels).tolist() == [0, 1]
    assert dataset.test.pixels.mean() == pytest.approx(0.1325, abs=0.001)  # the mean of MNIST's grey test part
    assert (dataset.scale, dataset.preprocessing.scale, dataset.preprocessing.binarization) == (1.0, 1.0, "static")
    assert dataset.split == {"kind": "own"}


def test_the_rows_of_binarized_mnist_are_upright_digits(binarized_root: Path, mnist_root: Path) -> None:
    """Each has a near image in the grey test part, which a wrong order of bits or a transposition would undo."""
    binary = load("binarized-mnist", binarized_root).test.pixels[:20].reshape(20, 784).astype(np.float32)
    grey = load("mnist", mnist_root).test.pixels.reshape(-1, 784).astype(np.float32) / 255
    nearest = ((grey**2).sum(axis=1) - 2 * binary @ grey.T + binary.sum(axis=1)[:, np.newaxis]).min(axis=1)
    assert nearest.max() < 40  # squared distance; between different digits about 100


def test_without_binarized_mnist_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected .*binarized_mnist/binarized_mnist_packed\.npz .*cannot be downloaded"
    ):
        load("binarized-mnist", tmp_path)


def test_another_file_in_place_of_binarized_mnist_is_refused(tmp_path: Path) -> None:
    (tmp_path / binarized_mnist.FILE).parent.mkdir()
    np.savez(tmp_path / binarized_mnist.FILE, train=noise(4, 98), valid=noise(4, 98), test=noise(4, 98))
    with pytest.raises(DataError, match=r"binarized_mnist_packed\.npz: expected sha256 df14a884.*, got .*: damaged"):
        load("binarized-mnist", tmp_path)


# --- CIFAR-10 ---


def as_old_numpy_wrote_it(content: dict[str, object]) -> bytes:
    """Pickled with a dtype's truth values as numbers, as in the published files."""
    data = pickle.dumps(content, protocol=2)
    assert b"\x89\x88\x87" in data or "data" not in content
    return data.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of CIFAR-10, with 3 images each, and torchvision expecting their checksums. No network."""
    root = tmp_path / "root"
    folder = root / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    names = [f"class{index}" for index in range(10)]
    (folder / "batches.meta").write_bytes(as_old_numpy_wrote_it({"label_names": names}))
    for seed, name in enumerate([*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]):
        content = {"data": noise(3, 3072, seed=seed), "labels": [seed, 1, 2]}
        (folder / name).write_bytes(as_old_numpy_wrote_it(content))
    with tarfile.open(root / datasets.CIFAR10.filename, "w:gz") as archive:
        archive.add(folder, datasets.CIFAR10.base_folder)
    for attribute in ("train_list", "test_list"):
        renewed = [[name, digest_of(folder / name)] for name, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, renewed)
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": digest_of(folder / "batches.meta")})
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", digest_of(root / datasets.CIFAR10.filename))
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:1/cifar-10-python.tar.gz")
    return root


def digest_of(path: Path) -> str:
    return md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_cifar10_is_read_where_it_is_and_nothing_is_written(cifar_root: Path) -> None:
    before = sorted(cifar_root.rglob("*"))
    dataset = load("cifar10", cifar_root)
    assert sorted(cifar_root.rglob("*")) == before
    assert (dataset.train.pixels.shape, dataset.test.pixels.shape) == ((15, 3, 32, 32), (3, 3, 32, 32))
    assert np.array_equal(dataset.test.pixels.reshape(3, 3072), noise(3, 3072, seed=5))  # a plane per colour
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == [0, 1, 2, 1, 1, 2, 2, 1, 2, 3, 1, 2, 4, 1, 2]
    assert dataset.classes == tuple(f"class{index}" for index in range(10))
    assert (dataset.scale, dataset.split) == (255.0, {"kind": "own"})


def test_the_archive_of_cifar10_is_enough_and_nothing_is_unpacked_beside_it(cifar_root: Path) -> None:
    unpacked = load("cifar10", cifar_root)
    shutil.rmtree(cifar_root / datasets.CIFAR10.base_folder)
    assert load("cifar10", cifar_root).digest == unpacked.digest
    assert [path.name for path in cifar_root.iterdir()] == [datasets.CIFAR10.filename]


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_damaged_file_of_cifar10_is_named_with_both_checksums(cifar_root: Path, name: str) -> None:
    path = cifar_root / datasets.CIFAR10.base_folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name}: expected md5 [0-9a-f]{{32}}, got [0-9a-f]{{32}}: damaged"):
        load("cifar10", cifar_root)


def test_a_damaged_archive_of_cifar10_is_named_and_left_alone(cifar_root: Path) -> None:
    shutil.rmtree(cifar_root / datasets.CIFAR10.base_folder)
    archive = cifar_root / datasets.CIFAR10.filename
    archive.write_bytes(archive.read_bytes()[:-9])
    size = archive.stat().st_size
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: expected md5 .*: damaged; delete it"):
        load("cifar10", cifar_root)
    assert archive.stat().st_size == size


def test_without_cifar10_and_network_the_offline_choice_is_named(cifar_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10: not in .*could not be downloaded[\s\S]*--data digits"):
        load("cifar10", tmp_path / "empty")
