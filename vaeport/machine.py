"""What this process may use of the machine: cores and memory, by its affinity and its control groups of either version.

A limit may be set on the group itself or on any group around it, and the lowest counts. In a container the mounted
folder is often the group itself, whatever /proc says its path is, so the root of the mount is read, too.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

NO_MEMORY_LIMIT = 1 << 60  # version 1 means "none" by a number near 2^63, rounded to pages


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that control groups let a process have.

    Attributes:
        cores: CPU time in each period, in cores, such as 1.5. None: no quota.
        memory: bytes. None: only the machine limits it.
    """

    cores: float | None
    memory: int | None


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the CPU quota of its cgroup, rounded up."""
    quota = read_limits().cores
    return affinity() if quota is None else max(1, min(affinity(), math.ceil(quota)))


def affinity() -> int:
    """Cores that this process may be scheduled on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int | None:
    """Bytes that the machine has; None where the system does not say, as on Windows."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_limits(root: Path = Path("/")) -> Limits:
    """The limits of this process; what cannot be read counts as none.

    Args:
        root: where /proc and /sys are, for tests.
    """
    groups = _groups(root / "proc/self/cgroup")
    mount = root / "sys/fs/cgroup"
    cores = [*map(_quota, _folders(mount, groups.get(""))), *map(_quota_1, _folders(mount / "cpu", groups.get("cpu")))]
    memory = [
        *(_number(folder / "memory.max") for folder in _folders(mount, groups.get(""))),
        *(_number(folder / "memory.limit_in_bytes") for folder in _folders(mount / "memory", groups.get("memory"))),
    ]
    return Limits(
        min((each for each in cores if each is not None), default=None),
        min((each for each in memory if each is not None and each < NO_MEMORY_LIMIT), default=None),
    )


def _groups(listing: Path) -> dict[str, PurePosixPath]:
    """The path of this process's group by controller, "" for version 2. Lines are `number:controllers:path`."""
    groups: dict[str, PurePosixPath] = {}
    for line in _text(listing).splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= {controller: PurePosixPath(path) for controller in controllers.split(",")}
    return groups


def _folders(mount: Path, group: PurePosixPath | None) -> Iterator[Path]:
    """The group's folder and those around it, up to the mount."""
    yield mount
    if group is not None:
        inner = group.relative_to("/") if group.is_absolute() else group
        yield from (mount / part for part in (inner, *inner.parents) if part.parts and ".." not in part.parts)


def _quota(folder: Path) -> float | None:
    """The quota of version 2, a file with microseconds of CPU time in a period, and the period; or with "max"."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() else None


def _quota_1(folder: Path) -> float | None:
    """The quota of version 1: the same in two files; -1 means none."""
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period else None


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
