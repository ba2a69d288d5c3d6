"""SIGKILL at any step of a publication: a complete version or none, and the next export removes what was left."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from export.package import staging
from tests.support import ROOT


def run(*arguments: str) -> int:
    """The program of killed.py; it ends with an error that says what was wrong, or prints a number."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # it forks
    command = [sys.executable, "-m", "tests.export.killed", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1000)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_kill_at_any_step_leaves_a_complete_version_or_none(package: Path, tmp_path: Path) -> None:
    assert run("steps", str(package), str(tmp_path), "1", "53") > 300


@pytest.mark.soak
def test_a_kill_at_every_single_step_leaves_a_complete_version_or_none(package: Path, tmp_path: Path) -> None:
    halves = [("steps", str(package), str(tmp_path / first), first, "2") for first in ("1", "2")]
    with ThreadPoolExecutor() as pool:  # each waits for a process of its own, and that mostly for the disk
        assert all(calls > 300 for calls in pool.map(lambda half: run(*half), halves))


def test_exports_to_one_name_at_once_are_never_mixed_though_some_are_killed(package: Path, tmp_path: Path) -> None:
    assert run("together", str(package), str(tmp_path)) >= 12


def test_what_nobody_uses_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".vaeport-staging-left"
    (left / "torchscript").mkdir(parents=True)
    (left / "torchscript" / "encoder.pt").write_bytes(b"half")
    with staging(tmp_path) as first:
        assert not left.exists()
        (first / "file").write_bytes(b"whole")
        with staging(tmp_path) as second:
            assert first != second
            assert (first / "file").read_bytes() == b"whole"
        assert not second.exists()
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_staging_folders_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / ".staging-mine").mkdir()  # of some other program
    (tmp_path / ".vaeport-staging-file").write_text("a file")
    (tmp_path / ".vaeport-staging-link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "kept").write_text("kept")
    with staging(tmp_path):
        pass
    assert (tmp_path / "mine" / "kept").read_text() == "kept"
    assert (tmp_path / ".staging-mine").is_dir()


def test_where_the_file_system_has_no_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    (tmp_path / ".vaeport-staging-left").mkdir()
    monkeypatch.setattr("fcntl.flock", refuse)
    with staging(tmp_path) as folder:
        assert folder.exists()
    assert (tmp_path / ".vaeport-staging-left").exists()
