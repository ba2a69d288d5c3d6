"""How the command ends: exit status, one line for an error, and what it leaves behind."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, ServerProcess
from vaeport.cli import main

COMMAND = [sys.executable, "-m", "vaeport.cli"]


def test_ctrl_c_is_130_and_leaves_nothing_behind(package: Path, tmp_path: Path) -> None:
    image, output = tmp_path / "image.png", tmp_path / "out" / "latents.npz"
    os.mkfifo(image)
    output.parent.mkdir()
    command = [*COMMAND, "encode", str(image), "--package", str(package), "-o", str(output)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    with process, image.open("wb"):  # which opens when the command reads it
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert said == b""
    assert process.returncode == 130
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("command", ["info", "score"])
def test_a_reader_who_has_gone_is_141_and_no_noise(command: str, package: Path, files: list[Path]) -> None:
    read, write = os.pipe()
    os.close(read)
    images = [str(files[0])] if command == "score" else []
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(
            [*COMMAND, command, *images, "--package", str(package)],
            cwd=ROOT,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_is_closed_gets_nothing_and_is_no_failure(closed: str, package: Path, tmp_path: Path) -> None:
    words = shlex.join([*COMMAND, "sample", "--package", str(package), "-n", "1", "-o", str(tmp_path / "x.npy")])
    done = subprocess.run(["sh", "-c", f"{words} {closed}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if closed.startswith(">") else f"{tmp_path / 'x.npy'}\n")
    words = shlex.join([*COMMAND, "info", "--package", "/nowhere"])
    done = subprocess.run(["sh", "-c", f"{words} {closed}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert ("/nowhere: no such folder" in done.stderr) == ("2" not in closed)


@pytest.mark.parametrize("command", ["sample", "encode"])
def test_a_path_that_is_no_text_can_be_written_to(
    command: str, package: Path, files: list[Path], tmp_path: Path
) -> None:
    output = os.fsencode(tmp_path) + b"/\xff.npz"
    images = [os.fsencode(files[0])] if command == "encode" else []
    words = [*map(os.fsencode, COMMAND), command.encode(), *images, b"--package", os.fsencode(package), b"-o", output]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(words, cwd=ROOT, env=strict, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == os.fsencode(tmp_path) + "/\ufffd.npz\n".encode()
    assert os.path.exists(output)  # noqa: PTH110 - of bytes


def test_a_full_disk_is_one_line(package: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [*COMMAND, "info", "--package", str(package)]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "vaeport: error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "PHOTOS/a.PNG", "PHOTOS/nowhere.png"], "No such file or directory: 'PHOTOS/nowhere.png'"),
        (["encode", "PHOTOS/notes.txt"], "images: expected a readable picture, got PHOTOS/notes.txt"),
        (["score", "EMPTY"], "EMPTY: no image files here or below (.avif, .bmp, "),
        (["encode", "PHOTOS", "-o", "/nowhere/x.npz"], "-o: expected a folder that exists, got /nowhere"),
        (["encode", "PHOTOS", "-o", "x.parquet"], "-o: expected X.npz, X.npy or X.csv, got x.parquet"),
        (["reconstruct", "PHOTOS", "-o", "grid.unknown"], "-o: expected a picture such as X.png, X.npy or X.npz, got"),
        (["sample", "-n", "1025"], "-n: expected at most 1024 in a picture; -o X.npy or X.npz takes more, got 1025"),
        (
            ["traverse", "--dimensions", "3", "2"],
            "IMAGE: expected a file (--dimensions takes commas, as in 0,3), got 2",
        ),
        (["interpolate", "PHOTOS/a.PNG", "PHOTOS/b.png", "--steps", "1"], "steps: expected at least 2, got 1"),
        (["traverse", "--dimensions", "0,5"], "--dimensions: expected 0 to 4, got 5"),
        (["traverse", "--range", "nan"], "latents: expected values finite"),
        (["score", "PHOTOS", "--importance-samples", "0"], "importance_samples: expected 1 to"),
        (["sample", "--precision", "fp4"], "precision: expected what digits version 1 has: fp32"),
        (["sample", "--timeout", "0", "--tls"], "--timeout, --tls: for a server; a --package is one model"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_file(
    arguments: list[str],
    message: str,
    package: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)

    def filled(text: str) -> str:
        return text.replace("PHOTOS", str(photos)).replace("EMPTY", str(empty))

    assert main([*map(filled, arguments), "--package", str(package)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vaeport: error: ")
    assert filled(message) in captured.err
    assert captured.err.count("\n") == 1
    assert list(empty.iterdir()) == []


def test_a_name_with_a_line_break_stays_in_one_line(
    package: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = tmp_path / "two\nlines.png"
    bad.write_text("no picture")
    assert main(["encode", str(bad), "--package", str(package), "-o", str(tmp_path / "x.npz")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_failure_leaves_the_file_that_was_there(package: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "latents.npz"
    output.write_text("of yesterday")
    assert main(["encode", str(photos), str(photos / "notes.txt"), "--package", str(package), "-o", str(output)]) == 1
    assert output.read_text() == "of yesterday"


def test_where_nothing_can_be_written_is_said_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: list[Path]
) -> None:
    monkeypatch.setattr("vaeport.commands.source._client", lambda _: pytest.fail("the server was asked"))
    image = str(files[0])
    for command in (["sample"], ["encode", image], ["reconstruct", image], ["interpolate", image, image], ["traverse"]):
        assert main([*command, "-o", "/nowhere/x.npz"]) == 1
        assert capsys.readouterr().err == "vaeport: error: -o: expected a folder that exists, got /nowhere\n"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere"])
def test_where_no_server_is_the_error_says_how_to_start_one(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--server", address, "--timeout", "0.5"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"vaeport: error: no server at {address} (")
    assert said.endswith("; start one with `python -m serving --models DIR`, or give --package\n")


@pytest.mark.parametrize("flag", [["--precision", "fp32"], ["--device", "auto"]])
def test_flags_of_a_package_are_refused_with_a_server(
    flag: list[str], server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--server", server.address, *flag]) == 1
    assert f"{flag[0]}: for a --package; a server has its own" in capsys.readouterr().err


def test_a_version_that_is_not_served_is_an_error(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--server", server.address, "--model", "digits", "--model-version", "9"]) == 1
    assert "version" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["encode"],
        ["score", "x.png", "--json", "--csv"],
        ["info", "--server", "a:1", "--package", "b"],
        ["bench", "--seconds", "0"],
        ["bench", "--callers", "0"],
        ["bench", "dream"],
        ["traverse", "--dimensions", "all"],
        ["sample", "--temp", "1"],  # no abbreviations, which a new flag would make ambiguous
        ["completion", "csh"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: vaeport" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["traverse", "--dimensions", "a"], "expected integers with commas between, as in 0,3, got a"),
        (["traverse", "--dimensions", "15", "2", "5"], "arguments: 5; --dimensions takes commas, as in 0,3"),
        (["bench", "--seconds", "soon"], "expected a positive number of seconds, got soon"),
        (["bench", "--rows", "few"], "expected an integer of at least 1, got few"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_without_names_of_the_code(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err
