"""Limits of control groups, in folders as the kernel shows them."""

from pathlib import Path

import pytest

from vaeport.cgroup import Limits, read_limits

NONE = Limits(None, None)


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
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
    assert read_limits(machine(tmp_path, groups, files)) == expected


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == NONE


def test_a_path_never_leads_out_of_the_mount(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/../secret\n", {"../secret/memory.max": "7"})
    assert read_limits(root) == NONE
