"""The numbers of a command are those of Client, AsyncClient and Model, to the bit."""

import csv
import json
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vaeport
from tests.support import ServerProcess
from tests.vaeport.commands.conftest import Asked
from vaeport.chunks import CHUNK_ROWS
from vaeport.cli import main
from vaeport.commands.score import COLUMNS
from vaeport.commands.traverse import traversal


def test_samples_are_those_of_the_library(asked: Asked, tmp_path: Path) -> None:
    where, source = asked
    arguments = ["-n", "300", "--seed", "7", "--temperature", "0.7", "-o", str(tmp_path / "x.npy")]
    assert main(["sample", *where, *arguments]) == 0
    assert np.load(tmp_path / "x.npy").tobytes() == source.sample(300, seed=7, temperature=0.7).tobytes()


async def test_all_four_ways_give_the_same_samples_and_latents(
    server: ServerProcess, package: Path, model: vaeport.Model, photos: Path, files: list[Path], tmp_path: Path
) -> None:
    for name, where in (("served", ["--server", server.address]), ("here", ["--package", str(package)])):
        assert main(["sample", *where, "--seed", "3", "-n", "5", "-o", str(tmp_path / f"{name}.npy")]) == 0
        assert main(["encode", str(photos), *where, "-o", str(tmp_path / f"{name}.npz")]) == 0
    async with vaeport.AsyncClient(server.address) as client:
        samples, encoding = await client.sample(5, seed=3), await client.encode(files)
    assert samples.tobytes() == model.sample(5, seed=3).tobytes()
    for name in ("served", "here"):
        assert np.load(tmp_path / f"{name}.npy").tobytes() == samples.tobytes()
        assert np.load(tmp_path / f"{name}.npz")["mean"].tobytes() == encoding.mean.tobytes()


def test_encode_writes_posteriors_paths_and_the_version(
    asked: Asked, photos: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where, source = asked
    output = tmp_path / "latents.npz"
    assert main(["encode", str(photos), str(files[1]), *where, "-o", str(output)]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"{output}\n", "")
    expected = source.encode([*files, files[1]])
    with np.load(output, allow_pickle=False) as found:
        assert sorted(found) == ["log_var", "mean", "model", "paths", "version"]
        assert found["mean"].tobytes() == expected.mean.tobytes()
        assert found["log_var"].tobytes() == expected.log_var.tobytes()
        assert found["paths"].tolist() == [str(path) for path in [*files, files[1]]]
        assert (str(found["model"]), str(found["version"])) == ("digits", "1")


def test_reconstructions_are_those_of_the_library(
    asked: Asked, photos: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where, source = asked
    output = tmp_path / "again.npy"
    assert main(["reconstruct", str(photos), *where, "-o", str(output), "--limit", "3"]) == 0
    assert np.load(output).tobytes() == source.reconstruct(files[:3]).tobytes()
    assert capsys.readouterr().err == "vaeport: the first 3 of 5 images; --limit takes more\n"


@pytest.mark.parametrize("spherical", [True, False])
def test_the_way_between_two_images_is_that_of_the_library(
    spherical: bool, asked: Asked, files: list[Path], tmp_path: Path
) -> None:
    where, source = asked
    flags = ["--spherical"] if spherical else []
    output = tmp_path / "strip.npy"
    assert main(["interpolate", str(files[0]), str(files[1]), *where, *flags, "--steps", "5", "-o", str(output)]) == 0
    assert np.load(output).tobytes() == source.interpolate(files[0], files[1], 5, spherical=spherical).tobytes()


def test_a_traversal_decodes_what_differs_in_one_dimension_a_row(
    asked: Asked, files: list[Path], tmp_path: Path
) -> None:
    where, source = asked
    output = tmp_path / "grid.npy"
    assert main(["traverse", *where, "--dimensions", "0,1,2,3,4", "-o", str(output)]) == 0
    prior = np.zeros(5, np.float32)
    assert np.load(output).tobytes() == source.decode(traversal(prior, range(5), 3.0, 9)).tobytes()
    chosen = ["--dimensions", "4,0", "--range", "2", "--steps", "3"]
    assert main(["traverse", str(files[0]), *where, *chosen, "-o", str(output)]) == 0
    mean = source.encode(files[0]).mean[0]
    assert np.load(output).tobytes() == source.decode(traversal(mean, [4, 0], 2.0, 3)).tobytes()


def test_traversal_leaves_the_other_dimensions_alone() -> None:
    base = np.array([10.0, 20.0, 30.0], np.float32)
    assert traversal(base, [2, 0], 1.0, 3).tolist() == [
        [10, 20, -1],
        [10, 20, 0],
        [10, 20, 1],
        [-1, 20, 30],
        [0, 20, 30],
        [1, 20, 30],
    ]
    assert base.tolist() == [10, 20, 30]


def test_scores_are_those_of_the_library_however_many_there_are(
    asked: Asked, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    where, source = asked
    many = (files * CHUNK_ROWS)[: CHUNK_ROWS + 3]
    arguments = ["score", *map(str, many), *where, "--importance-samples", "3", "--seed", "7"]
    expected = source.score(many, importance_samples=3, seed=7)
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    about = {name: value for name, value in found.items() if name != "images"}
    assert about == {"model": "digits", "version": "1", "setting": "grey", "seed": 7, "importance_samples": 3}
    assert main([*arguments, "--csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    for images in (found["images"], rows):
        assert [row["path"] for row in images] == [str(path) for path in many]
        for name in COLUMNS:
            if name == "log_likelihood":  # of grey pixels it is no likelihood
                assert {row[name] for row in images} == {"" if images is rows else None}
                continue
            column = getattr(expected, name)
            assert column is not None
            assert np.array([row[name] for row in images], np.float32).tobytes() == column.tobytes(), name


def test_without_flags_two_scores_of_an_image_are_the_same(
    package: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", *map(str, files), "--package", str(package), "--json"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == first
    assert (json.loads(first)["seed"], json.loads(first)["importance_samples"]) == (0, 16)


@pytest.mark.parametrize(("draws", "shown"), [("1", False), ("2", True)])
def test_the_bound_is_shown_where_it_bounds_a_likelihood(
    draws: str, shown: bool, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "black.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)  # whose pixels are binary
    arguments = ["score", str(image), "--package", str(package), "--importance-samples", draws]
    assert main([*arguments, "--json"]) == 0
    assert (json.loads(capsys.readouterr().out)["images"][0]["log_likelihood"] is not None) == shown
    assert main(arguments) == 0
    assert ("log_likelihood" in capsys.readouterr().out) == shown


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_encode_writes_what_the_suffix_says(
    suffix: str, asked: Asked, photos: Path, files: list[Path], tmp_path: Path
) -> None:
    where, source = asked
    output, expected = tmp_path / f"latents{suffix}", source.encode(files)
    assert main(["encode", str(photos), *where, "-o", str(output)]) == 0
    if suffix == ".npy":
        assert np.load(output).tobytes() == expected.mean.tobytes()
        return
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [row["path"] for row in rows] == [str(path) for path in files]
    for name in ("mean", "log_var"):
        found = np.array([[row[f"{name}_{i}"] for i in range(source.latent_dim)] for row in rows], np.float32)
        assert found.tobytes() == getattr(expected, name).tobytes()


def test_samples_in_a_npz_are_those_of_a_npy(package: Path, tmp_path: Path) -> None:
    for name in ("x.npy", "x.npz"):
        assert main(["sample", "--package", str(package), "-n", "3", "--seed", "7", "-o", str(tmp_path / name)]) == 0
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["images"].tobytes() == np.load(tmp_path / "x.npy").tobytes()


def test_the_table_of_scores_has_a_line_for_each_image(
    asked: Asked, photos: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    where, source = asked
    assert main(["score", str(photos), *where, "--seed", "7"]) == 0
    about, header, *lines = capsys.readouterr().out.splitlines()
    assert about == "digits version 1, pixels between 0 and 1, importance samples: 16, seed: 7; in nats"
    assert header.split() == ["reconstruction", "kl", "elbo", "percentile", "path"]
    elbo = source.score(files, importance_samples=16, seed=7).elbo
    assert [line.split()[2] for line in lines] == [f"{value:.2f}" for value in elbo]
    assert [line.split()[-1] for line in lines] == [str(path) for path in files]


def test_numbers_go_into_a_pipe_which_stays_one(package: Path, model: vaeport.Model, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.npy"
    subprocess.run(["mkfifo", str(pipe)], check=True)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert main(["sample", "--package", str(package), "-n", "2", "--seed", "7", "-o", str(pipe)]) == 0
    reader.join()
    assert read[0].endswith(model.sample(2, seed=7).tobytes())
    assert pipe.is_fifo()
