"""Spoilt packages: an error of the format, soon, in little memory, and nothing outside the folder is opened."""

import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import ROOT
from tests.vaeport import mutations
from tests.vaeport.fuzz import error_of
from vaeport import package as rules
from vaeport.errors import MAX_TEXT, PackageError, SelfTestError
from vaeport.golden import parse_safetensors, read_golden
from vaeport.package import open_package

SECONDS = 120


@pytest.fixture
def folders(package: Path, tmp_path: Path) -> Callable[[], tuple[Path, Path]]:
    """Makes a fresh package to spoil, and a folder outside it."""

    def make() -> tuple[Path, Path]:
        folder, outside = tmp_path / "package", tmp_path / "outside"
        for path in (folder, outside):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(package, folder)
        outside.mkdir()
        (outside / mutations.SECRET).write_text("secret")
        return folder, outside

    return make


def read(folder: Path) -> None:
    """Raises what is not promised."""
    error = error_of(lambda: read_golden(open_package(folder)))
    if error is None or isinstance(error, SelfTestError):  # it has no golden vectors
        return
    assert isinstance(error, PackageError), "".join(traceback.format_exception(error))
    assert type(error) is not PackageError or isinstance(error.__cause__, OSError)
    assert len(str(error)) < 3 * MAX_TEXT


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**32), mutation=st.sampled_from((*mutations.MANIFEST, *mutations.FOLDER)))
def test_a_spoilt_manifest_or_folder_is_an_error_of_the_format(
    folders: Callable[[], tuple[Path, Path]], seed: int, mutation: mutations.Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = folders()
    monkeypatch.chdir(folder)  # the name of a socket must be short
    mutation(folder, outside, Random(seed))
    read(folder)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**32), mutation=st.sampled_from(mutations.GOLDEN))
def test_spoilt_golden_vectors_are_an_error_of_the_format(
    folders: Callable[[], tuple[Path, Path]], seed: int, mutation: mutations.Mutation
) -> None:
    folder, outside = folders()
    mutation(folder, outside, Random(seed))
    read(folder)


@pytest.mark.parametrize("depth", range(880, 1000, 5))
def test_what_is_as_deep_as_the_parser_takes_is_named(folders: Callable[[], tuple[Path, Path]], depth: int) -> None:
    folder, _ = folders()
    tree = json.loads((folder / "manifest.json").read_text())
    tree["files"] = mutations.Raw("[" * depth + "]" * depth)
    (folder / "manifest.json").write_text(mutations.dumps(tree))
    with pytest.raises(rules.ManifestInvalidError):
        open_package(folder)


def test_a_package_that_says_to_be_huge_is_not_read(folders: Callable[[], tuple[Path, Path]]) -> None:
    folder, _ = folders()
    with (folder / "README.md").open("r+b") as file:
        file.truncate(2**42)  # no block of it is on the disk
    mutations.relist(folder, "README.md", 2**42, "0" * 64)
    with pytest.raises(rules.ManifestInvalidError, match="sizes must be 0 or more, and at most 4294967296 together"):
        open_package(folder)


def test_a_folder_with_very_many_entries_is_not_listed_to_the_end(
    folders: Callable[[], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = folders()
    monkeypatch.setattr(rules, "MAX_ENTRIES", 100)
    for number in range(150):
        (folder / f"folder{number}").mkdir()
    with pytest.raises(rules.UnlistedFileError, match="more than 100 files and folders"):
        open_package(folder)


def test_a_tensor_of_very_many_axes_is_refused_at_once() -> None:
    shape = [2**28] * 90_000  # whose product takes many seconds
    header = json.dumps({"t": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    with pytest.raises(ValueError, match="t: a shape of 90000 axes, expected at most 8"):
        parse_safetensors(len(header).to_bytes(8, "little") + header)


def run_fuzzer(template: Path, folder: Path, seconds: float, first: int) -> tuple[list[dict[str, Any]], bool]:
    """The lines it wrote, and whether it crashed: then the last one says with which case."""
    command = [sys.executable, "-m", "tests.vaeport.fuzz", *map(str, (template, folder, seconds, first))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        broken = f"ended with status {done.returncode}: {done.stderr[-2000:]}"
        lines.append({"case": lines[-1]["case"], "broken": broken})
    return lines, done.returncode != 0


@pytest.mark.soak
def test_two_minutes_of_spoilt_packages_break_no_promise(package: Path, tmp_path: Path) -> None:
    case, broken, end = Random().randrange(2**32), [], time.monotonic() + SECONDS
    while (left := end - time.monotonic()) > 0:
        lines, crashed = run_fuzzer(package, tmp_path, left, case)
        broken += [line for line in lines if "broken" in line]
        if crashed:  # it is in `broken`; the rest of the time is for others
            case = lines[-1]["case"] + 1
    assert not broken, json.dumps(broken, indent=1)


def test_the_fuzzer_would_see_what_is_opened_outside_by_python_and_by_others(tmp_path: Path) -> None:
    folder, secret = tmp_path / "package", tmp_path / "outside" / "secret"
    for path in (folder / "file", secret):
        path.parent.mkdir()
        path.write_text("")
    program = f"""if True:
        import ctypes, sys
        from pathlib import Path
        from tests.vaeport.fuzz import Watch

        folder, secret = Path({str(folder)!r}), Path({str(secret)!r})
        watch = Watch(secret)
        for opens in (
            lambda: (folder / "file").read_text(),
            lambda: secret.read_text(),
            lambda: list(folder.parent.iterdir()),
            lambda: ctypes.CDLL(None).open(bytes(secret), 0),
        ):
            with watch.on(folder):
                opens()
            print(len(watch.opened_outside))
        """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "2", "1", "1"]  # by Python: the path, and what the kernel says
