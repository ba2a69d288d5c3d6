"""The folder of models: which version of each is served, and how an operator changes that.

A running server applies a change with the next reload: at SIGHUP, or by itself with --watch.
"""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from vaeport.errors import NotFoundError, PackageError
from vaeport.package import NAME_PATTERN
from vaeport.versions import CURRENT_NAME, STAGING_PREFIX, WITHDRAWN_NAME, default_version, pinned, versions, withdrawn


def model_folders(models: Path) -> list[Path]:
    """The folder of each model, by name.

    A folder whose name is not a valid model's name is not opened: lost+found of a volume is closed to all but root.
    """
    return sorted(path for path in models.iterdir() if NAME_PATTERN.fullmatch(path.name) and versions(path))


def default_packages(models: Path) -> tuple[Path, ...]:
    """The package of each model's default version, MODELS/<name>/<version>, by name.

    Raises:
        PackageError: there is no package, or a version that an operator chose is missing.
    """
    if not models.is_dir():
        raise PackageError(f"{models}: no such folder of models")
    folders = model_folders(models)
    chosen = [(path, default_version(path)) for path in folders]
    if found := tuple(path / str(version) for path, version in chosen if version is not None):
        return found
    if folders:
        raise PackageError(f"{models}: every version of every model is withdrawn")
    raise PackageError(f"{models}: no models here; make one with: python -m export RUN --to {models}/NAME")


def pin(folder: Path, version: int) -> None:
    """Make `version` the default of the model in `folder`, even if there are newer ones.

    Raises:
        NotFoundError: the version does not exist, or is withdrawn.
    """
    _check_there(folder, version)
    if version in withdrawn(folder):
        raise NotFoundError(f"{folder.name} version {version} is withdrawn; first: withdraw --undo")
    _write(folder / CURRENT_NAME, [version])


def unpin(folder: Path) -> None:
    """Make the newest version that is not withdrawn the default of the model in `folder`.

    Raises:
        NotFoundError: there is no such model.
    """
    _check_there(folder)
    (folder / CURRENT_NAME).unlink(missing_ok=True)


def withdraw(folder: Path, version: int, *, undo: bool = False) -> None:
    """Never let `version` be the default again, or allow it again with `undo`; a pin to it ends.

    Raises:
        NotFoundError: the version does not exist.
    """
    _check_there(folder, version)
    gone = withdrawn(folder)
    _write(folder / WITHDRAWN_NAME, gone - {version} if undo else gone | {version})
    if not undo and pinned(folder) == version:
        unpin(folder)


def prune(folder: Path, keep: int) -> list[int]:
    """Delete old versions with the files beside them, and return them. The newest `keep` and the default one stay.

    Raises:
        NotFoundError: there is no such model.
    """
    _check_there(folder)
    there = versions(folder)
    doomed = [version for version in there[: max(0, len(there) - keep)] if version != default_version(folder)]
    for version in doomed:
        for path in (folder / str(version), *folder.glob(f"{version}.*")):
            leftover = path.rename(folder / f"{STAGING_PREFIX}{uuid.uuid4().hex}")  # no reader may see half a version
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return doomed


def _check_there(folder: Path, version: int | None = None) -> None:
    there = versions(folder)
    if not there:
        models = model_folders(folder.parent) if folder.parent.is_dir() else []
        names = ", ".join(path.name for path in models) or "none"
        raise NotFoundError(f"no model {folder.name!r} in {folder.parent}; there is {names}")
    if version is not None and version not in there:
        raise NotFoundError(f"no version {version} of {folder.name}; there is {', '.join(map(str, there))}")


def _write(path: Path, numbers: Iterable[int]) -> None:
    """Replace the file at once, so that a server that reads it meanwhile sees the old one or the new one."""
    descriptor, name = tempfile.mkstemp(prefix=STAGING_PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write("".join(f"{number}\n" for number in sorted(numbers)))
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
