"""A wheel that is not as it must be is refused: hand-made bad ones, one for each rule."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from release.artifacts import MAX_WHEEL_BYTES, check_metadata, check_size, check_wheel
from release.commands import ReleaseError

METADATA = """Metadata-Version: 2.4
Name: vaeport
Version: 0.1.0
Summary: a library
License-Expression: Apache-2.0
Description-Content-Type: text/markdown

# vaeport
"""
GOOD = {"vaeport/__init__.py": "", "vaeport/client.py": "one = 1\n", "vaeport/py.typed": ""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout whose library has two modules and says that it is typed."""
    for name, text in GOOD.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text(text)
    return tmp_path / "source"


def wheel_of(folder: Path, files: Mapping[str, str]) -> Path:
    """A wheel with these files and good metadata."""
    wheel, info = folder / "vaeport-0.1.0-py3-none-any.whl", "vaeport-0.1.0.dist-info"
    tag = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    complete = {**files, f"{info}/METADATA": METADATA, f"{info}/WHEEL": tag}
    record = "".join(f"{name},,\n" for name in [*complete, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**complete, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return wheel


def test_a_good_wheel_passes(source: Path, tmp_path: Path) -> None:
    check_wheel(wheel_of(tmp_path, GOOD), source)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({**GOOD, "serving/__init__.py": ""}, "serving"),
        ({name: text for name, text in GOOD.items() if "client" not in name}, r"vaeport/client\.py"),
        ({**GOOD, "vaeport/leftover.py": "two = 2\n"}, r"vaeport/leftover\.py"),
        ({name: text for name, text in GOOD.items() if "typed" not in name}, r"py\.typed"),
    ],
    ids=["another package", "a module is missing", "a module too many", "no marker of types"],
)
def test_a_wheel_with_other_contents_is_refused(
    files: dict[str, str], named: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ReleaseError, match=named):
        check_wheel(wheel_of(tmp_path, files), source)


def test_a_wheel_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(bytes(MAX_WHEEL_BYTES))
    with pytest.raises(ReleaseError, match=f"expected less than {MAX_WHEEL_BYTES} bytes, got {MAX_WHEEL_BYTES}"):
        check_size(tmp_path / "a.whl")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("Version: 0.1.0", "Version: one", "'one' is invalid for 'version'"),
        ("Name: vaeport\n", "", "'name' is a required field"),
        ("License-Expression: Apache-2.0", "License-Expression: free", "license-expression"),
        ("Summary: a library\n", "", "no summary"),
        ("text/markdown", "text/plain", "expected a description in text/markdown, got text/plain"),
    ],
)
def test_metadata_that_an_index_or_a_reader_would_miss_are_refused(old: str, new: str, named: str) -> None:
    check_metadata(METADATA.encode())
    with pytest.raises(ReleaseError, match=named):
        check_metadata(METADATA.replace(old, new).encode())
