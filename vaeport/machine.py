"""What this process may use of the machine."""

import os
from pathlib import Path


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the CPU quota of its cgroup (version 2), rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return cores
