"""A value that is read from files, and read again when they change. If that fails, the old value stays."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from serving.settings import SettingsError

Value = TypeVar("Value")
Stamp = tuple[int, ...]

log = logging.getLogger(__name__)


class Watched(Generic[Value]):
    """The value of some files as of the last `refresh`.

    Args:
        what: what the files are, for the log.
        paths: the files.
        read: reads the value from them, or raises SettingsError.

    Raises:
        SettingsError: the first reading failed.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], Value]) -> None:
        self._what = what
        self._paths = paths
        self._read = read
        self._stamps = self._look()
        self.value = read()

    def refresh(self) -> bool:
        """Read again if a file has changed; returns whether there is a new value. Logs a failure once per change."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps  # taken before the reading: what is written meanwhile counts as another change
        try:
            self.value = self._read()
        except SettingsError as error:
            log.error("%s: changed, but the old one stays in use: %s", self._what, error)
            return False
        log.info("%s: renewed from %s", self._what, ", ".join(map(str, self._paths)))
        return True

    def _look(self) -> list[Stamp | None]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> Stamp | None:
    """A value that changes when a file is written, replaced, or reached by another link; None while it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_file(flag: str, path: Path, limit: int) -> bytes:
    """The bytes of a file that a setting names.

    Raises:
        SettingsError: it cannot be read, or has more than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise SettingsError(f"{flag} {path}: {error.strerror}") from None
    if len(data) > limit:
        raise SettingsError(f"{flag} {path}: expected at most {limit} bytes")
    return data


def warn_if_others_read(flag: str, path: Path) -> None:
    """Log it if everybody on this machine can read a secret. It is not refused: Kubernetes mounts secrets that way."""
    if path.stat().st_mode & 0o004:
        log.warning("%s %s: everybody on this machine can read it; chmod 600 is enough for the server", flag, path)
