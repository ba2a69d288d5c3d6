"""From a picture to pixels: the recipe that clients repeat, and where it does not apply."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.test_data import load, noise
from training.config import ConfigError
from training.data import memory
from training.data.prepare import Crop, fit, prepare
from training.errors import DataError


def gradient(width: int, height: int) -> Image.Image:
    """Brighter to the right, 10 a pixel."""
    return Image.fromarray(np.broadcast_to(np.arange(width, dtype=np.uint8) * 10, (height, width)).copy())


@pytest.mark.parametrize("crop", ["center", "pad"])
@pytest.mark.parametrize("shape", [(7, 7), (20, 7), (7, 20), (100, 3), (3, 100), (1, 1), (641, 480)])
@pytest.mark.parametrize("size", [1, 7, 16])
def test_every_shape_becomes_the_size(shape: tuple[int, int], size: int, crop: Crop) -> None:
    assert fit(gradient(*shape), size, crop).size == (size, size)


@pytest.mark.parametrize("crop", ["center", "pad"])
def test_an_image_of_the_size_stays_as_it_is(crop: Crop) -> None:
    image = Image.fromarray(noise(9, 9, 3))
    assert np.array_equal(np.asarray(fit(image, 9, crop)), np.asarray(image))


def test_center_keeps_the_middle_of_the_longer_side() -> None:
    wide = np.asarray(fit(gradient(10, 4), 4, "center"))
    assert wide.tolist() == 4 * [[30, 40, 50, 60]]
    tall = np.asarray(fit(gradient(10, 4).transpose(Image.Transpose.TRANSPOSE), 4, "center"))
    assert tall.tolist() == wide.T.tolist()


def test_center_leaves_the_odd_pixel_at_the_right() -> None:
    assert np.asarray(fit(gradient(7, 4), 4, "center"))[0].tolist() == [10, 20, 30, 40]


def test_pad_keeps_everything_between_black_bars() -> None:
    image = Image.fromarray(np.full((4, 8), 200, np.uint8))
    padded = np.asarray(fit(image, 8, "pad"))
    assert padded[:, 0].tolist() == [0, 0, 200, 200, 200, 200, 0, 0]
    assert (padded == padded[:, :1]).all()


def test_pad_leaves_the_odd_bar_at_the_bottom() -> None:
    image = Image.fromarray(np.full((5, 8), 200, np.uint8))
    assert np.asarray(fit(image, 8, "pad"))[:, 0].tolist() == [0, 200, 200, 200, 200, 200, 0, 0]


def test_a_smaller_pixel_averages_what_it_covers() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    assert np.unique(np.asarray(fit(Image.fromarray(stripes), 8, "center"))[1:-1, 1:-1]).tolist() == [100]


def test_the_recipe_of_the_docstring_gives_these_pixels() -> None:
    """The steps as a client would write them, on an image that needs each."""
    image = Image.fromarray(noise(30, 43, 4), "RGBA")
    image.getexif()[0x0112] = 6
    upright = image.transpose(Image.Transpose.ROTATE_270).convert("RGB")
    resized = upright.resize((16, 23), Image.Resampling.BILINEAR)  # 43 / 30 * 16 is 22.93
    top = (23 - 16) // 2
    expected = np.asarray(resized)[top : top + 16].transpose(2, 0, 1)
    assert np.array_equal(prepare(image, 3, 16, "center"), expected)


def test_an_image_that_would_fill_the_memory_before_it_is_cut_is_refused() -> None:
    endless = Image.new("L", (1, 400_000))
    with pytest.raises(DataError, match=r"image: expected at most 67108864 pixels .* has 16, got 1x400000"):
        fit(endless, 16, "center")
    assert fit(endless, 16, "pad").size == (16, 16)


# --- through load ---


def test_a_file_that_would_fill_the_memory_is_named(tmp_path: Path) -> None:
    Image.new("L", (400_000, 1)).save(tmp_path / "long.png")
    with pytest.raises(DataError, match=r"long\.png: expected at most 67108864 pixels"):
        load(tmp_path, image_size=16)


def mixed_folder(folder: Path) -> Path:
    """Sizes, formats and modes as they come; one photograph lies on its side."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(noise(40, 30)).save(folder / "a.png")
    Image.fromarray(noise(20, 50, 3)).save(folder / "b.jpg")
    Image.fromarray(noise(64, 64, 4), "RGBA").save(folder / "c.webp")
    Image.fromarray(noise(33, 21, 3)).quantize(16).save(folder / "d.gif")
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(noise(20, 60, 3)).save(folder / "e.jpg", exif=exif)
    return folder


@pytest.mark.parametrize("crop", ["center", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_mixed_sizes_and_formats_is_prepared_and_the_manifest_is_told(
    tmp_path: Path, crop: Crop, channels: int
) -> None:
    folder = mixed_folder(tmp_path / "mixed")
    dataset = load(folder, image_size=16, crop=crop, channels=channels)
    preprocessing = dataset.preprocessing
    assert (preprocessing.size, preprocessing.channels, preprocessing.crop) == ((16, 16), channels, crop)
    assert (preprocessing.scale, preprocessing.binarization) == (255.0, "none")
    expected = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            expected.append(prepare(image, preprocessing.channels, preprocessing.size[0], crop))
    found = [*dataset.train.pixels, *dataset.test.pixels]
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)


def test_without_a_size_the_manifest_is_told_that_all_had_it(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(noise(6, 4, seed=index)).save(tmp_path / f"{index}.png")
    preprocessing = load(tmp_path).preprocessing
    assert (preprocessing.size, preprocessing.channels, preprocessing.crop) == ((6, 4), 1, "none")


def test_channels_convert_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", noise(20, 6, 4))
    np.save(tmp_path / "colour.npy", noise(20, 3, 6, 4))
    colour = load(tmp_path / "grey.npy", channels=3)
    assert colour.image_shape == (3, 6, 4)
    assert (colour.train.pixels == load(tmp_path / "grey.npy").train.pixels).all()
    grey = load(tmp_path / "colour.npy", channels=1)
    assert grey.image_shape == (1, 6, 4)
    luma = (np.array([0.299, 0.587, 0.114]) @ load(tmp_path / "colour.npy").train.pixels.transpose(0, 2, 1, 3)).round()
    assert np.abs(grey.train.pixels[:, 0] - luma).max() <= 1


def test_an_array_is_resized_like_files_of_the_same_images(tmp_path: Path) -> None:
    images, labels = noise(10, 3, 12, 9), np.arange(10)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    (tmp_path / "files").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0).copy()).save(tmp_path / "files" / f"{index}.png")
    from_array, from_files = load(tmp_path / "a.npz", image_size=5), load(tmp_path / "files", image_size=5)
    assert np.array_equal(from_array.train.pixels, from_files.train.pixels)
    assert from_array.train.labels is not None
    assert len(from_array.train.labels) == 9
    assert from_array.preprocessing.crop == "center"


def test_both_parts_of_a_named_set_are_resized(mnist_root: Path) -> None:
    dataset = load("mnist", mnist_root, image_size=8)
    assert (dataset.train.pixels.shape, dataset.test.pixels.shape) == ((60000, 1, 8, 8), (10000, 1, 8, 8))
    assert dataset.train.labels is not None


@pytest.mark.parametrize("settings", [{"image_size": 5}, {"channels": 3}])
@pytest.mark.parametrize(
    ("array", "found"),
    [
        (noise(20, 6, 4) / 255, "are float32 from 0 to 1, in memory, and stay 1x6x4"),
        (noise(20, 6, 4) > 99, "are 0 or 1, in memory, and stay 1x6x4"),
    ],
)
def test_only_pictures_are_resized(tmp_path: Path, array: np.ndarray, found: str, settings: dict[str, Any]) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ConfigError, match=rf"--image-size, --channels: only uint8 from 0 to 255 in memory .*{found}"):
        load(tmp_path / "a.npy", **settings)


def test_the_built_in_digits_cannot_be_resized() -> None:
    with pytest.raises(ConfigError, match="the pixels of digits are uint8 from 0 to 16"):
        load("digits", image_size=28)


def test_what_has_the_size_and_channels_already_is_taken_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(20, 6, 6) / 255)
    assert load(tmp_path / "a.npy", image_size=6, channels=1).digest == load(tmp_path / "a.npy").digest


def test_a_file_on_the_disk_is_not_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", noise(20, 6, 4))
    monkeypatch.setattr(memory, "available", lambda: 100)
    with pytest.raises(ConfigError, match="are uint8 from 0 to 255, on the disk, and stay 1x6x4"):
        load(tmp_path / "a.npy", image_size=5)


def test_a_size_can_be_given_to_both_folders(tmp_path: Path) -> None:
    mixed_folder(tmp_path / "train")
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    dataset = load(tmp_path / "train", test_data=str(tmp_path / "test"), image_size=8)
    assert np.array_equal(dataset.train.pixels, dataset.test.pixels)
