"""What an operator decides about versions, and the commands for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.repository import default_packages, pin, prune, unpin, withdraw
from tests.support import ROOT
from vaeport.errors import NotFoundError, PackageError
from vaeport.versions import default_version, versions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/1", "b/1", "b/2", "b/3", "b/4"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path / "b"


def test_the_default_version_of_each_model_is_served(folder: Path) -> None:
    models = folder.parent
    (models / "no-versions").mkdir()
    assert default_packages(models) == (models / "a" / "1", models / "b" / "4")
    pin(folder, 2)
    assert default_packages(models) == (models / "a" / "1", models / "b" / "2")
    unpin(folder)
    withdraw(folder, 4)
    withdraw(folder, 2)
    assert default_packages(models) == (models / "a" / "1", models / "b" / "3")
    withdraw(folder, 4, undo=True)
    assert default_version(folder) == 4
    withdraw(models / "a", 1)
    assert default_packages(models) == (models / "b" / "4",)


def test_what_cannot_be_a_model_is_not_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root of a file system has lost+found, which only root may read."""
    models, scandir = folder.parent, os.scandir
    (models / "lost+found").mkdir()

    def closed(path: Path) -> object:
        if path.name == "lost+found":
            raise PermissionError(f"{path}: permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert default_packages(models) == (models / "a" / "1", models / "b" / "4")


def test_a_folder_without_models_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"no models here; make one with: python -m export RUN --to .*/NAME"):
        default_packages(tmp_path)
    with pytest.raises(PackageError, match="no such folder of models"):
        default_packages(tmp_path / "nothing")
    (tmp_path / "a" / "1").mkdir(parents=True)
    withdraw(tmp_path / "a", 1)
    with pytest.raises(PackageError, match="every version of every model is withdrawn"):
        default_packages(tmp_path)


def test_withdrawing_what_is_pinned_ends_the_pin(folder: Path) -> None:
    pin(folder, 2)
    withdraw(folder, 2)
    assert default_version(folder) == 4
    with pytest.raises(NotFoundError, match="b version 2 is withdrawn; first: withdraw --undo"):
        pin(folder, 2)


def test_what_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no version 9 of b; there is 1, 2, 3, 4"):
        pin(folder, 9)
    with pytest.raises(NotFoundError, match=r"no version 9 of b"):
        withdraw(folder, 9)
    for change in (unpin, lambda path: prune(path, 1)):
        with pytest.raises(NotFoundError, match=r"no model 'c' in .*; there is a, b"):
            change(folder.parent / "c")


def test_pruning_keeps_the_newest_and_the_default(folder: Path) -> None:
    pin(folder, 1)
    for name in ("1.sig", "2.sig", "2.receipt.json", "22.sig"):
        (folder / name).write_text("")
    assert prune(folder, 2) == [2]
    assert versions(folder) == [1, 3, 4]
    assert sorted(path.name for path in folder.iterdir()) == ["1", "1.sig", "22.sig", "3", "4", "CURRENT"]
    unpin(folder)
    assert prune(folder, 9) == []
    assert prune(folder, 1) == [1, 3]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-W", "error", "-m", "serving", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_each_has_a_command(folder: Path) -> None:
    for words, said in (
        (["pin", "b", "3"], "b: version 3 is the default"),
        (["unpin", "b"], "b: version 4 is the default"),
        (["withdraw", "b", "4"], "b: version 3 is the default"),
        (["prune", "b", "--keep", "1"], "b: version 3 is the default"),
    ):
        done = command(*words, "--models", str(folder.parent))
        assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr
    assert versions(folder) == [3, 4]
    refused = command("pin", "b", "7", "--models", str(folder.parent))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "serving: error: no version 7 of b; there is 3, 4\n"
    assert command("prune", "b", "--keep", "0").stderr == "serving: error: --keep: expected at least 1, got 0\n"
