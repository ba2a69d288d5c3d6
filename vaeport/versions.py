"""The versions of a model in `models/<name>/`, and which of them is the default.

Beside the packages, two small files record what an operator decided (`python -m serving pin`, `withdraw`):

    CURRENT      a version: it is the default, even if there are newer ones
    WITHDRAWN    versions, one a line: none of them can be the default

Without them the newest version is the default.
"""

import os
from pathlib import Path

from vaeport.errors import PackageError
from vaeport.manifest import MANIFEST_NAME
from vaeport.package import VERSION, NotAPackageError

CURRENT_NAME = "CURRENT"
WITHDRAWN_NAME = "WITHDRAWN"
STAGING_PREFIX = ".vaeport-staging-"  # no version has such a name; the next export into the folder deletes what does
MAX_FILE_BYTES = 1 << 16  # of either file; thousands of versions fit


def versions(folder: str | os.PathLike[str]) -> list[int]:
    """The versions in `models/<name>/`, ascending. Only names that are positive integers are versions."""
    try:
        with os.scandir(folder) as entries:
            return sorted(int(e.name) for e in entries if VERSION.fullmatch(e.name) and e.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def pinned(folder: str | os.PathLike[str]) -> int | None:
    """The version that CURRENT names; None without that file.

    Raises:
        PackageError: the file names no version.
    """
    numbers = _read(Path(folder) / CURRENT_NAME)
    if numbers is None:
        return None
    if len(numbers) != 1:
        raise PackageError(f"{Path(folder) / CURRENT_NAME}: expected one version, got {len(numbers)}")
    return numbers[0]


def withdrawn(folder: str | os.PathLike[str]) -> frozenset[int]:
    """The versions that WITHDRAWN names.

    Raises:
        PackageError: a line is not a version.
    """
    return frozenset(_read(Path(folder) / WITHDRAWN_NAME) or ())


def default_version(folder: str | os.PathLike[str]) -> int | None:
    """The version that is pinned, or the newest that is not withdrawn; None if there is none.

    Raises:
        PackageError: CURRENT or WITHDRAWN cannot be read, or CURRENT names a missing or withdrawn version.
    """
    there, gone = versions(folder), withdrawn(folder)
    usable = [version for version in there if version not in gone]
    if (pin := pinned(folder)) is None:
        return usable[-1] if usable else None
    if pin not in usable:
        why = "is withdrawn" if pin in gone else f"is not there; there is {', '.join(map(str, there)) or 'none'}"
        raise PackageError(f"{Path(folder) / CURRENT_NAME}: version {pin} {why}")
    return pin


def default_package(folder: str | os.PathLike[str]) -> Path:
    """The folder of the default version in `models/<name>/`.

    Raises:
        NotAPackageError: there is no package.
        PackageError: what `default_version` raises.
    """
    if (version := default_version(folder)) is not None:
        return Path(folder) / str(version)
    which = "every version is withdrawn" if versions(folder) else f"neither {MANIFEST_NAME} nor a numbered version"
    raise NotAPackageError(f"{os.fspath(folder)}: no package here: {which}")


def _read(path: Path) -> list[int] | None:
    """The versions in a file, one a line; None if there is no such file."""
    try:
        with path.open("rb") as file:
            words = file.read(MAX_FILE_BYTES).decode("ascii", "replace").split()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PackageError(f"{path}: cannot be read: {error}") from error
    if wrong := [word for word in words if not VERSION.fullmatch(word)]:
        raise PackageError(f"{path}: expected versions, got {wrong[0][:20]!r}")
    return [int(word) for word in words]
