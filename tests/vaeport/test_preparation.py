"""Pictures are prepared as in training: the same numbers, on the same files, by another program."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.test_data import load
from tests.training.test_data_prepare import mixed_folder
from training.data.prepare import prepare as prepare_in_training
from vaeport.arrays import to_float
from vaeport.errors import InvalidInputError
from vaeport.manifest import Preprocessing
from vaeport.preparation import prepare, prepare_file

ROOT = Path(__file__).parents[2]
HOW = Preprocessing((16, 16), 3, "center", 255.0)


def real_files(folder: Path) -> list[Path]:
    """Formats, modes, shapes and orientations as they come."""
    Image.open(ROOT / "docs/demo.png").convert("CMYK").save(folder / "cmyk.jpg")
    Image.open(ROOT / "docs/demo.png").convert("LA").save(folder / "alpha.png")
    Image.open(ROOT / "docs/demo.png").convert("1").save(folder / "bits.tif")
    palette = Image.open(ROOT / "docs/demo.png").convert("P")
    palette.save(folder / "palette.png", transparency=0)
    mixed = mixed_folder(folder / "mixed")
    docs = [ROOT / "docs/demo.png", ROOT / "docs/autoencoder.png"]
    return [*docs, *sorted(folder.glob("*.*")), *sorted(mixed.iterdir())]


@pytest.mark.parametrize("crop", ["center", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [7, 64])
def test_a_file_becomes_what_training_made_of_it(tmp_path: Path, crop: Any, channels: int, size: int) -> None:
    how = Preprocessing((size, size), channels, crop, 255.0)
    files = real_files(tmp_path)
    assert len(files) > 8
    for path in files:
        with Image.open(path) as image:
            expected = prepare_in_training(image, channels, size, crop)
        found = prepare_file(path, how)
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected), path


@pytest.mark.parametrize("binarization", ["none", "threshold"])
def test_a_folder_becomes_what_the_data_set_holds_by_what_the_manifest_says(tmp_path: Path, binarization: str) -> None:
    folder = mixed_folder(tmp_path / "mixed")
    dataset = load(folder, image_size=16, crop="pad", channels=1, binarization=binarization)
    how = Preprocessing(**asdict(dataset.preprocessing))
    pixels = np.concatenate([dataset.train.pixels, dataset.test.pixels]) / np.float32(how.scale)
    expected = (pixels > 0.5).astype(np.float32) if binarization == "threshold" else pixels
    found = [prepare_file(path, how) for path in sorted(folder.iterdir())]
    assert sorted(to_float(each).tobytes() for each in found) == sorted(each.tobytes() for each in expected)


def test_all_images_had_one_size_where_nothing_was_cut() -> None:
    how = replace(HOW, size=(4, 6), crop="none")
    assert prepare(Image.new("L", (6, 4)), how).shape == (3, 4, 6)
    with pytest.raises(InvalidInputError, match="images: expected 6x4 pixels, as all images in training, got 4x6"):
        prepare(Image.new("L", (4, 6)), how)


def test_another_scale_gives_floats() -> None:
    found = prepare(Image.new("L", (8, 8), 4), Preprocessing((8, 8), 1, "none", 16.0))
    assert found.dtype == np.float32
    assert np.array_equal(found, np.full((1, 8, 8), 0.25))


def test_a_pixel_over_the_scale_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 17).save(tmp_path / "bright.png")
    for binarization in ("none", "threshold"):
        how = Preprocessing((8, 8), 1, "none", 16.0, binarization)
        with pytest.raises(InvalidInputError, match=r"bright\.png: expected pixels up to 16, got 17"):
            prepare_file(tmp_path / "bright.png", how)


def test_a_pixel_that_was_drawn_in_training_stays_its_probability() -> None:
    for binarization in ("dynamic", "static"):
        found = prepare(Image.new("L", (16, 16), 100), replace(HOW, channels=1, binarization=binarization))
        assert (found == 100).all()


def animation(path: Path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def deep(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)


def deep_colours(path: Path) -> None:
    path.write_bytes(b"P6 2 2 65535\n" + bytes(24))


def endless(path: Path) -> None:
    Image.new("L", (1, 400_000)).save(path)


def broken(path: Path) -> None:
    path.write_bytes((ROOT / "docs/demo.png").read_bytes()[:3000])


@pytest.mark.parametrize(
    ("write", "name", "text"),
    [
        (animation, "a.gif", "expected one image, got an animation or pages: 2"),
        (deep, "a.png", "expected 8 bits per channel, got more"),
        (deep_colours, "a.ppm", "expected 8 bits per channel, got more"),
        (endless, "a.png", "expected at most 67108864 pixels when the shorter side has 16, got 1x400000"),
        (broken, "a.png", "expected a readable picture, got"),
    ],
)
def test_what_training_refuses_is_refused_by_name(tmp_path: Path, write: Any, name: str, text: str) -> None:
    write(tmp_path / name)
    with pytest.raises(InvalidInputError, match=f"(?s)(a.{name[2:]}.*)?{text}") as refused:
        prepare_file(tmp_path / name, HOW)
    assert name in str(refused.value)


@pytest.mark.parametrize("change", [{"crop": "stretch"}, {"binarization": "noise"}, {"channels": 4}])
def test_what_a_later_server_may_say_is_not_guessed(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="this version does not know how to prepare"):
        prepare(Image.new("RGB", (16, 16)), replace(HOW, **change))
