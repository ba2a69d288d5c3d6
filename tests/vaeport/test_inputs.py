"""What may be passed for images, alone, in lists, and one after the other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vaeport.arrays import to_float
from vaeport.chunks import Chunker, chunks_of, read_chunk
from vaeport.errors import InvalidInputError
from vaeport.inputs import has_pictures, read_images
from vaeport.manifest import Preprocessing
from vaeport.results import ModelInfo

SHAPE = (1, 2, 3)


GREY = Preprocessing((2, 3), 1, "none", 255.0)


def model(preprocessing: Preprocessing | None = GREY) -> ModelInfo:
    return ModelInfo("toy", "1", SHAPE, 2, "bernoulli", "", (), preprocessing)


def numbered(first: int, last: int) -> np.ndarray:
    return np.arange(first, last, dtype=np.uint8)[:, None, None, None] * np.ones(SHAPE, np.uint8)


def picture(shade: int) -> Image.Image:
    return Image.new("L", (3, 2), shade)


def test_pictures_paths_and_arrays_go_together(tmp_path: Path) -> None:
    picture(3).save(tmp_path / "three.png")
    images = [numbered(0, 2), picture(2), tmp_path / "three.png", str(tmp_path / "three.png"), numbered(5, 6)[0]]
    found = read_images(images, model())
    assert found.dtype == np.uint8
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 3, 5]


def test_bytes_among_floats_keep_their_meaning() -> None:
    found = read_images([picture(51), np.full((2, 3), 0.25)], model())
    assert found.dtype == np.float32
    assert found[:, 0, 0, 0].tolist() == [np.float32(0.2), 0.25]


def test_numbers_in_lists_are_an_array() -> None:
    assert read_images([[[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]], model()).shape == (1, *SHAPE)
    assert not has_pictures([[0.0]])


def test_an_array_that_may_be_larger_than_memory_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbered(0, 9))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert np.shares_memory(read_images(mapped, model()), mapped)


def test_pictures_need_a_server_that_says_how() -> None:
    with pytest.raises(InvalidInputError, match="the server does not say how toy wants its pictures prepared"):
        read_images(picture(1), model(None))


def test_pictures_need_a_model_whose_preprocessing_gives_its_shape() -> None:
    with pytest.raises(InvalidInputError, match="images: expected shape"):
        read_images(picture(1), model(Preprocessing((2, 3), 3, "none", 255.0)))


def test_a_damaged_picture_is_refused_as_its_file_is(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with (
        Image.open(tmp_path / "half.png") as half,
        pytest.raises(InvalidInputError, match="images: expected a readable picture, got "),
    ):
        read_images(half, model())


def test_an_iterator_that_has_no_place_here_is_named() -> None:
    with pytest.raises(InvalidInputError, match="got generator"):
        read_images((image for image in numbered(0, 2)), model())


pieces = st.lists(st.integers(0, 7), max_size=12)  # 0: one image; else an array of so many


@given(pieces=pieces, rows=st.integers(1, 5))
def test_chunks_hold_all_images_in_order_and_no_more_rows_than_they_may(pieces: list[int], rows: int) -> None:
    items: list[Any] = []
    total = 0
    for piece in pieces:
        part = numbered(total, total + max(1, piece))
        items.append(part if piece else part[0])
        total += len(part)
    chunks = [read_chunk(chunk, model()) for chunk in chunks_of(items, Chunker(model(), rows))]
    assert [len(chunk) for chunk in chunks[:-1]] == [rows] * (len(chunks) - 1)
    assert sum(map(len, chunks)) == total
    assert [int(image[0, 0, 0]) for chunk in chunks for image in chunk] == list(range(total))


@pytest.mark.parametrize("kind", ["alike", "pictures", "mixed"])
def test_a_chunk_is_what_its_images_are_one_by_one(kind: str) -> None:
    items: list[Any] = {
        "alike": [*numbered(0, 4)],
        "pictures": [picture(shade) for shade in range(4)],
        "mixed": [numbered(0, 1)[0], np.full((2, 3), 0.5), picture(2), np.full((1, 2, 3), 0.25, np.float32)],
    }[kind]
    together = to_float(read_chunk(items, model()))
    assert np.array_equal(together, np.concatenate([to_float(read_images(item, model())) for item in items]))


def test_an_array_that_is_used_again_for_the_next_image_does_not_change_the_last_one() -> None:
    def frames() -> Iterator[np.ndarray]:
        frame = np.zeros(SHAPE, np.uint8)
        for number in range(5):
            frame[:] = number
            yield frame

    chunks = [read_chunk(chunk, model()) for chunk in chunks_of(frames(), Chunker(model(), 3))]
    assert np.array_equal(np.concatenate(chunks), numbered(0, 5))


def test_grey_images_are_not_the_channels_of_one() -> None:
    colour = ModelInfo("toy", "1", (3, 2, 3), 2, "bernoulli", "", ())
    with pytest.raises(InvalidInputError, match="images: expected shape"):
        read_chunk([np.zeros((2, 3), np.uint8)] * 3, colour)
    assert read_chunk([np.zeros((3, 2, 3), np.uint8)] * 2, colour).shape == (2, 3, 2, 3)


@pytest.mark.parametrize(
    "bad", [np.zeros((0, 2, 3), np.uint8), np.zeros((5, 5), np.uint8), np.full((2, 3), 2.0), "nowhere.png", 7, None]
)
def test_a_bad_image_is_refused_with_its_chunk(bad: Any) -> None:
    def items() -> Iterator[Any]:
        yield from numbered(0, 3)
        yield bad

    chunks = chunks_of(items(), Chunker(model(), 2))
    assert len(read_chunk(next(chunks), model())) == 2
    with pytest.raises((InvalidInputError, FileNotFoundError)):
        read_chunk(next(chunks), model())
