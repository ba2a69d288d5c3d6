"""Room on the disk for the files in which processes count.

They are mapped into memory, and a disk that is full would be noticed when a page is written for the first time: as
SIGBUS, which ends the process. So the pages are there before.
"""

import contextlib
import logging
import os
from pathlib import Path

from serving.metrics.catalogue import CATALOGUE

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # names the folder; read by prometheus_client when it is imported
# As prometheus_client calls the files of a process.
KINDS = sorted(
    {
        f"gauge_{spec.over_workers}" if spec.kind == "gauge" else spec.kind
        for spec in CATALOGUE
        if spec.source == "worker"
    }
)
BYTES = 64 * 1024  # of a file at first; a model takes some 5 KB of it

log = logging.getLogger(__name__)


def reserve(file: Path, size: int) -> None:
    """Make a file of zeros, whose pages are there; OSError, and no file, if there is no room."""
    try:
        with file.open("wb") as new:
            os.posix_fallocate(new.fileno(), 0, size)
    except OSError:
        with contextlib.suppress(OSError):
            file.unlink()
        raise


def has_room(folder: Path, pid: int) -> bool:
    """Whether a process may count: its files have been made. If not, the log says so. Once for a process, before."""
    files = [folder / f"{kind}_{pid}.db" for kind in KINDS]
    try:
        for file in files:
            reserve(file, BYTES)
    except OSError as error:
        log.error("this worker counts nothing, for its metrics have no room in %s: %s", folder, error.strerror)
        for file in files:
            file.unlink(missing_ok=True)
        return False
    return True
