"""How much memory there is for images."""

import os
from collections.abc import Iterator
from pathlib import Path

from training.errors import DataError

# Images may take one part in two of what is available: the split copies them. The loop does not, on the CPU.
COPIES = 2
CGROUP_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
CACHE_FIELDS = ("inactive_file", "active_file")  # of memory.stat: counted as used, and given back when asked for


def fits(needed: int) -> bool:
    """Whether images of `needed` bytes can be kept in memory."""
    return COPIES * needed <= available()


def check_fits(name: object, needed: int, advice: str) -> None:
    """Raise DataError, with both numbers of bytes, unless images of `needed` bytes can be kept in memory."""
    if not fits(needed):
        raise DataError(
            f"{name}: the images need {needed:,} bytes of memory, and as much again while they are split; "
            f"{available():,} bytes are available; {advice}"
        )


def available(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: of the machine, and of the control groups (containers) it is in."""
    return max(0, min([_of_the_machine(root), *_of_control_groups(root)]))


def _of_the_machine(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # not Linux: all there is


def _of_control_groups(root: Path) -> Iterator[int]:
    """Bytes left in each group with a limit: that of the process and those around it."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        limit_name, usage_name = CGROUP_FILES[1 if controllers else 2]
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):  # in a container the path may be the host's: then the mount is the group
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None:
                yield limit - usage + _cache(folder)
            if folder == mount:
                break


def _cache(folder: Path) -> int:
    stat = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat"))
    return sum(int(stat.get(f"total_{name}", stat.get(name, 0))) for name in CACHE_FIELDS)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """None also for "max"."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None
