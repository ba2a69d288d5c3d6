"""Open files and the clock."""

import resource

import pytest

from serving.doctor import machine


@pytest.mark.parametrize(("limit", "level"), [(1024, "warn"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_each_connection_needs_an_open_file(limit: int, level: str) -> None:
    assert machine.file_descriptors(limit).level == level


def test_the_limit_is_that_of_this_process() -> None:
    assert machine.descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize(("synchronised", "level"), [(True, "ok"), (False, "warn"), (None, "ok")])
def test_a_clock_that_is_known_to_be_wrong_is_worth_a_warning(synchronised: bool | None, level: str) -> None:
    assert machine.clock(synchronised=synchronised).level == level


def test_the_kernel_can_be_asked() -> None:
    assert machine.clock_is_synchronised() in (True, False, None)
