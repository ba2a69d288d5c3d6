"""Noise among digits raises the alarm, digits after it end it, and the rule is what its documentation says."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vaeport
from examples import anomaly_alarm
from tests.examples import pictures
from tests.support import ROOT, ServerProcess
from vaeport.testing import FakeClient

WINDOW = anomaly_alarm.WINDOW
DRAWS = 64  # so many that what they say of an image holds for whichever the watch takes


@pytest.fixture(scope="session")
def model(package: Path) -> vaeport.Model:
    return vaeport.load(package)


def ordinary(model: vaeport.Model, count: int) -> pictures.Pixels:
    """Digits that the model explains well, so that chance makes none of them odd."""
    digits = pictures.digits(4 * count)
    return digits[np.argsort(model.score(digits / pictures.WHITE, importance_samples=DRAWS, seed=0).elbo)[-count:]]


def odd(model: vaeport.Model, count: int) -> pictures.Pixels:
    """The other way round."""
    noise = pictures.noise(4 * count)
    return noise[np.argsort(model.score(noise / pictures.WHITE, importance_samples=DRAWS, seed=0).elbo)[:count]]


def test_the_alarm_goes_up_with_noise_and_down_when_the_window_is_full_of_digits(
    model: vaeport.Model,
    package: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = np.split(ordinary(model, 3 * WINDOW), [WINDOW])
    stream = {"before": before, "noise": odd(model, 5), "later": after}
    paths = [path for name, pixels in stream.items() for path in pictures.write(tmp_path, name, pixels)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{path}\n" for path in paths)))
    assert anomaly_alarm.main(["--package", str(package)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("alarm")] == ["alarm up", "alarm down"]
    assert lines.index("alarm up") == WINDOW + anomaly_alarm.RAISE_AT
    assert lines.index("alarm down") == WINDOW + 5 + 1 + WINDOW


def test_a_folder_is_watched_with_a_server_until_ctrl_c(
    model: vaeport.Model, server: ServerProcess, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "examples.anomaly_alarm", "--server", server.address, "--folder", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            [digit] = pictures.write(tmp_path, "digit", ordinary(model, 1))
            assert process.stdout.readline().endswith(f"  {digit}\n")
            pictures.write(tmp_path, "noise", odd(model, anomaly_alarm.RAISE_AT))
            lines = [process.stdout.readline() for _ in range(anomaly_alarm.RAISE_AT + 1)]
            assert lines[-1] == "alarm up\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()


def test_each_file_of_a_folder_comes_once_and_again_if_it_had_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anomaly_alarm, "LOOK_SECONDS", 0.0)
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    (tmp_path / ".hidden.png").touch()
    first.touch()
    arrivals = anomaly_alarm.arrivals(tmp_path)
    assert next(arrivals) == first
    first.unlink()
    second.touch()
    assert next(arrivals) == second
    first.touch()
    assert next(arrivals) == first


def test_each_image_has_a_draw_of_its_own_and_the_same_stream_the_same_figures(
    model: vaeport.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [digit] = pictures.write(tmp_path, "digit", ordinary(model, 1))
    printed = []
    for _ in range(2):
        anomaly_alarm.watch([digit, digit], model)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    first, second = printed[0].splitlines()
    assert first != second


def test_a_file_that_is_no_picture_is_named_and_left_out(
    model: vaeport.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(b"no picture")
    [digit] = pictures.write(tmp_path, "digit", ordinary(model, 1))
    anomaly_alarm.watch([broken, missing, digit], model)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert printed.out.endswith(f"{digit}\n")
    assert "broken.png" in printed.err
    assert "missing.png" in printed.err


@pytest.mark.parametrize(
    ("failures", "said"),
    [([vaeport.UnavailableError("nobody is there")], "nobody is there"), ([], "no figures of held-out images")],
    ids=["nobody", "no figures"],
)
def test_a_server_that_cannot_say_it_ends_the_watch(
    failures: list[vaeport.VaeportError],
    said: str,
    model: vaeport.Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = FakeClient((1, pictures.SIZE, pictures.SIZE))  # which has no figures
    client.fail_next(*failures)
    [digit] = pictures.write(tmp_path, "digit", ordinary(model, 1))
    monkeypatch.setattr(vaeport, "Client", lambda address: client)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{digit}\n"))
    assert anomaly_alarm.main(["--server", "localhost:1"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("anomaly_alarm: error: ")
    assert said in printed.err


def test_ordinary_images_raise_it_in_one_window_of_a_thousand() -> None:
    windows = np.random.default_rng(0).random((1_000_000, WINDOW)) < anomaly_alarm.ODD_BELOW / 100
    share = (windows.sum(axis=1) >= anomaly_alarm.RAISE_AT).mean()
    assert anomaly_alarm.chance_of_false_alarm() == pytest.approx(share, rel=0.1)
    assert anomaly_alarm.chance_of_false_alarm() == pytest.approx(1 / 1000, rel=0.01)
