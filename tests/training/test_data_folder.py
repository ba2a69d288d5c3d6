"""A folder of image files: what counts as one, labels from subfolders, and which file is at fault."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.test_data import load, noise
from training.data.folder import IMAGE_SUFFIXES
from training.errors import DataError


def save_images(folder: Path, *names: str, size: tuple[int, int] = (6, 5), mode: str = "L") -> Path:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(size[1], size[0], len(mode), seed=index).squeeze()).save(folder / name)
    return folder


def save_frames(path: Path) -> Path:
    first, *others = (Image.fromarray(noise(5, 6, 3, seed=index)) for index in range(3))
    first.save(path, save_all=True, append_images=others)
    return path


def png_of_16_bits(colour_type: int) -> bytes:
    """4x4 pixels of 2 (RGB), 4 (grey and alpha) or 6 (RGBA) channels, which Pillow cannot write."""
    row = b"\0" + bytes(range(4 * 2 * {2: 3, 4: 2, 6: 4}[colour_type]))
    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(4 * row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def test_a_folder_of_grey_images(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{i}.png" for i in range(10)))
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = load(tmp_path)
    assert (dataset.image_shape, dataset.scale, len(dataset.train), len(dataset.test)) == ((1, 5, 6), 255.0, 9, 1)
    assert dataset.train.labels is None
    assert dataset.classes is None


def test_subfolders_are_labels(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(10)))
    dataset = load(tmp_path)
    assert dataset.train.labels is not None
    assert dataset.test.labels is not None
    assert np.bincount(np.concatenate([dataset.train.labels, dataset.test.labels])).tolist() == [10, 10]
    assert dataset.classes == ("cat", "dog")


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


def test_a_link_to_another_class_is_a_class_of_its_own(tmp_path: Path) -> None:
    save_images(tmp_path / "data", *(f"real/{i}.png" for i in range(3)))
    for name in ("a-link", "z-link"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "data" / "real")
    dataset = load(tmp_path / "data")
    assert dataset.classes == ("a-link", "real", "z-link")
    assert len(dataset.train) + len(dataset.test) == 9
    assert not dataset.notes


def test_a_link_that_leads_back_is_named(tmp_path: Path) -> None:
    save_images(tmp_path / "data", "a/a.png", "a/b.png")
    (tmp_path / "data" / "a" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "up").symlink_to(tmp_path)
    assert load(tmp_path / "data").notes == tuple(
        f"{tmp_path}/data/{link}: leads back to a folder that it is in, and is not followed"
        for link in ("a/back", "up")
    )


def test_files_that_are_no_images_are_counted_by_their_suffix(tmp_path: Path) -> None:
    save_images(tmp_path, "a.png", "b.png")
    for name in ("x.txt", "y.TXT", "z.heic", "LICENSE", ".hidden"):
        (tmp_path / name).write_text("")
    (note,) = load(tmp_path).notes
    assert note.startswith(f"{tmp_path}: 4 files ignored (.txt, ")
    assert {".heic", "no suffix"} < set(note.rpartition("(")[2].rstrip(")").split(", "))


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_one_that_pillow_reads(suffix: str) -> None:
    Image.init()
    assert Image.registered_extensions()[suffix] in Image.OPEN


@pytest.mark.parametrize("suffix", ["jfif", "avif", "tga"])
def test_rarer_suffixes_are_images_too(tmp_path: Path, suffix: str) -> None:
    save_images(tmp_path, f"a.{suffix}", f"b.{suffix}", mode="RGB")
    assert len(load(tmp_path).train) == 1


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (("train", "test"), "--data {0}/train --test-data {0}/test"),
        (("Train", "val", "test"), "--data {0}/Train --test-data {0}/test"),
        (("training", "validation", "other"), "--data {0}/training --test-data {0}/validation"),
        (("train",), "--data {0}/train"),
    ],
)
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, names: tuple[str, ...], advice: str) -> None:
    save_images(tmp_path, *(f"{name}/{kind}/{i}.png" for name in names for kind in ("cat", "dog") for i in range(2)))
    with pytest.raises(DataError, match=f"taken for classes, .*: give {advice.format(tmp_path)}, or rename"):
        load(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    save_images(tmp_path, *(f"{name}/{i}.png" for name in ("car", "train") for i in range(2)))
    assert load(tmp_path).classes == ("car", "train")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_transparency_that_varies_is_told(tmp_path: Path, mode: str) -> None:
    for index in range(3):
        alpha = Image.fromarray(noise(5, 6, seed=index) if index else np.full((5, 6), 9, np.uint8))
        grey = Image.fromarray(noise(5, 6, seed=9 + index))
        if mode == "P":
            palette = grey.quantize(4)
            palette.save(tmp_path / f"{index}.png", transparency=bytes([0, 128, 255, 7] if index else [9] * 4))
        else:
            image = grey.convert(mode)
            image.putalpha(alpha)
            image.save(tmp_path / f"{index}.png")
    assert load(tmp_path).notes == (
        f"{tmp_path}: the transparency of 2 images is dropped, and what is drawn by it alone with it",
    )


def test_images_that_are_drawn_by_transparency_alone_say_why_they_are_equal(tmp_path: Path) -> None:
    for index in range(3):
        image = Image.new("RGBA", (6, 5))
        image.putalpha(Image.fromarray(noise(5, 6, seed=index)))
        image.save(tmp_path / f"{index}.png")
    with pytest.raises(DataError, match=r"all 3 images are equal: .*; .*the transparency of 3 images is dropped"):
        load(tmp_path)


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
            r"c\.png: 7x5 pixels, but .*a\.png has 6x5: all images must have one size; --image-size gives them one",
        ),
        (lambda f: (f / "bad.png").write_bytes(b"nonsense"), r"bad\.png: not a readable image"),
        (lambda f: (f / "bad.ppm").write_bytes(b"P6 x 3 255\n"), r"bad\.ppm: not a readable image"),
        (
            lambda f: (save_images(f, "a.png"), (f / "cut.png").write_bytes((f / "a.png").read_bytes()[:60])),
            r"cut\.png: not a readable image",
        ),
        (
            lambda f: Image.fromarray(np.zeros((4, 4), np.uint16)).save(f / "deep.png"),
            r"deep\.png: expected 8 bits per channel, got Pillow's mode 'I;16'; convert it",
        ),
        (lambda f: (f / "deep.png").write_bytes(png_of_16_bits(colour_type=2)), r"deep\.png: .*8 bits .*, got 16"),
        (lambda f: (f / "deep.png").write_bytes(png_of_16_bits(colour_type=4)), r"deep\.png: .*8 bits .*, got 16"),
        (lambda f: (f / "deep.png").write_bytes(png_of_16_bits(colour_type=6)), r"deep\.png: .*8 bits .*, got 16"),
        (lambda f: (f / "deep.ppm").write_bytes(b"P6 1 1 65535\n" + bytes(6)), r"deep\.ppm: .*8 bits .*, got 16"),
        (lambda f: save_frames(f / "a.gif"), r"a\.gif: expected one image, got an animation or pages: 3"),
        (lambda f: save_frames(f / "a.png"), r"a\.png: expected one image, got an animation or pages: 3"),
        (lambda f: save_frames(f / "a.webp"), r"a\.webp: expected one image, got an animation or pages: 3"),
        (lambda f: save_frames(f / "a.tiff"), r"a\.tiff: expected one image, got an animation or pages: 3"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(
    tmp_path: Path, prepare: Callable[[Path], object], message: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_a_file_cut_short_is_named(tmp_path: Path, suffix: str) -> None:
    save_images(tmp_path, "a.png", f"cut.{suffix}", size=(40, 40), mode="RGB")
    path = tmp_path / f"cut.{suffix}"
    content = path.read_bytes()
    for length in (10, 100, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"cut\.{suffix}: not a readable image"):
            load(tmp_path)


@pytest.mark.parametrize("colour", [(9, 9, 9), (9, 8, 9)])
def test_a_palette_is_grey_if_every_pixel_is(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    """The third colour of the palette is used by no pixel."""
    for index in range(4):
        image = Image.fromarray((noise(5, 6, seed=index) % 2).astype(np.uint8), "L")
        palette = Image.frombytes("P", image.size, image.tobytes())
        palette.putpalette([200, 200, 200, *colour, 255, 0, 0])
        palette.save(tmp_path / f"{index}.png")
    dataset = load(tmp_path)
    assert dataset.image_shape == ((1, 5, 6) if colour == (9, 9, 9) else (3, 5, 6))
    assert np.unique(dataset.train.pixels[:, 0]).tolist() == [9, 200]


def test_transparency_is_dropped(tmp_path: Path) -> None:
    """Also that of a palette, of which Pillow would warn."""
    for index in range(2):
        grey = noise(5, 6, seed=index)
        Image.fromarray(np.stack([grey, np.zeros_like(grey)], axis=2), "LA").save(tmp_path / f"{index}.png")
    palette = Image.fromarray(noise(5, 6, seed=2)).quantize(4)
    palette.save(tmp_path / "2.png", transparency=bytes([0, 128, 255, 7]))
    dataset = load(tmp_path)
    assert dataset.image_shape == (1, 5, 6)
    assert (dataset.train.pixels == noise(5, 6, seed=0)).all(axis=(1, 2, 3)).any()


def test_of_a_camera_file_with_several_pictures_the_first_counts(tmp_path: Path) -> None:
    for index in range(2):
        first, preview = (Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (50 + 100 * index, 255))
        first.save(tmp_path / f"{index}.jpg", format="MPO", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "0.jpg") as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    dataset = load(tmp_path)
    assert np.unique([*dataset.train.pixels, *dataset.test.pixels]).tolist() == [50, 150]
