"""The command: what it prints, what it writes, and errors in one line."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

import vaeport
from tests.support import ServerProcess
from tests.vaeport.certificates import Authority
from tests.vaeport.scripted_server import fail, scripted
from vaeport.cli import main
from vaeport.pictures import save_grid


@pytest.fixture(params=["server", "package"])
def source(request: pytest.FixtureRequest, server: ServerProcess, package: Path) -> list[str]:
    return ["--server", server.address] if request.param == "server" else ["--package", str(package)]


def test_info_prints_a_line_per_model(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *source]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "digits version 1: images 1x8x8, 5 latent dimensions, bernoulli, CPUExecutionProvider, sha256:"
    )


def test_sample_writes_a_picture_and_prints_its_path(
    source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "grid.png"
    assert main(["sample", *source, "-n", "6", "--seed", "7", "-o", str(picture)]) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    with Image.open(picture) as image:
        assert image.size == (3 * 64 + 2 * 2, 2 * 64 + 2)
        assert len(image.getcolors() or []) > 10


def test_the_same_seed_gives_the_same_picture_from_server_and_package(
    server: ServerProcess, package: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    assert main(["sample", "--server", server.address, "--seed", "7", "-o", str(one)]) == 0
    assert main(["sample", "--package", str(package), "--seed", "7", "-o", str(two)]) == 0
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "--server", "127.0.0.1:1"], "no server at 127.0.0.1:1 (Connection refused); start one with"),
        (["info", "--package", "/nowhere"], "/nowhere: no such folder"),
        (
            ["info", "--package", "PACKAGE", "--model", "x"],
            "--model: for a server; a --package is one model, in this process",
        ),
        (["info", "--package", "PACKAGE", "--ca", "x"], "--ca: for a server"),
        (["info", "--cert", "x"], "TLS: cert and key belong together"),
        (["info", "--ca", "/nowhere.pem"], "No such file or directory: '/nowhere.pem'"),
        (["info", "--token-file", "/nowhere"], "No such file or directory: '/nowhere'"),
        (["info", "--token-file", "/dev/null"], "--token-file: expected a token, got nothing in /dev/null"),
        (["info", "--server", "localhost"], "address: expected host:port"),
        (["sample", "--package", "PACKAGE", "-n", "0"], "count: expected at least 1 row"),
        (
            ["sample", "--package", "PACKAGE", "-o", "/nowhere/grid.png"],
            "-o: expected a folder that exists, got /nowhere",
        ),
        (
            ["sample", "--package", "PACKAGE", "-o", "grid.unknown"],
            "-o: expected a picture such as X.png, X.npy or X.npz",
        ),
    ],
)
def test_an_error_is_one_line_and_exit_status_1(
    arguments: list[str], message: str, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(package) if a == "PACKAGE" else a for a in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vaeport: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_tls_and_a_token_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority, token = Authority(tmp_path), tmp_path / "token"
    signed = authority.sign("localhost")
    token.write_text("open-sesame\n")
    credentials = grpc.ssl_server_credentials([(signed.key.read_bytes(), signed.cert.read_bytes())])
    with scripted(address="localhost:0", credentials=credentials) as (address, server):
        assert main(["info", "--server", address, "--ca", str(authority.ca), "--token-file", str(token)]) == 0
    assert capsys.readouterr().out.startswith("toy version 1: images 1x2x2")
    assert server.info_metadata["authorization"] == "Bearer open-sesame"


ESCAPE = "\x1b]0;mine\x07"


def test_what_a_server_says_does_not_rule_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted() as (address, server):
        server.info.models[0].name = server.info.default_model = ESCAPE
        server.info.server_version = ESCAPE
        assert main(["info", "--server", address]) == 0
        assert main(["doctor", "--server", address]) == 1
        assert main(["bench", "sample", "--seconds", "0.01", "--server", address]) == 1
        assert main(["sample", "--server", address]) == 1
    said = capsys.readouterr()
    assert "\\x1b]0;mine\\x07 version 1: images 1x2x2" in said.out
    assert "\x1b" not in said.out + said.err
    with scripted(fail(grpc.StatusCode.INTERNAL, ESCAPE)) as (address, _):
        assert main(["encode", "docs/demo.png", "--server", address]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_more_than_the_memory_holds_is_one_line(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path / "x.npy")
    for count, text in ((10**12, "Unable to allocate"), (10**18, "array is too big")):
        assert main(["sample", "-n", str(count), "--package", str(package), "-o", output]) == 1
        assert capsys.readouterr().err.startswith(f"vaeport: error: {text}")

    def fill_up(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("vaeport.commands.sample.save_images", fill_up)
    assert main(["sample", "--package", str(package), "-o", output]) == 1
    assert capsys.readouterr().err == "vaeport: error: not enough memory\n"


def test_wrong_usage_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sample", "-n", "many"])
    assert "invalid int value" in capsys.readouterr().err


def test_a_grid_holds_every_image_in_reading_order(tmp_path: Path) -> None:
    images = np.zeros((3, 3, 64, 64), np.float32)
    images[0, 0], images[1, 1], images[2, 2] = 1, 1, 1
    save_grid(images, tmp_path / "grid.png", columns=2)
    with Image.open(tmp_path / "grid.png") as grid:
        assert [grid.getpixel(p) for p in ((10, 10), (100, 10), (10, 100), (100, 100))] == [
            (255, 0, 0),
            (0, 255, 0),
            (0, 0, 255),
            (255, 255, 255),
        ]


def test_a_small_image_is_enlarged_smoothly(tmp_path: Path) -> None:
    save_grid(np.array([[[[0.0, 1.0], [0.2, 0.6]]]], np.float32), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (64, 64)
        assert len(grid.getcolors(4096) or []) > 100


def test_names_stand_beside_rows_and_above_columns(tmp_path: Path) -> None:
    images = np.ones((6, 1, 64, 64), np.float32)
    for path, names in (("plain.png", ()), ("named.png", ("a", "b"))):
        save_grid(images, tmp_path / path, 3, row_names=names, column_names=["-1", "0", "1"] if names else ())
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "named.png") as named:
        assert plain.getextrema() == (255, 255)
        left, top = named.width - plain.width, named.height - plain.height
        assert np.asarray(named)[top : top + 64, :left].min() < 128
        assert np.asarray(named)[:top, left + 66 : left + 130].min() < 128
        assert named.crop((left, top, *named.size)).getextrema() == (255, 255)


def test_only_grey_and_colour_make_a_picture(tmp_path: Path) -> None:
    with pytest.raises(vaeport.InvalidInputError, match="1 or 3 channels, got 2 channels"):
        save_grid(np.zeros((1, 2, 4, 4), np.float32), tmp_path / "grid.png")
