"""Throws spoilt packages at the reader, in a process of its own that a crash may take. test_fuzz.py runs it.

    python -m tests.vaeport.fuzz TEMPLATE FOLDER SECONDS FIRST

Case n is drawn from the seed n: FIRST is the first. Each is announced by a line with its number, so that the last line
names the one that crashed; a case that breaks a promise is a line with what it broke.
"""

import collections
import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import vaeport
from tests.vaeport import mutations
from vaeport.errors import PackageError, SelfTestError
from vaeport.golden import read_golden
from vaeport.package import open_package

GROWTH_BYTES = 200 * 10**6
HANG_SECONDS = 30
LONG_MESSAGE = 10_000
IN_ACCESS, IN_OPEN = 0x1, 0x20  # of inotify
ALL = (*mutations.MANIFEST * 3, *mutations.FOLDER, *mutations.GOLDEN * 2, *mutations.GRAPHS * 3)


def read(folder: Path, compute: bool) -> None:
    """All that reads a package; and with `compute`, for graphs that are not spoilt, one score."""
    package = open_package(folder)
    with contextlib.suppress(SelfTestError):  # it has no golden vectors
        read_golden(package)
    model = vaeport.load(folder, threads=1)
    if compute:
        model.score(np.zeros(model.image_shape, np.uint8), seed=0)


class Watch:
    """What Python opens, while it is on; and whether anybody, ONNX Runtime too, opens the secret."""

    def __init__(self, secret: Path) -> None:
        self.folder: Path | None = None
        self.opened_outside: list[str] = []
        self._secret = secret
        self._libc = ctypes.CDLL(None, use_errno=True)
        sys.addaudithook(self._hear)

    @contextlib.contextmanager
    def on(self, folder: Path) -> Iterator[None]:
        """Watch while a package in `folder` is read."""
        self.opened_outside.clear()
        inotify = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._libc.inotify_add_watch(inotify, os.fsencode(self._secret), IN_OPEN | IN_ACCESS) >= 0
        self.folder = folder.resolve()
        try:
            yield
        finally:
            self.folder = None
            with contextlib.suppress(BlockingIOError):  # nobody did
                os.read(inotify, 4096)
                self.opened_outside.append(f"{self._secret}, whoever it was")
            os.close(inotify)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in ("open", "os.listdir", "os.scandir", "os.open"):
            return
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike):
            folder, self.folder = self.folder, None  # resolving may be heard, too
            if not Path(os.fsdecode(path)).resolve().is_relative_to(folder):
                self.opened_outside.append(os.fsdecode(path))
            self.folder = folder


def case(number: int, template: Path, folder: Path, watch: Watch) -> tuple[str, str | None]:
    """Make a package, spoil it, read it; what happened, and what that broke."""
    chance = Random(number)
    package, outside = folder / "package", folder / "outside"
    for path in (package, outside):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(template, package)
    outside.mkdir()
    (outside / mutations.SECRET).write_text("secret")
    mutation = chance.choice(ALL)
    mutation(package, outside, chance)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    with watch.on(package):
        error = error_of(partial(read, package, mutation in mutations.MANIFEST))
    faulthandler.cancel_dump_traceback_later()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    broken = not_promised(error)
    if watch.opened_outside:
        broken = f"opened {watch.opened_outside}"
    if grown > GROWTH_BYTES:
        broken = f"took {grown / 1e6:.0f} MB"
    return f"{mutation.__name__}: {type(error).__name__ if error else 'accepted'}", broken


def error_of(work: Callable[[], object]) -> Exception | None:
    """What it raises."""
    try:
        work()
    except Exception as error:
        return error
    return None


def not_promised(error: Exception | None) -> str | None:
    """What is wrong with an error."""
    if error is None or isinstance(error, PackageError):
        return f"an error of {len(str(error))} characters" if len(str(error)) > LONG_MESSAGE else None
    return "".join(traceback.format_exception(error))


def main(template: Path, folder: Path, seconds: float, first: int) -> None:
    """Cases until the time is over."""
    read(template, compute=True)  # so that all is imported, and what it takes is no growth
    watch, counted = Watch(folder / "outside" / mutations.SECRET), collections.Counter[str]()
    os.chdir(folder)
    end, number = time.monotonic() + seconds, first
    while time.monotonic() < end:
        print(json.dumps({"case": number}), flush=True)
        result, broken = case(number, template, folder, watch)
        counted[result] += 1
        if broken:
            print(json.dumps({"case": number, "result": result, "broken": broken}), flush=True)
        number += 1
    print(json.dumps({"counted": counted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), float(sys.argv[3]), int(sys.argv[4]))
