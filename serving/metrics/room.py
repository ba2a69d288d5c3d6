"""Room on the disk for the files in which processes count.

The files are mapped into memory: with a full disk, the first write to a page would raise SIGBUS, which ends the
process. So the pages are allocated beforehand.
"""

import contextlib
import logging
import os
from pathlib import Path

from serving.metrics.catalogue import CATALOGUE

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # names the folder; read by prometheus_client when it is imported
KINDS = sorted(  # prometheus_client's names for a process's files
    {
        f"gauge_{spec.over_workers}" if spec.kind == "gauge" else spec.kind
        for spec in CATALOGUE
        if spec.source == "worker"
    }
)
BYTES = 64 * 1024  # the first size of a file; a model takes some 5 KB of it

log = logging.getLogger(__name__)


def reserve(file: Path, size: int) -> None:
    """Make a file of zeros with allocated pages; raises OSError, and leaves no file, if there is no room."""
    try:
        with file.open("wb") as new:
            os.posix_fallocate(new.fileno(), 0, size)
    except OSError:
        with contextlib.suppress(OSError):
            file.unlink()
        raise


def has_room(folder: Path, pid: int) -> bool:
    """Make a process's files; whether there was room for them. If not, the log says so. Call it once, beforehand."""
    files = [folder / f"{kind}_{pid}.db" for kind in KINDS]
    try:
        for file in files:
            reserve(file, BYTES)
    except OSError as error:
        log.error("this worker counts nothing, because its metrics have no room in %s: %s", folder, error.strerror)
        for file in files:
            file.unlink(missing_ok=True)
        return False
    return True
