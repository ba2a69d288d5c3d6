"""The files in which processes count, and what becomes of them when a process has ended.

prometheus_client gives every process files of its own and adds them up. Those of an ended process cannot go, or
counters would go backwards; kept as they are, they would pile up with every reload. So what it has counted is added to
one file for all that have ended, while nobody reads.
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
HEADER_BYTES = 8  # of a file: how many are used, and padding
ADDED = ("counter", "histogram")  # what all processes counted together; a gauge ends with its process

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
            # A process that starts makes its files empty at first, and the library does not expect such.
            files = [str(file) for file in self._path.glob("*.db") if file.stat().st_size]
            metrics = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        yield from metrics

    def retire(self, pid: int) -> None:
        """The process has ended: keep what it has counted, and forget its gauges. Nothing happens the second time.

        It must have been waited for, and no other process may have been started since: it might have the same number.
        """
        with self._lock:
            for file in self._path.glob(f"*_{pid}.db"):
                kind = re.match("[a-z]+", file.name)
                try:
                    if kind is not None and kind[0] in ADDED:
                        self._keep(file, self._path / f"{kind[0]}_{RETIRED}.db")
                    file.unlink()
                except OSError as error:  # a disk that is full; the file stays, and is read as before
                    log.error("%s: cannot be put with those of ended processes: %s", file, error)

    def _keep(self, file: Path, retired: Path) -> None:
        """Add the values of a file to those of the retired, all or nothing."""
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
    """Bytes of a file that hold something."""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
        return int.from_bytes(opened.read(HEADER_BYTES // 2), sys.byteorder)
    return 0


def _values(file: Path) -> Iterator[tuple[str, float]]:
    """The additive values of a file; none if it is not there, or empty since its process was killed at once."""
    if file.exists() and file.stat().st_size:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            yield key, value
