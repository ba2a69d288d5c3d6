"""A socket in the file system: bound under a temporary name, never open wider than it should be, then renamed.

The rename replaces a predecessor at once: a client finds the old or the new server, never none. Open connections stay
where they are.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from serving.security.listen import UNIX
from serving.settings import SettingsError

MAX_PATH_BYTES = 107  # the length in sockaddr_un, less the zero at its end
SUFFIX_BYTES = len(".4194304")  # the largest process id of Linux


def check_path(path: Path) -> None:
    """Raise SettingsError if no socket can be bound there, or a server answers there already."""
    flag = f"--listen {UNIX}{path}"
    if not path.parent.is_dir():
        raise SettingsError(f"{flag}: no such folder")
    if len(os.fsencode(path)) + SUFFIX_BYTES > MAX_PATH_BYTES:
        raise SettingsError(f"{flag}: expected a path of at most {MAX_PATH_BYTES - SUFFIX_BYTES} bytes")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"{flag}: exists, and is not a socket")
    if _answers(path):
        raise SettingsError(f"{flag}: somebody listens there")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # no permission, or too busy: somebody is there
            return True
    return True


def temporary_path(path: Path) -> Path:
    """The temporary path at which this process binds before it replaces a predecessor."""
    return path.with_name(f"{path.name}.{os.getpid()}")


@contextlib.contextmanager
def socket_mode(mode: int) -> Iterator[None]:
    """Sockets bound meanwhile have this mode from their first moment. Affects the whole process."""
    before = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(before)


def publish(path: Path) -> int:
    """Rename this process's socket into place; returns its inode, by which `withdraw` recognises it."""
    inode = temporary_path(path).stat().st_ino
    temporary_path(path).replace(path)
    return inode


def withdraw(path: Path, inode: int) -> None:
    """Remove the socket, unless a successor has put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()
