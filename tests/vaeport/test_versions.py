"""Which versions a model has, and which of them is the default."""

from pathlib import Path

import pytest

from vaeport.errors import PackageError
from vaeport.package import NotAPackageError
from vaeport.versions import default_package, default_version, pinned, versions, withdrawn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1", "2", "10"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_versions_are_positive_integers_and_nothing_else(folder: Path) -> None:
    for name in ("0", "01", "x", ".staging-3", "-1", "1.sig"):
        (folder / name).mkdir()
    (folder / "11").write_text("a file")
    assert versions(folder) == [1, 2, 10]
    assert default_package(folder) == folder / "10"


def test_a_folder_without_versions_is_named(tmp_path: Path) -> None:
    assert default_version(tmp_path) is None
    with pytest.raises(NotAPackageError, match="no package here: neither"):
        default_package(tmp_path)


def test_a_pin_holds_whatever_is_newer(folder: Path) -> None:
    (folder / "CURRENT").write_text("2\n")
    assert pinned(folder) == 2
    assert default_package(folder) == folder / "2"


def test_what_is_withdrawn_is_not_the_default(folder: Path) -> None:
    (folder / "WITHDRAWN").write_text("10\n1\n")
    assert withdrawn(folder) == {1, 10}
    assert default_version(folder) == 2
    (folder / "WITHDRAWN").write_text("1\n2\n10\n")
    assert default_version(folder) is None
    with pytest.raises(NotAPackageError, match="every version is withdrawn"):
        default_package(folder)


@pytest.mark.parametrize(
    ("current", "gone", "message"),
    [
        ("3", "", "CURRENT: version 3 is not there; there is 1, 2, 10"),
        ("2", "2", "CURRENT: version 2 is withdrawn"),
        ("", "", "CURRENT: expected one version, got 0"),
        ("1\n2", "", "CURRENT: expected one version, got 2"),
        ("latest", "", "CURRENT: expected versions, got 'latest'"),
        ("01", "", "CURRENT: expected versions, got '01'"),
        ("\xff" * 100, "", "CURRENT: expected versions, got"),
        ("1", "x", "WITHDRAWN: expected versions, got 'x'"),
    ],
)
def test_a_choice_that_cannot_be_made_is_an_error(folder: Path, current: str, gone: str, message: str) -> None:
    (folder / "CURRENT").write_text(current, encoding="latin-1")
    if gone:
        (folder / "WITHDRAWN").write_text(gone)
    with pytest.raises(PackageError, match=message):
        default_version(folder)


def test_a_file_that_cannot_be_read_is_an_error(folder: Path) -> None:
    (folder / "CURRENT").mkdir()
    with pytest.raises(PackageError, match="CURRENT: cannot be read"):
        pinned(folder)
