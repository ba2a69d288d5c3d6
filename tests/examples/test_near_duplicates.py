"""The nearest image of an altered copy is the one it was made of, and the store follows its folder."""

import os
from pathlib import Path

import duckdb
import numpy as np
import pytest

from examples import near_duplicates
from tests.examples import pictures

COUNT = 20


def run(command: str, what: Path, package: Path, store: Path) -> int:
    return near_duplicates.main([command, str(what), "--package", str(package), "--store", str(store)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    pictures.write(folder, "digit", pictures.digits(COUNT))
    return folder


def test_an_altered_copy_finds_its_original_first(
    package: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert run("index", folder, package, store) == 0
    assert capsys.readouterr().out == f"{COUNT} images, {COUNT} of them encoded now\n"
    originals = pictures.digits(COUNT)
    copies = pictures.write(tmp_path / "copies", "darker", originals - (originals > pictures.WHITE // 2))
    for index, copy in enumerate(copies):
        assert run("query", copy, package, store) == 0
        lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
        assert Path(lines[0][1]).name == f"digit-{index:03}.png"
        distances = [float(distance) for distance, _ in lines]
        assert len(lines) == 5
        assert distances[0] > 0.0
        assert distances == sorted(distances)


def test_an_image_of_the_folder_is_at_distance_nought_from_itself(
    package: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = folder / "digit-007.png"
    run("index", folder, package, tmp_path / "store")
    capsys.readouterr()
    run("query", image, package, tmp_path / "store")
    assert capsys.readouterr().out.splitlines()[0].split() == ["0.000", str(image)]


def test_indexing_again_encodes_what_has_changed_and_forgets_what_is_gone(
    package: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, changed, gone = tmp_path / "store", folder / "digit-003.png", folder / "digit-004.png"
    run("index", folder, package, store)
    os.utime(changed, ns=(0, 0))
    gone.unlink()
    capsys.readouterr()
    run("index", folder, package, store)
    assert capsys.readouterr().out == f"{COUNT - 1} images, 1 of them encoded now\n"
    with duckdb.connect(str(store)) as connection:
        paths = {path for (path,) in connection.execute("SELECT path FROM images").fetchall()}
    assert paths == {str(path) for path in folder.iterdir()}


def test_a_file_that_is_no_picture_is_named_and_left_out(
    package: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    assert run("index", folder, package, tmp_path / "store") == 0
    printed = capsys.readouterr()
    assert printed.out == f"{COUNT + 1} images, {COUNT} of them encoded now\n"
    assert "broken.png" in printed.err


def test_a_file_that_is_no_picture_any_more_is_forgotten(
    package: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, spoilt = tmp_path / "store", folder / "digit-005.png"
    run("index", folder, package, store)
    spoilt.write_bytes(b"no picture")
    assert run("index", folder, package, store) == 0
    assert "digit-005.png" in capsys.readouterr().err
    with duckdb.connect(str(store)) as connection:
        paths = {path for (path,) in connection.execute("SELECT path FROM images").fetchall()}
    assert paths == {str(path) for path in folder.iterdir()} - {str(spoilt)}


def test_embeddings_of_another_model_are_not_compared() -> None:
    with duckdb.connect(":memory:") as store:
        store.execute(near_duplicates.TABLE)
        near_duplicates.write(store, [("a", 1, np.zeros(2, np.float32))], "old")
        near_duplicates.write(store, [("b", 1, np.ones(3, np.float32))], "new")
        [(path, distance)] = near_duplicates.nearest(store, np.zeros(3, np.float32), "new", 5)
    assert path == "b"
    assert distance == pytest.approx(3**0.5)


def test_a_folder_that_is_not_there_is_one_line_and_status_1(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("index", tmp_path / "nowhere", package, tmp_path / "store") == 1
    assert capsys.readouterr().err == f"near_duplicates: error: {tmp_path / 'nowhere'}: no such folder\n"
