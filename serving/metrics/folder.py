"""The files in which processes count, and what happens to them when a process has ended.

prometheus_client gives every process files of its own and adds them up. The files of an ended process cannot be
deleted, or counters would go backwards; if they were kept, they would pile up with every reload. So their counts are
added to one file for all ended processes, while nothing reads it.
"""

import contextlib
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serving.metrics.room import reserve

RETIRED = "retired"
HEADER_BYTES = 8  # of a file: how many of its bytes are used, and padding
ADDED = ("counter", "histogram")  # these are summed over all processes; a gauge ends with its process

log = logging.getLogger(__name__)


class MetricsFolder(Collector):
    """The folder that PROMETHEUS_MULTIPROC_DIR names. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read files."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What all processes have counted."""
        with self._lock:
            # A starting process makes its files empty at first, which the library does not expect.
            files = [str(file) for file in self._path.glob("*.db") if file.stat().st_size]
            metrics = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        yield from metrics

    def retire(self, pid: int) -> None:
        """Keep what an ended process has counted, and forget its gauges. A second call does nothing.

        The process must have been waited for, and no other may have been started since: it might have the same number.
        """
        with self._lock:
            for file in self._path.glob(f"*_{pid}.db"):
                kind = re.match("[a-z]+", file.name)
                try:
                    if kind is not None and kind[0] in ADDED:
                        self._keep(file, self._path / f"{kind[0]}_{RETIRED}.db")
                    file.unlink()
                except OSError as error:  # the disk is full; the file stays, and is read as before
                    log.error("%s: cannot be put with those of ended processes: %s", file, error)

    def _keep(self, file: Path, retired: Path) -> None:
        """Add the values of a file to the file of ended processes, all or nothing."""
        added = dict(_values(retired))
        for key, value in _values(file):
            added[key] = added.get(key, 0.0) + value
        new = retired.with_suffix(".new")
        reserve(new, sum(_used(each) for each in (retired, file)) + HEADER_BYTES)
        values = MmapedDict(str(new))  # type: ignore[no-untyped-call]
        for key, value in added.items():
            values.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        values.close()  # type: ignore[no-untyped-call]
        new.replace(retired)


def _used(file: Path) -> int:
    """The number of bytes in use of a file."""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
        return int.from_bytes(opened.read(HEADER_BYTES // 2), sys.byteorder)
    return 0


def _values(file: Path) -> Iterator[tuple[str, float]]:
    """The additive values of a file; none if it is missing, or empty because its process was killed at once."""
    if file.exists() and file.stat().st_size:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            yield key, value
