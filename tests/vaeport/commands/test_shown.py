"""What people see: pictures, the line of progress, the model that is asked."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vaeport
from tests.vaeport.commands.conftest import Asked
from vaeport.cli import main
from vaeport.commands.inputs import image_files, shown
from vaeport.commands.outputs import CLEAR_LINE, progress
from vaeport.commands.reconstruct import in_pairs
from vaeport.commands.source import model_of
from vaeport.commands.traverse import traversal
from vaeport.results import ServerInfo

TILE, GAP = 64, 2


def size(columns: int, rows: int) -> tuple[int, int]:
    """Of a grid of digits, in pixels."""
    return columns * (TILE + GAP) - GAP, rows * (TILE + GAP) - GAP


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["reconstruct", "PHOTOS"], size(5, 2)),
        (["interpolate", "PHOTOS/a.PNG", "PHOTOS/b.png", "--steps", "6"], size(6, 1)),
    ],
)
def test_a_picture_has_its_rows_and_columns(
    arguments: list[str],
    expected: tuple[int, int],
    asked: Asked,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where, _ = asked
    output = tmp_path / "grid.png"
    assert main([*(word.replace("PHOTOS", str(photos)) for word in arguments), *where, "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    with Image.open(output) as image:
        assert image.size == expected
        assert len(image.getcolors() or []) > 10


def test_a_traversal_is_labelled(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, source = asked
    seen: dict[str, Any] = {}

    def save(images: Any, path: Path, columns: int, rows: list[str], heads: list[str]) -> None:
        seen.update(shape=images.shape, columns=columns, rows=rows, heads=heads)

    monkeypatch.setattr("vaeport.pictures.save_grid", save)
    assert main(["traverse", *where, "--dimensions", "1,3", "--steps", "5", "-o", str(tmp_path / "x.png")]) == 0
    assert seen["shape"] == (10, *source.image_shape)
    assert (seen["columns"], seen["heads"]) == (5, ["-3", "-1.5", "0", "1.5", "3"])
    assert [row.partition(",")[0] for row in seen["rows"]] == ["latent 1", "latent 3"]
    assert ["KL" in row for row in seen["rows"]] == [isinstance(source, vaeport.Model)] * 2


def test_without_dimensions_the_active_latents_of_a_package_are_traversed(
    package: Path, model: vaeport.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(package, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["training"]["evaluation"].update(kl_per_latent=[0.1, 2.0, 0.0, 3.0, 0.2], active_units=2)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    output = tmp_path / "x.npy"
    assert main(["traverse", "--package", str(copy), "-o", str(output)]) == 0
    expected = model.decode(traversal(np.zeros(5, np.float32), [3, 1], 3.0, 9))
    assert np.load(output).tobytes() == expected.tobytes()
    assert capsys.readouterr().err == "vaeport: the 2 active of 5 latents; --dimensions takes others\n"
    for kl in ("something else", [10**400] * 5):
        manifest["training"]["evaluation"].update(kl_per_latent=kl)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        assert main(["traverse", "--package", str(copy), "-o", str(output)]) == 0
        assert len(np.load(output)) == 5 * 9


def test_images_stand_above_their_reconstructions() -> None:
    above = np.array([0.0, 0.1, 0.2], np.float32).reshape(3, 1, 1, 1)
    below = np.array([0.5, 0.6, 0.7], np.float32).reshape(3, 1, 1, 1)
    found = in_pairs(above, below, columns=2).ravel()
    np.testing.assert_allclose(found, [0.0, 0.1, 0.5, 0.6, 0.2, 1.0, 0.7, 1.0])


def test_progress_is_one_line_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(1500) as advance:
        advance(500)
        advance(700)
    said = capsys.readouterr().err
    assert "\n" not in said
    assert [part.partition(" images")[0] for part in said.split(CLEAR_LINE)] == [
        "",
        "500 of 1,500",
        "1,200 of 1,500",
        "",
    ]


def test_encode_shows_its_progress_to_a_person_alone(
    asked: Asked, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["encode", str(photos), *asked[0], "-o", str(tmp_path / "x.npz")]
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(arguments) == 0
    assert "5 of 5 images" in capsys.readouterr().err


class Offering:
    """Offers several models; nothing else of it is asked."""

    def __init__(self, default: str, *names: str) -> None:
        self._default = default
        self._models = [vaeport.ModelInfo(name, "1", (1, 8, 8), 5, "bernoulli", "sha256:", ()) for name in names]

    def info(self) -> ServerInfo:
        return ServerInfo(tuple(self._models), 1024, "1", self._default)


class Scoring(Offering):
    """Explains two images, of which the second does not compare with the held-out ones."""

    def score(self, images: list[Path], **_: Any) -> vaeport.Scores:
        column, percentile = np.array([1.25, 2], np.float32), np.array([50, np.nan], np.float32)
        return vaeport.Scores(column, column, column, column, percentile, "grey", 7, "1")


@pytest.mark.parametrize(("form", "last"), [("--json", None), ("--csv", "b.png,2.0,2.0,2.0,,"), (None, "- b.png")])
def test_a_number_that_is_not_there_is_left_out(
    form: str | None,
    last: str | None,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos)
    monkeypatch.setattr("vaeport.commands.score.open_source", lambda _: contextlib.nullcontext(Scoring("", "a")))
    assert main(["score", "a.PNG", "b.png", *([form] if form else [])]) == 0
    said = capsys.readouterr().out
    if last is None:
        assert [row["percentile"] for row in json.loads(said)["images"]] == [50.0, None]
    else:
        assert " ".join(said.splitlines()[-1].split()).endswith(last)


def test_a_folder_gives_its_pictures_sorted_and_without_hidden_ones(photos: Path, files: list[Path]) -> None:
    (photos / "more" / "back").symlink_to(photos)
    assert image_files([files[2], photos]) == [files[2], *files]


def test_a_path_of_any_bytes_can_be_printed() -> None:
    path = Path(b"caf\xe9.png".decode(errors="surrogateescape"))
    assert shown(path) == "caf\N{REPLACEMENT CHARACTER}.png"


def test_info_as_json_says_how_pictures_are_prepared(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *asked[0], "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    assert (found["name"], found["latent_dim"], found["image_shape"]) == ("digits", 5, [1, 8, 8])
    assert found["preprocessing"]["scale"] == 16


def test_the_model_that_is_asked_is_the_only_one_or_the_default() -> None:
    def asked(*offered: str) -> str:
        source: Any = Offering(*offered)
        return model_of(source).name

    assert asked("", "a") == "a"
    assert asked("a", "b") == "b"  # the server says the one that was named alone
    assert asked("b", "a", "b") == "b"
    with pytest.raises(vaeport.InvalidInputError, match="--model: expected one of a, b, got no name"):
        asked("", "a", "b")
