"""Checks of what the machine offers a server, beyond cores and memory."""

import ctypes
import resource

from vaeport.findings import Finding, ok, warn

MIN_DESCRIPTORS = 4096  # each connection takes one
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
SIZE_OF_TIMEX = 256  # bytes; 208 on 64 bits


def descriptor_limit() -> int:
    """`ulimit -n`: the files and connections that a process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def file_descriptors(limit: int) -> Finding:
    """Whether there is room for connections."""
    if 0 <= limit < MIN_DESCRIPTORS:
        cure = "ulimit -n 65536; LimitNOFILE= of systemd"
        return warn("open files", f"{limit} of each worker, and each connection is one", cure)
    return ok("open files", "no limit" if limit < 0 else f"up to {limit} of each worker")


def clock_is_synchronised() -> bool | None:
    """What the kernel says about its clock; None if it does not say."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state: int = libc.adjtimex(ctypes.create_string_buffer(SIZE_OF_TIMEX))  # all zero: it only asks
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != TIME_ERROR


def clock(*, synchronised: bool | None) -> Finding:
    """Whether the clock is right: certificates have dates, and logs of several machines are read together."""
    if synchronised is False:
        return warn("clock", "not synchronised, says the kernel", "run chrony or systemd-timesyncd on the host")
    return ok("clock", "synchronised" if synchronised else "the kernel does not say whether it is synchronised")
