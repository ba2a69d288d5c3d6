"""What a process may use: of this machine, and in folders as the kernel shows control groups."""

import os
from pathlib import Path

import pytest

from vaeport.machine import Limits, affinity, read_limits, total_memory, usable_cores

NONE = Limits(None, None)


def make_root(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root with /proc/self/cgroup and files under /sys/fs/cgroup."""
    listing = root / "proc/self/cgroup"
    listing.parent.mkdir(parents=True)
    listing.write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, NONE),
        ("0::/\n", {"cpu.max": "150000 100000", "memory.max": "1073741824"}, Limits(1.5, 1 << 30)),
        # A container that sees the host's path, with its own group mounted.
        ("0::/kubepods/pod7\n", {"cpu.max": "50000 100000", "memory.max": "4096"}, Limits(0.5, 4096)),
        # A unit of systemd on the host: its slice gives less than the unit itself.
        (
            "0::/system.slice/vaeport.service\n",
            {
                "system.slice/cpu.max": "200000 100000",
                "system.slice/vaeport.service/cpu.max": "400000 100000",
                "system.slice/vaeport.service/memory.max": "8192",
            },
            Limits(2.0, 8192),
        ),
        # Another unit's limits are not ours.
        ("0::/system.slice/a.service\n", {"system.slice/b.service/memory.max": "1"}, NONE),
        (
            "4:memory:/docker/7\n1:cpu,cpuacct:/docker/7\n0::/\n",
            {
                "cpu/docker/7/cpu.cfs_quota_us": "300000",
                "cpu/docker/7/cpu.cfs_period_us": "100000",
                "memory/docker/7/memory.limit_in_bytes": "2048",
            },
            Limits(3.0, 2048),
        ),
        (
            "4:memory:/\n1:cpu:/\n",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            NONE,
        ),
    ],
    ids=["unlimited", "container", "host path", "slice", "another unit", "version 1", "version 1, unlimited"],
)
def test_the_least_limit_on_the_way_to_the_root_counts(
    groups: str, files: dict[str, str], expected: Limits, tmp_path: Path
) -> None:
    assert read_limits(make_root(tmp_path, groups, files)) == expected


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == NONE


def test_a_path_never_leads_out_of_the_mount(tmp_path: Path) -> None:
    root = make_root(tmp_path, "0::/../secret\n", {"../secret/memory.max": "7"})
    assert read_limits(root) == NONE


def test_usable_cores_are_those_of_the_affinity_or_fewer() -> None:
    assert affinity() == len(os.sched_getaffinity(0))
    assert 1 <= usable_cores() <= affinity()


def test_a_quota_is_rounded_up_to_whole_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeport import machine

    monkeypatch.setattr(machine, "affinity", lambda: 8)
    for quota, cores in ((None, 8), (1.5, 2), (0.2, 1), (64.0, 8)):
        monkeypatch.setattr(machine, "read_limits", lambda quota=quota: Limits(quota, None))
        assert usable_cores() == cores


def test_the_memory_of_the_machine_is_that_of_meminfo() -> None:
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    total = total_memory()
    assert total is not None
    assert abs(total / 1024 - kib) < 0.02 * kib


def test_the_memory_is_unknown_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    assert total_memory() is None
