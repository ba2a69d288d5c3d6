"""The closed loop: how much it calls, what it counts, and when it ends."""

import json
import threading
from typing import Any

import pytest

import vaeport
from tests.vaeport.commands.conftest import Asked
from vaeport.cli import main
from vaeport.commands.bench import CALLS, Measured, closed_loop, summary


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_measured(call: str, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    where, _ = asked
    assert main(["bench", call, *where, "--seconds", "0.05", "--callers", "2", "--rows", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {found[name] for name in ("model", "version", "call", "rows", "callers")} == {"digits", "1", call, 3, 2}
    assert found["calls"] >= 1
    assert found["calls_per_second"] == pytest.approx(found["calls"] / found["seconds"])
    assert found["images_per_second"] == pytest.approx(3 * found["calls_per_second"])
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["seconds"] * 1000
    assert found["failures"] == {}


def test_the_table_has_rates_and_percentiles(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *asked[0], "--seconds", "0.05"]) == 0
    about, *lines = capsys.readouterr().out.splitlines()
    assert about.startswith("encode, images a call: 1, callers: 4, digits version 1, ")
    assert [line.split()[0] for line in lines] == ["calls/s", "images/s", "p50", "p90", "p99"]


def test_each_caller_has_one_call_in_flight() -> None:
    lock, all_there, inside, most = threading.Lock(), threading.Event(), 0, 0

    def call() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        if most == 3:
            all_there.set()
        assert all_there.wait(30)
        with lock:
            inside -= 1

    measured = closed_loop(call, callers=3, seconds=1.0)
    assert most == 3
    assert len(measured.latencies) >= 3


def test_failures_are_counted_by_their_kind_and_not_as_answers() -> None:
    def call() -> None:
        raise vaeport.OverloadedError("full")

    measured = closed_loop(call, callers=1, seconds=0.01)
    assert measured.latencies == []
    assert set(measured.failures) == {"OverloadedError"}
    found = summary(measured, rows=1)
    assert (found["calls"], found["calls_per_second"], found["p99_ms"]) == (0, 0.0, None)


def test_a_call_that_failed_is_exit_status_1(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> Measured:
        measured = Measured(seconds=1.0)
        measured.failures["OverloadedError"] += 2
        return measured

    monkeypatch.setattr("vaeport.commands.bench.closed_loop", failing)
    assert main(["bench", *asked[0]]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 failed with OverloadedError"


def test_an_interruption_ends_all_callers() -> None:
    calls = iter(range(100))

    def call() -> None:
        if next(calls) == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        closed_loop(call, callers=1, seconds=3600)


def test_a_server_that_is_not_there_is_an_error_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--server", "127.0.0.1:1", "--timeout", "0.5", "--seconds", "3600"]) == 1
    assert capsys.readouterr().err.startswith("vaeport: error: no server at 127.0.0.1:1 ")
