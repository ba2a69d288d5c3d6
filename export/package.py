"""The package folder: written aside, read back by the reader that everyone uses, and renamed into place."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from export.bom import BOM_NAME, bill_of_materials
from export.card import CARD_NAME, model_card
from export.errors import ExportError, VersionExistsError
from vaeport.machine import usable_cores
from vaeport.manifest import FORMAT, MANIFEST_NAME, FileEntry, Manifest
from vaeport.package import MANIFEST_MAX_BYTES, MAX_VERSION, open_package, sha256_of
from vaeport.versions import STAGING_PREFIX, versions

BESIDE = re.compile(r"([1-9][0-9]{0,8})\.(sig|receipt\.json)")  # what may lie beside a version, and outlive it


@contextlib.contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`, which is made; gone at the end unless it was published.

    What a killed export has left in `parent` is removed first. It is told from what a live one is using by a lock of
    the kernel's on the folder itself: that ends with its process, and is no file that could end up in the package.

    Raises:
        ExportError: `parent` is a package or lies in one: a file more would spoil it.
    """
    _refuse_inside(parent)
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as using:
        with _locked(parent):  # between the next lines, a new folder looks like one that was left
            _remove_leftovers(parent)
            folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
            using.enter_context(_locked(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_inside(parent: Path) -> None:
    inside = Path(os.path.realpath(parent))
    for folder in (inside, *inside.parents):
        if _looks_like_package(folder):
            raise ExportError(
                f"{parent}: lies in the package {folder}, which never changes; expected a folder outside of it, "
                f"such as {folder.parent}"
            )


def _looks_like_package(folder: Path) -> bool:
    """Whether there is a manifest of ours, of any version: other programs have files of that name, too."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            value = json.loads(file.read(MANIFEST_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and str(value.get("format")).startswith(FORMAT.partition("/")[0] + "/")


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder. False if another process does (without `wait`), or the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        held = True
    except OSError:
        held = False
    try:
        yield held
    finally:
        os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    """Delete the staging folders that are not in use. Needs the lock of `parent`."""
    for folder in parent.glob(f"{STAGING_PREFIX}*"):
        with (
            contextlib.suppress(OSError),
            _locked(folder, wait=False) as unused,
        ):  # it may have been published meanwhile
            if unused:
                shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Deterministic bytes: sorted keys, a newline at the end."""
    path.write_text(json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n")


def write_receipt(package: Path, measured: dict[str, Any]) -> None:
    """`<version>.receipt.json` beside the package: what was measured here, and on what; another machine may differ."""
    machine = {"processor": platform.machine(), "cores": usable_cores(), "system": platform.system()}
    content = {"package": open_package(package).digest, "machine": machine, "precisions": measured}
    receipt = package.parent / f"{package.name}.receipt.json"
    with staging(package.parent) as staged:
        write_json(staged / receipt.name, content)
        (staged / receipt.name).replace(receipt)


def check_destination(parent: Path, version: int | None) -> None:
    """See, before any work, that a package can be made in `models/<name>/`.

    Args:
        parent: the folder of the model's versions.
        version: the one to make; None is the next.

    Raises:
        ExportError: it is named like a version, or no version is left.
        VersionExistsError: something of an earlier package of that version lies there.
    """
    if parent.name.isdecimal():
        raise ExportError(
            f"--to {parent}: ends in a version; did you mean --to {parent.parent} --version {parent.name}?"
        )
    _refuse_inside(parent)
    if version is None:
        next_version(parent)
    elif left := sorted(path.name for path in _beside(parent, version)):
        raise VersionExistsError(f"{parent / left[0]}: is of an earlier package of version {version}; remove it first")


def next_version(parent: Path) -> int:
    """One more than the newest version in `models/<name>/`, and than those whose signature or receipt is still there.

    Raises:
        ExportError: that would be over MAX_VERSION.
    """
    left = [int(path.name.partition(".")[0]) for path in _beside(parent)]
    newest = max([*versions(parent), *left], default=0)
    if newest >= MAX_VERSION:
        raise ExportError(f"{parent}: version {newest} is there, and no later one can be; name a free one: --version")
    return newest + 1


def _beside(parent: Path, version: int | None = None) -> list[Path]:
    """The signatures and receipts in `models/<name>/`, of one version or of all."""
    if not parent.is_dir():
        return []
    found = [(path, match) for path in parent.iterdir() if (match := BESIDE.fullmatch(path.name))]
    return [path for path, match in found if version is None or int(match[1]) == version]


def refuse_existing(*targets: Path) -> None:
    """Raise ExportError, before any work, if one of these is there already."""
    for target in targets:
        if os.path.lexists(target):
            raise ExportError(f"{target}: is there already; remove it first")


def place(staged: Path, target: Path) -> None:
    """Rename a finished folder to `target`, for everyone to read.

    Raises:
        ExportError: it is there already.
    """
    refuse_existing(target)
    staged.chmod(0o755)  # mkdtemp makes it private
    staged.rename(target)


def publish(staged: Path, parent: Path, manifest: Manifest, *, exactly: bool) -> Path:
    """Complete a staged folder with the card and the manifest, check it, and rename it to its version.

    Args:
        staged: holds every other file of the package.
        parent: `models/<name>/`.
        manifest: without its files; its version is the one to try first.
        exactly: whether no other version will do. Otherwise, if somebody has taken it meanwhile, the next is tried.

    Returns:
        The folder of the version.

    Raises:
        VersionExistsError: with `exactly`, the version is there.
        PackageError: what was written is not a valid package: our bug, or a failing disk.
    """
    while True:
        _complete(staged, manifest)
        target = parent / str(manifest.version)
        try:
            if os.path.lexists(target):  # rename would replace an empty folder
                raise FileExistsError(errno.EEXIST, "exists", str(target))
            staged.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            if exactly:
                raise VersionExistsError(f"{target}: is there already, and a package never changes") from error
            manifest = replace(manifest, version=max(next_version(parent), manifest.version + 1))
            continue
        _sync(parent)
        return target


def _complete(staged: Path, manifest: Manifest) -> None:
    for name in (MANIFEST_NAME, BOM_NAME):
        (staged / name).unlink(missing_ok=True)
    for graph in manifest.graphs.values():
        _stamp(staged / graph.path, {"vaeport.name": manifest.name, "vaeport.version": str(manifest.version)})
    (staged / CARD_NAME).write_text(model_card(manifest), encoding="utf-8")
    paths = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
    entries = [_entry(staged, path) for path in sorted(paths)]
    write_json(staged / BOM_NAME, bill_of_materials(replace(manifest, files=tuple(entries))))
    entries = sorted([*entries, _entry(staged, BOM_NAME)], key=lambda entry: entry.path)
    (staged / MANIFEST_NAME).write_bytes(replace(manifest, files=tuple(entries)).to_json())
    for path in [*paths, BOM_NAME, MANIFEST_NAME]:
        (staged / path).chmod(0o644)
        _sync(staged / path)
    for folder in (*(path for path in staged.rglob("*") if path.is_dir()), staged):
        folder.chmod(0o755)  # mkdtemp makes it private
        _sync(folder)
    open_package(staged)


def _stamp(path: Path, properties: dict[str, str]) -> None:
    """Add to the metadata of a graph, so that one which has left its package can be traced back."""
    proto = onnx.load(path)
    known = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, dict(sorted((known | properties).items())))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _entry(folder: Path, path: str) -> FileEntry:
    return FileEntry(path, (folder / path).stat().st_size, sha256_of(folder / path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
