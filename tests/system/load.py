"""Callers who never pause, and what became of their calls."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

import vaeport

PATIENCE_SECONDS = 60.0


@dataclass
class Load:
    """What callers have seen so far.

    Attributes:
        calls: that were answered.
        errors: what the others ended with.
        versions: of the package that answered, caller by caller, each change once.
    """

    calls: int = 0
    errors: list[Exception] = field(default_factory=list)
    versions: dict[int, list[str]] = field(default_factory=dict)

    def go_on(self, calls: int = 100) -> None:
        """Wait until so many more calls have been answered."""
        wanted = self.calls + calls
        wait_until(lambda: self.calls >= wanted or bool(self.errors))


@contextmanager
def load(connect: Callable[[], vaeport.Client], callers: int = 6) -> Iterator[Load]:
    """Each caller has a client of his own and encodes one image after the other, until the end of the block."""
    seen, ending = Load(), threading.Event()
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)

    def call_on(caller: int) -> None:
        versions = seen.versions.setdefault(caller, [])
        with connect() as client:
            while not ending.is_set():
                try:
                    version = client.encode(images).version
                except Exception as error:  # whatever it is, the test has to say whether it may be
                    seen.errors.append(error)
                else:
                    seen.calls += 1
                    if versions[-1:] != [version]:
                        versions.append(version)

    threads = [threading.Thread(target=call_on, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        seen.go_on()
        yield seen
        seen.go_on()
    finally:
        ending.set()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)


def wait_until(holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for a condition that nobody announces."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it has not come about in time"
        time.sleep(0.02)
