"""What should be served, by a clock that the test sets."""

import shutil
from pathlib import Path

import pytest

from serving.supervisor.messages import Said
from serving.supervisor.reload_backoff import FIRST_RETRY
from serving.supervisor.wanted import Wanted
from vaeport.errors import PackageError


@pytest.fixture
def two(models: Path, tmp_path: Path) -> tuple[Path, ...]:
    """Models a and b, a version each; the folders that default_packages finds."""
    for name in ("a", "b"):
        shutil.copytree(models / "digits" / "1", tmp_path / name / "1")
    return (tmp_path / "a" / "1", tmp_path / "b" / "1")


def test_nothing_is_due_until_somebody_asks(two: tuple[Path, ...]) -> None:
    wanted = Wanted(two[0].parents[1], watch=0.0)
    assert wanted.due(two, now=1e9) is None
    wanted.asked = True
    assert wanted.due(two, now=0.0) == two
    assert wanted.due(two, now=0.0) is None


def test_a_watcher_looks_now_and_then_and_takes_what_is_new(two: tuple[Path, ...]) -> None:
    wanted = Wanted(two[0].parents[1], watch=5.0)
    assert wanted.due(two, now=10.0) is None
    shutil.copytree(two[0], two[0].parent / "2")
    new = (two[0].parent / "2", two[1])
    assert wanted.due(two, now=14.9) is None
    assert wanted.due(two, now=15.0) == new


def test_a_watcher_does_not_try_at_once_what_was_refused(two: tuple[Path, ...]) -> None:
    wanted = Wanted(two[0].parents[1], watch=1.0)
    old = (two[0],)
    assert wanted.due(old, now=10.0) == two
    wanted.backoff.refused(two, 10.0)
    assert wanted.due(old, now=12.0) is None
    assert wanted.due(old, now=10.0 + FIRST_RETRY) == two


def test_what_is_unloaded_is_left_out_but_not_the_last_model(two: tuple[Path, ...]) -> None:
    wanted = Wanted(two[0].parents[1], watch=0.0)
    wanted.hear(Said.UNLOAD, "a", two)
    assert wanted.due(two, now=0.0) == two[1:]
    wanted.hear(Said.UNLOAD, "b", two[1:])
    assert wanted.due(two[1:], now=0.0) == two[1:]
    wanted.hear(Said.LOAD, "a", two[1:])
    assert wanted.due(two[1:], now=0.0) == two


def test_who_asks_always_hears_what_is_wrong_and_a_watcher_once(tmp_path: Path) -> None:
    wanted = Wanted(tmp_path / "nowhere", watch=1.0)
    with pytest.raises((PackageError, OSError)) as error:
        wanted.due((), now=10.0)
    wanted.backoff.refused(str(error.value), 10.0)
    assert wanted.due((), now=11.0) is None
    wanted.asked = True
    with pytest.raises((PackageError, OSError)):
        wanted.due((), now=11.0)
