"""The two parts of a data set: a share of the images, or data to test on that must go with those to train on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.test_data import load, noise
from tests.training.test_data_folder import save_images
from training.errors import DataError


@pytest.mark.parametrize(
    ("count", "fraction", "tests"), [(20, 0.1, 2), (20, 0.5, 10), (20, 0.01, 1), (20, 0.999, 19), (2, 0.5, 1)]
)
def test_the_fraction_leaves_one_image_at_least_on_each_side(
    tmp_path: Path, count: int, fraction: float, tests: int
) -> None:
    np.save(tmp_path / "a.npy", noise(count, 4, 4))
    dataset = load(tmp_path / "a.npy", test_fraction=fraction, split_seed=3)
    assert (len(dataset.train), len(dataset.test)) == (count - tests, tests)
    assert dataset.split == {"kind": "fraction", "fraction": fraction, "seed": 3}


def test_labels_go_with_their_images_through_the_split(tmp_path: Path) -> None:
    images = noise(20, 4, 4)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20))
    dataset = load(tmp_path / "a.npz", test_fraction=0.4)
    for part in (dataset.train, dataset.test):
        assert np.array_equal(part.pixels[:, 0], images[part.labels])


def test_an_array_to_test_on_leaves_all_others_to_train_on(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", noise(20, 4, 4))
    np.save(tmp_path / "held.npy", noise(5, 4, 4, seed=1))
    dataset = load(tmp_path / "train.npy", test_data=str(tmp_path / "held.npy"))
    assert np.array_equal(dataset.train.pixels[:, 0], noise(20, 4, 4))
    assert np.array_equal(dataset.test.pixels[:, 0], noise(5, 4, 4, seed=1))
    assert dataset.split == {"kind": "test_data", "name": "held.npy"}
    assert dataset.name == "train.npy"


def test_one_image_is_enough_to_test_on(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", noise(20, 4, 4))
    np.save(tmp_path / "held.npy", np.zeros((1, 4, 4), np.uint8))
    assert len(load(tmp_path / "train.npy", test_data=str(tmp_path / "held.npy")).test) == 1


def test_a_folder_to_test_on_has_the_same_classes(tmp_path: Path) -> None:
    save_images(tmp_path / "train", *(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)))
    save_images(tmp_path / "test", "dog/a.png", "cat/b.png", "dog/c.png")
    dataset = load(tmp_path / "train", test_data=str(tmp_path / "test"))
    assert dataset.test.labels is not None
    assert dataset.test.labels.tolist() == [0, 1, 1]
    assert dataset.classes == ("cat", "dog")


def test_a_folder_to_test_on_may_lack_a_class(tmp_path: Path) -> None:
    save_images(tmp_path / "train", *(f"{kind}/{i}.png" for kind in ("cat", "dog", "hog") for i in range(4)))
    save_images(tmp_path / "test", "hog/a.png", "dog/b.png", "loose.png")
    dataset = load(tmp_path / "train", test_data=str(tmp_path / "test"))
    assert dataset.test.labels is not None
    assert dataset.test.labels.tolist() == [1, 2, -1]
    assert dataset.classes == ("cat", "dog", "hog")


@pytest.mark.parametrize("compared", [100, 8])
def test_images_of_both_parts_are_counted(tmp_path: Path, compared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.dataset.COMPARED_IMAGES", compared)
    train, test = noise(20, 4, 4), noise(10, 4, 4, seed=1)
    test[3:5] = train[6:8]
    np.save(tmp_path / "train.npy", train)
    np.save(tmp_path / "test.npy", test)
    np.save(tmp_path / "other.npy", noise(10, 4, 4, seed=2))
    (note,) = load(tmp_path / "train.npy", test_data=str(tmp_path / "test.npy")).notes
    limit = "" if compared == 100 else " (of the first 8 of both)"
    assert note == f"{tmp_path}/test.npy: 2 of 10 images are in {tmp_path}/train.npy, too{limit}: they are no test"
    assert not load(tmp_path / "train.npy", test_data=str(tmp_path / "other.npy")).notes


def test_data_to_test_on_replace_the_part_that_a_named_set_has(tmp_path: Path, mnist_root: Path) -> None:
    np.savez(tmp_path / "held.npz", images=noise(5, 28, 28), labels=np.arange(5))
    dataset = load("mnist", mnist_root, test_data=str(tmp_path / "held.npz"))
    assert (len(dataset.train), len(dataset.test)) == (60000, 5)
    assert dataset.classes == tuple("0123456789")
    assert dataset.split == {"kind": "test_data", "name": "held.npz"}


def test_other_data_to_test_on_are_another_digest(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        np.save(tmp_path / f"{name}.npy", noise(20, 4, 4, seed=seed))
    digests = {load(tmp_path / "a.npy", test_data=str(tmp_path / f"{name}.npy")).digest for name in ("b", "c")}
    assert len(digests | {load(tmp_path / "a.npy").digest}) == 3


def test_labels_to_test_on_may_be_the_only_ones(tmp_path: Path) -> None:
    save_images(tmp_path / "train", "a.png", "b.png")
    save_images(tmp_path / "test", "cat/a.png", "dog/b.png")
    dataset = load(tmp_path / "train", test_data=str(tmp_path / "test"))
    assert dataset.train.labels is None
    assert dataset.classes == ("cat", "dog")


def classes_in(folder: Path, *names: str) -> Path:
    return save_images(folder, *(f"{name}/{index}.png" for name in names for index in range(2)))


def array_at(path: Path, array: np.ndarray, labels: Any = None) -> Path:
    path = path.with_suffix(".npy" if labels is None else ".npz")
    if labels is None:
        np.save(path, array)
    else:
        np.savez(path, images=array, labels=np.array(labels))
    return path


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (lambda p: array_at(p, noise(9, 4, 4)), lambda p: p, r"test: no such file or folder"),
        (
            lambda p: array_at(p, noise(9, 4, 4)),
            lambda p: array_at(p, noise(9, 4, 5)),
            r"test\.npy: expected images like those of .*train\.npy, 1x4x4, got 1x4x5; --image-size and --channels",
        ),
        (
            lambda p: save_images(p, "a.png", "b.png"),
            lambda p: save_images(p, "a.png", "b.png", mode="RGB"),
            r"test: expected images like those of .*train, 1x5x6, got 3x5x6; --image-size and --channels",
        ),
        (
            lambda p: array_at(p, noise(9, 4, 4)),
            lambda p: array_at(p, noise(9, 4, 4) / 255),
            r"test\.npy: expected pixels like those of .*uint8 from 0 to 255, got float32 from 0 to 1",
        ),
        (
            lambda p: array_at(p, noise(9, 4, 4) > 99),
            lambda p: array_at(p, noise(9, 4, 4)),
            r"test\.npy: expected pixels like those of .*, 0 or 1, got uint8 from 0 to 255",
        ),
        (
            lambda p: classes_in(p, "cat", "dog"),
            lambda p: save_images(p, "a.png"),
            r"test: has no labels, but .*train has",
        ),
        (
            lambda p: classes_in(p, "cat", "dog"),
            lambda p: classes_in(p, "cat", "hog"),
            r"test: expected the classes of .*train, cat, dog; got cat, hog",
        ),
        (
            lambda p: classes_in(p, "cat", "dog"),
            lambda p: array_at(p, noise(2, 5, 6), labels=[1, 2]),
            r"expected labels from 0 to 1, of the classes cat, dog; got 2",
        ),
        (
            lambda p: array_at(p, noise(1, 4, 4)),
            lambda p: array_at(p, noise(9, 4, 4)),
            r"train\.npy: expected at least 2 images",
        ),
    ],
)
def test_data_to_test_on_that_do_not_go_with_the_others_are_refused(
    tmp_path: Path, train: Callable[[Path], Path], test: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(train(tmp_path / "train"), test_data=str(test(tmp_path / "test")))
