"""What a process may use."""

import os

from vaeport.machine import usable_cores


def test_usable_cores_are_those_of_the_affinity() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
