"""Files that are either whole or not there."""

import os
import re
import tempfile
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # as mkstemp names them below


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary sibling, flush it to the disk, and rename it to `path`.

    A process killed at any moment leaves the old file or the new one, never a part. An OSError names `path`.
    """
    try:
        _write(path, data)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk has no name, nor has a temporary


def _write(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a process killed in `write_atomically` has left in `folder`."""
    for path in folder.glob(".*"):
        if path.is_file() and TEMPORARY.fullmatch(path.name):
            path.unlink()
