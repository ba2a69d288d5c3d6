"""From a name or a path to arrays, and a clear answer to everything that is no data set."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training import data
from training.config import Config
from training.errors import DataError

NOWHERE = Path("/nowhere")


def load(path: Path | str, data_root: Path = NOWHERE, **settings: Any) -> data.Dataset:
    return data.load(Config(data=str(path), **settings), data_root)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def everything(dataset: data.Dataset) -> np.ndarray:
    return np.concatenate([dataset.train.pixels, dataset.test.pixels])


def in_01(array: np.ndarray) -> np.ndarray:
    return array / 255 if array.dtype == np.uint8 else array.astype(np.float32)


def test_the_built_in_digits_are_never_resized_and_divided_by_16() -> None:
    dataset = load("digits")
    assert (len(dataset.train), len(dataset.test), dataset.image_shape) == (1617, 180, (1, 8, 8))
    assert dataset.train.pixels.dtype == np.uint8
    assert (everything(dataset).max() / dataset.scale, dataset.scale) == (1.0, 16.0)
    assert dataset.train.labels is not None
    assert set(dataset.train.labels) == set(range(10))


def test_the_seed_of_the_run_leaves_the_split_alone() -> None:
    assert np.array_equal(load("digits", seed=0).test.pixels, load("digits", seed=1).test.pixels)


def test_the_split_is_seeded_and_loses_nothing() -> None:
    one, same, other = load("digits"), load("digits"), load("digits", split_seed=1)
    assert np.array_equal(one.test.pixels, same.test.pixels)
    assert not np.array_equal(one.test.pixels, other.test.pixels)
    assert one.digest == same.digest == other.digest
    assert np.array_equal(np.sort(everything(one), axis=0), np.sort(everything(other), axis=0))


# --- arrays ---


@pytest.mark.parametrize(
    ("array", "dtype", "scale", "shape"),
    [
        (noise(20, 5, 4), np.uint8, 255.0, (1, 5, 4)),
        (noise(20, 3, 5, 4), np.uint8, 255.0, (3, 5, 4)),
        (noise(20, 5, 4) / 255, np.float32, 1.0, (1, 5, 4)),
        (noise(20, 5, 4) > 99, np.uint8, 1.0, (1, 5, 4)),
    ],
)
def test_an_array_keeps_its_kind(
    tmp_path: Path, array: np.ndarray, dtype: type, scale: float, shape: tuple[int, int, int]
) -> None:
    np.save(tmp_path / "a.npy", array)
    dataset = load(tmp_path / "a.npy")
    assert dataset.train.pixels.dtype == dtype
    assert (dataset.scale, dataset.image_shape) == (scale, shape)
    assert np.array_equal(
        np.sort(everything(dataset) / scale, axis=0), np.sort(in_01(array).reshape(20, *shape), axis=0)
    )
    assert dataset.preprocessing.scale == scale
    assert dataset.name == "a.npy"  # not where it lies


def test_an_archive_has_one_array_or_images_and_labels(tmp_path: Path) -> None:
    images, labels = noise(20, 4, 4), np.arange(20)
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
        (np.full((20, 4, 4), 128.0), r"float pixels must be in \[0, 1\], got 128 to 128; save 0 to 255 as uint8"),
        (np.full((20, 4, 4), -0.1), r"float pixels must be in \[0, 1\], got -0.1 to -0.1"),
        (np.full((20, 4, 4), np.nan), r"float pixels must be in \[0, 1\], got nan to nan"),
        (np.ones((20, 4, 4), np.int64), "expected pixels of uint8, bool, or float in .*, got int64"),
        (np.ones((20, 4, 4), np.uint8), "none is above 1; save binary images as bool"),
        (np.ones((20, 16), np.uint8), r"expected images \[N, H, W\], .*got shape \[20, 16\]"),
        (np.ones((20, 4, 4, 3), np.uint8), r"1 or 3 channels, got shape \[20, 4, 4, 3\]"),
        (np.ones((0, 4, 4), np.uint8), r"got shape \[0, 1, 4, 4\]"),
        (np.full((1, 4, 4), 9, np.uint8), "expected at least 2 images, .*got 1"),
        (np.full((20, 4, 4), 9, np.uint8), "all 20 images are equal: there is nothing to learn"),
        (np.zeros((20, 4, 4), np.uint8), "all 20 images are equal"),
        (np.full((20, 4, 4), 0.5), "all 20 images are equal"),
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


def test_images_of_one_colour_each_can_be_learned_from(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.broadcast_to(np.array([[[10]], [[200]]], np.uint8), (2, 4, 4)))
    dataset = load(tmp_path / "a.npy")
    assert (len(dataset.train), len(dataset.test)) == (1, 1)


def test_an_array_saved_column_by_column_is_the_same_data(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(20, 4, 5))
    np.save(tmp_path / "b.npy", np.asfortranarray(noise(20, 4, 5)))
    by_row, by_column = (load(tmp_path / name, test_data=str(tmp_path / "a.npy")) for name in ("a.npy", "b.npy"))
    assert by_row.digest == by_column.digest
    assert by_column.train.pixels.flags.c_contiguous  # or every batch is gathered from all over the memory


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


def test_the_name_of_the_working_directory_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cats"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(noise(4, 4, seed=index)).save(folder / f"{index}.png")
    monkeypatch.chdir(folder)
    assert load(".").name == "cats"


def test_floats_that_are_all_0_or_1_are_binary(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 2, (30, 5, 4)).astype(np.float64))
    dataset = load(tmp_path / "a.npy")
    assert dataset.train.pixels.dtype == np.uint8
    assert dataset.scale == 1.0
    assert dataset.preprocessing.binarization == "static"


@pytest.mark.parametrize("label", [-2, 2**31, 2**64 - 1])
def test_a_label_out_of_range_is_refused(tmp_path: Path, label: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)
    labels = np.array([0, 1, label], np.uint64 if label > 0 else np.int64)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    with pytest.raises(DataError, match=r"expected labels from -1 \(none\) to 2147483647"):
        load(tmp_path / "a.npz")
