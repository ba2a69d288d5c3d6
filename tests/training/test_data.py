"""From a name or a path to arrays, and a clear answer to everything that is no data set."""

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import data
from training.data import idx
from training.errors import DataError

NOWHERE = Path("/nowhere")


def load(path: Path | str, seed: int = 0) -> data.Dataset:
    return data.load(str(path), NOWHERE, seed)


def everything(dataset: data.Dataset) -> np.ndarray:
    return np.concatenate([dataset.train.pixels, dataset.test.pixels])


def test_the_built_in_digits_are_never_resized_and_divided_by_16() -> None:
    dataset = load("digits")
    assert (len(dataset.train), len(dataset.test), dataset.image_shape) == (1617, 180, (1, 8, 8))
    assert dataset.train.pixels.dtype == np.uint8
    assert (everything(dataset).max() / dataset.scale, dataset.scale) == (1.0, 16.0)
    assert dataset.train.labels is not None
    assert set(dataset.train.labels) == set(range(10))


def test_the_split_is_seeded_and_loses_nothing() -> None:
    one, same, other = load("digits"), load("digits"), load("digits", seed=1)
    assert np.array_equal(one.test.pixels, same.test.pixels)
    assert not np.array_equal(one.test.pixels, other.test.pixels)
    assert one.digest == same.digest == other.digest
    assert np.array_equal(np.sort(everything(one), axis=0), np.sort(everything(other), axis=0))


# --- arrays ---


@pytest.mark.parametrize(
    ("array", "dtype", "scale", "shape"),
    [
        (np.full((20, 5, 4), 200, np.uint8), np.uint8, 255.0, (1, 5, 4)),
        (np.full((20, 3, 5, 4), 200, np.uint8), np.uint8, 255.0, (3, 5, 4)),
        (np.full((20, 5, 4), 0.5), np.float32, 1.0, (1, 5, 4)),
        (np.ones((20, 5, 4), bool), np.uint8, 1.0, (1, 5, 4)),
    ],
)
def test_an_array_keeps_its_kind(
    tmp_path: Path, array: np.ndarray, dtype: type, scale: float, shape: tuple[int, int, int]
) -> None:
    np.save(tmp_path / "a.npy", array)
    dataset = load(tmp_path / "a.npy")
    assert dataset.train.pixels.dtype == dtype
    assert (dataset.scale, dataset.image_shape) == (scale, shape)
    assert dataset.name == "a.npy"  # not where it lies


def test_an_archive_has_one_array_or_images_and_labels(tmp_path: Path) -> None:
    images, labels = np.full((20, 4, 4), 9, np.uint8), np.arange(20)
    np.savez(tmp_path / "one.npz", anything=images)
    np.savez(tmp_path / "two.npz", images=images, labels=labels)
    assert load(tmp_path / "one.npz").train.labels is None
    labelled = load(tmp_path / "two.npz")
    assert labelled.train.labels is not None
    assert labelled.test.labels is not None
    assert sorted([*labelled.train.labels, *labelled.test.labels]) == list(range(20))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((20, 4, 4), 128.0), r"takes float pixels in \[0, 1\], got 128 to 128; save 0 to 255 as uint8"),
        (np.full((20, 4, 4), -0.1), r"float pixels in \[0, 1\], got -0.1 to -0.1"),
        (np.full((20, 4, 4), np.nan), r"float pixels in \[0, 1\], got nan to nan"),
        (np.ones((20, 4, 4), np.int64), "expected pixels of uint8, bool, or float in .*, got int64"),
        (np.ones((20, 4, 4), np.uint8), "none is above 1; save binary images as bool"),
        (np.ones((20, 16), np.uint8), r"expected images \[N, H, W\], .*got shape \[20, 16\]"),
        (np.ones((20, 4, 4, 3), np.uint8), r"1 or 3 channels, got shape \[20, 4, 4, 3\]"),
        (np.ones((0, 4, 4), np.uint8), r"got shape \[0, 1, 4, 4\]"),
        (np.full((1, 4, 4), 9, np.uint8), "expected at least 2 images, .*got 1"),
    ],
)
def test_an_array_that_is_no_set_of_images_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=rf"a\.npy: .*{message}"):
        load(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "expected one array, or `images` and `labels`, got nothing"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "got a, b"),
        ({"images": np.full((9, 4, 4), 9, np.uint8), "label": np.zeros(9, int)}, "got images, label"),
        ({"images": np.full((9, 4, 4), 9, np.uint8), "labels": np.zeros(8, int)}, "expected 9 integer labels"),
        ({"images": np.full((9, 4, 4), 9, np.uint8), "labels": np.zeros(9)}, "expected 9 integer labels, got float64"),
    ],
)
def test_an_archive_with_anything_else_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04nonsense", b"\x93NUMPY\x01\x00"])
def test_a_damaged_array_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"a\.np[yz]: "):
        load(tmp_path / name)


def test_a_numpy_file_under_the_wrong_suffix_is_named(tmp_path: Path) -> None:
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, images=np.zeros((3, 4, 4), np.uint8))
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((3, 4, 4), np.uint8))
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("images", "not an array")
    for name in ("archive.npy", "array.npz", "text.npz"):
        with pytest.raises(DataError, match=name):
            load(tmp_path / name)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "a.npy")


# --- folders ---


def save_images(folder: Path, *names: str, size: tuple[int, int] = (6, 5), mode: str = "L") -> Path:
    random = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (size[1], size[0], len(mode)), np.uint8)
        Image.fromarray(pixels.squeeze()).save(folder / name)
    return folder


def test_a_folder_of_grey_images(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{i}.png" for i in range(10)))
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = load(tmp_path)
    assert (dataset.image_shape, dataset.scale, len(dataset.train), len(dataset.test)) == ((1, 5, 6), 255.0, 9, 1)
    assert dataset.train.labels is None


def test_subfolders_are_labels(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(10)))
    dataset = load(tmp_path)
    assert dataset.train.labels is not None
    assert dataset.test.labels is not None
    assert np.bincount(np.concatenate([dataset.train.labels, dataset.test.labels])).tolist() == [10, 10]


def test_images_beside_subfolders_have_no_label(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(5)), "loose.png")
    dataset = load(tmp_path)
    assert dataset.train.labels is not None
    assert dataset.test.labels is not None
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert np.unique(labels, return_counts=True)[1].tolist() == [1, 5, 5]
    assert labels.min() == -1


def test_linked_folders_are_entered_once_and_hidden_files_are_no_data(tmp_path: Path) -> None:
    save_images(tmp_path / "elsewhere", "a.png", "b.png")
    save_images(tmp_path / "data", "c.png", "d.png")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "more" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "._c.png").write_bytes(b"a file manager's note")
    dataset = load(tmp_path / "data")
    assert len(dataset.train) + len(dataset.test) == 4


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    save_images(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").symlink_to("/nowhere.png")
    with pytest.raises(DataError, match=r"c\.png: not a readable image"):
        load(tmp_path)


def test_one_colour_image_makes_all_of_them_colour(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{i}.png" for i in range(5)))
    save_images(tmp_path, "c.png", mode="RGB")
    assert load(tmp_path).image_shape == (3, 5, 6)


def test_a_photograph_taken_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    save_images(tmp_path, "a.png", "b.png", size=(5, 6))
    with Image.open(tmp_path / "a.png") as image:
        exif = image.getexif()
        exif[0x0112] = 6  # rotate by 90 degrees to see it
        image.rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    assert load(tmp_path).image_shape == (1, 6, 5)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: None, "no image files here or in its subfolders"),
        (lambda f: save_images(f, "a.png"), "expected at least 2 images"),
        (
            lambda f: (save_images(f, "a.png", "b.png"), save_images(f, "c.png", size=(7, 5))),
            r"c\.png: 7x5 pixels, but .*a\.png has 6x5: all images must have one size",
        ),
        (lambda f: (f / "bad.png").write_bytes(b"nonsense"), r"bad\.png: not a readable image"),
        (lambda f: (f / "bad.ppm").write_bytes(b"P6 x 3 255\n"), r"bad\.ppm: not a readable image"),
        (
            lambda f: (save_images(f, "a.png"), (f / "cut.png").write_bytes((f / "a.png").read_bytes()[:60])),
            r"cut\.png: not a readable image",
        ),
        (
            lambda f: Image.fromarray(np.zeros((4, 4), np.uint16)).save(f / "deep.png"),
            r"deep\.png: expected 8 bits per channel, got Pillow's mode 'I;16'",
        ),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(
    tmp_path: Path, prepare: Callable[[Path], object], message: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/images", "/nowhere/images: no such file or folder, and no data set of that name"),
        ("digit", "no data set of that name"),
        (__file__, "expected a folder of images, a .npy or a .npz"),
    ],
)
def test_a_path_that_is_no_data_is_refused(path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(path)


# --- IDX ---


def test_mnist_is_read_where_it_is_and_nothing_is_written(mnist_root: Path) -> None:
    before = sorted(mnist_root.rglob("*"))
    dataset = data.load("mnist", mnist_root, 0)
    assert (dataset.train.pixels.shape, dataset.test.pixels.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert dataset.train.labels is not None
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.train.pixels.mean() == pytest.approx(0.1306604762738429 * 255)  # torchvision's well-known mean
    assert sorted(mnist_root.rglob("*")) == before


def test_unpacked_files_are_read_too(mnist_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (mnist_root / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))
    assert data.load("mnist", tmp_path, 0).digest == data.load("mnist", mnist_root, 0).digest


def test_a_damaged_archive_is_named_with_both_checksums(mnist_root: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(mnist_root / "MNIST" / "raw", tmp_path / "MNIST" / "raw"))
    archive = raw / "t10k-labels-idx1-ubyte.gz"
    archive.chmod(0o644)
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: expected md5 ec29112d.*, got .*: damaged"):
        data.load("mnist", tmp_path, 0)


def test_without_files_and_network_the_offline_choice_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])
    with pytest.raises(DataError, match="--data digits"):
        data.load("fashion-mnist", tmp_path, 0)


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
