"""What a data set is, where each kind comes from, and how it gets its two parts."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training.config import Config
from training.data import arrays, binarization, binarized_mnist, builtin, cifar, folder, idx
from training.data.images import CHUNK_BYTES, Images, Source
from training.data.prepare import prepare_arrays
from training.errors import DataError

NAMES = ("digits", *idx.DATASETS, cifar.NAME, binarized_mnist.NAME)

COMPARED_IMAGES = 100_000  # of each part, to find those in both: 10 MB of hashes

Binarization = Literal["none", "dynamic", "threshold", "static"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What training did to an image file before the network saw it, as `training.data.prepare` describes it.

    Attributes:
        size: (height, width) in pixels.
        channels: 1 (grey) or 3 (red, green, blue).
        crop: how images of another size came to this one; "none": all of them had it.
        scale: a stored pixel divided by it lies in [0, 1].
        binarization: what the pixels in [0, 1] became then; "static" also for data that were 0 and 1 from the start.
    """

    size: tuple[int, int]
    channels: int
    crop: Literal["none", "center", "pad"]
    scale: float
    binarization: Binarization


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set, in two parts.

    Attributes:
        name: as it was asked for; of a path the last component, since the rest belongs to this machine.
        train, test: the two parts.
        scale: a pixel of the two divided by it lies in [0, 1]. That of `preprocessing`, but after a static draw.
        digest: "sha256:..." over the pixels and labels of both parts, before the split and a static draw.
        preprocessing: from an image file to what the network sees.
        classes: the names of the labels 0, 1, ...; None where they have none.
        split: where the test part comes from, as run.json has it: its `kind` is "own" (the data have one), "fraction"
            (of the images, with `fraction` and `seed`) or "test_data" (other data, with their `name`).
        notes: what the user should know: files passed over, images in both parts.
    """

    name: str
    train: Images
    test: Images
    scale: float
    digest: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    split: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return _shape(self.train)


def load(config: Config, data_root: Path) -> Dataset:
    """Load the data that `config` asks for.

    Args:
        config: its settings of data, of size and channels, of the split and of binarisation.
        data_root: where the named sets lie, or are downloaded to.

    Raises:
        DataError: nothing there, unreadable, shapes that differ, values out of range, too few or equal images, parts
            that do not go together, or more bytes than fit into the memory.
        ConfigError: a setting that does not go with these data.
    """
    source = _load_source(config.data, config, data_root)
    _check_learnable(config.data, source)
    if config.test_data:
        source = replace(source, **_test_data(config, source, data_root))
    binarization.check(config.data, source, config.binarization)
    digest = _digest(source.parts)
    train, test, split = _split(source, config)
    scale = source.scale
    if config.binarization == "static":
        train, test = binarization.draw((train, test), scale, config.split_seed)
        scale = 1.0
    preprocessing = _preprocessing(source, config)
    name, notes = _public_name(config.data), source.notes
    return Dataset(name, train, test, scale, digest, preprocessing, source.classes, split, notes)


def _load_source(name: str, config: Config, data_root: Path) -> Source:
    """All images of a name or a path, of the size and channels that `config` asks for."""
    source = _load_named(name, data_root) if name in NAMES else _load_path(Path(name), config)
    return prepare_arrays(name, source, config)


def _load_named(name: str, data_root: Path) -> Source:
    if name in idx.DATASETS:
        return idx.load(name, data_root)
    if name == cifar.NAME:
        return cifar.load(data_root)
    if name == binarized_mnist.NAME:
        return binarized_mnist.load(data_root)
    return builtin.digits()


def _load_path(path: Path, config: Config) -> Source:
    if path.is_dir():
        return folder.load(path, config)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder, and no data set of that name ({', '.join(NAMES)})")
    if path.suffix == ".npy":
        return arrays.load_npy(path)
    if path.suffix == ".npz":
        return arrays.load_npz(path)
    raise DataError(f"{path}: expected a folder of images, a .npy or a .npz")


def _check_learnable(name: str, source: Source) -> None:
    images = source.images
    if len(images) < 2:
        raise DataError(f"{name}: expected at least 2 images, one to train and one to test on, got {len(images)}")
    first = images.rows(np.array([0]))
    if all((chunk == first).all() for chunk in images.chunks()):
        notes = "; ".join(("", *source.notes))
        raise DataError(f"{name}: all {len(images)} images are equal: there is nothing to learn{notes}")


def _test_data(config: Config, source: Source, data_root: Path) -> dict[str, Any]:
    """The fields of `source` that --test-data replaces."""
    other = _load_source(config.test_data, config, data_root)
    test = other.parts[-1]
    if _shape(test) != _shape(source.images):
        raise DataError(
            f"{config.test_data}: expected images like those of {config.data}, "
            f"{_text(source.images)}, got {_text(test)}; --image-size and --channels make them alike"
        )
    if other.kind != source.kind:
        raise DataError(
            f"{config.test_data}: expected pixels like those of {config.data}, {source.kind}, got {other.kind}"
        )
    test, classes = _with_common_classes(config, source, test, other.classes)
    notes = (*source.notes, *other.notes, *_repeated(config, source.images, test))
    return {"test": test, "classes": classes, "notes": notes}


def _repeated(config: Config, train: Images, test: Images) -> list[str]:
    """What to say about images that are in both parts. Of each, the first COMPARED_IMAGES are looked at."""
    known = set(_hashes(train))
    repeated = sum(each in known for each in _hashes(test))
    if not repeated:
        return []
    all_compared = max(len(train), len(test)) <= COMPARED_IMAGES
    compared = "" if all_compared else f" (of the first {COMPARED_IMAGES} of both)"
    text = f"{repeated} of {len(test)} images are in {config.data}, too{compared}: they are no test"
    return [f"{config.test_data}: {text}"]


def _hashes(images: Images) -> Iterator[bytes]:
    """Hashes of the pixels of each of the first COMPARED_IMAGES images."""
    step = max(1, CHUNK_BYTES // images.pixels[:1].nbytes)
    count = min(len(images), COMPARED_IMAGES)
    for start in range(0, count, step):
        for image in images.rows(np.arange(start, min(start + step, count))):
            yield hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _with_common_classes(
    config: Config, source: Source, test: Images, names: tuple[str, ...] | None
) -> tuple[Images, tuple[str, ...] | None]:
    """The test part with its labels numbered as those of the training part, and the names of both.

    Labels without names are taken as numbers of those with. DataError if they are missing in the test part, or if it
    has a class that the training part lacks.
    """
    if source.images.labels is None:
        return test, names
    if test.labels is None:
        raise DataError(f"{config.test_data}: has no labels, but {config.data} has")
    classes = source.classes or names
    if classes is None:
        return test, None
    if names and set(names) - set(classes):
        raise DataError(
            f"{config.test_data}: expected the classes of {config.data}, {', '.join(classes)}; got {', '.join(names)}"
        )
    if names:
        numbers = np.array([*map(classes.index, names), -1], np.int64)  # the last for the label -1
        test = replace(test, labels=numbers[test.labels])
    assert test.labels is not None
    highest = max(int(source.images.labels.max()), int(test.labels.max()))
    if highest >= len(classes):
        raise DataError(
            f"{config.test_data} and {config.data}: expected labels from 0 to {len(classes) - 1}, of the classes "
            f"{', '.join(classes)}; got {highest}"
        )
    return test, classes


def _split(source: Source, config: Config) -> tuple[Images, Images, dict[str, Any]]:
    """Training part, test part and how they were parted: a seeded shuffle, where there is no test part.

    The first images of the shuffle are the test's: at least one, and one is left to train on.
    """
    if source.test is not None:
        own = {"kind": "own"}
        other = {"kind": "test_data", "name": _public_name(config.test_data)}
        return source.images, source.test, other if config.test_data else own
    count = len(source.images)
    order = np.random.default_rng(config.split_seed).permutation(count)
    tests = min(count - 1, max(1, round(config.test_fraction * count)))
    train, test = (source.images.take(np.sort(part)) for part in (order[tests:], order[:tests]))
    return train, test, {"kind": "fraction", "fraction": config.test_fraction, "seed": config.split_seed}


def _preprocessing(source: Source, config: Config) -> Preprocessing:
    channels, height, width = _shape(source.images)
    return Preprocessing(
        size=(height, width),
        channels=channels,
        crop="none" if config.image_size is None else config.crop,
        scale=source.scale,
        binarization="static" if source.binary else config.binarization,
    )


def _digest(parts: tuple[Images, ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.pixels.dtype.str}{part.pixels.shape}".encode())
        for chunk in part.chunks():
            digest.update(np.ascontiguousarray(chunk).data)
        if part.labels is not None:
            digest.update(f"{part.labels.dtype.str}{part.labels.shape}".encode())
            digest.update(np.ascontiguousarray(part.labels).data)
    return f"sha256:{digest.hexdigest()}"


def _public_name(name: str) -> str:
    """Less the path, which belongs to this machine."""
    return name if name in NAMES else Path(name).name or Path(name).resolve().name


def _shape(images: Images) -> tuple[int, int, int]:
    _, channels, height, width = images.pixels.shape
    return channels, height, width


def _text(images: Images) -> str:
    return "x".join(str(size) for size in _shape(images))
