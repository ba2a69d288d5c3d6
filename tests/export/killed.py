"""Publishes packages in processes that kill themselves; a program of its own, since it forks. test_kill.py runs it.

    python -m tests.export.killed steps TEMPLATE FOLDER FIRST PART    killed before and after system calls: the FIRST,
                                                                      and every PART-th from there
    python -m tests.export.killed together TEMPLATE FOLDER            several at once, some of them killed

It ends with an AssertionError, or prints how many calls there were.
"""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from export.package import publish, staging
from vaeport.package import Package, open_package
from vaeport.versions import versions

WRITERS, EACH = 4, 3
FEW = 20
LATEST_KILL = 1000  # about as many calls as there are
PUBLISHED_LAST = ("README.md", "manifest.json")


def publish_copy(template: Package, to: Path) -> Path:
    """As `export_run` does, with files that are ready."""
    with staging(to) as staged:
        for entry in template.manifest.files:
            if entry.path not in PUBLISHED_LAST:
                (staged / entry.path).parent.mkdir(exist_ok=True)
                (staged / entry.path).write_bytes((template.path / entry.path).read_bytes())
        return publish(staged, to, template.manifest, exactly=False)


def start(work: Callable[[], object]) -> int:
    """Fork, and work in the child; its number."""
    if child := os.fork():
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def end(child: int) -> int:
    """How it ended, as os.waitpid has it."""
    return os.waitpid(child, 0)[1]


def kill_at(step: int, counted: list[int] | None = None) -> None:
    """From now on count calls to the system, each at its start and at its end; at number `step`, SIGKILL."""
    steps = 0

    def on_call(_frame: FrameType, event: str, function: Any) -> None:
        nonlocal steps
        if event not in ("c_call", "c_return") or not _is_of_the_system(function):
            return
        steps += 1
        if counted is not None:
            counted[0] = steps
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(on_call)


def _is_of_the_system(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    return getattr(function, "__module__", None) in ("posix", "fcntl", "_io") or type(owner).__module__ == "_io"


def check(to: Path, at_most: int) -> None:
    """Every visible version is a complete package, and says that it is this version."""
    found = versions(to)
    assert len(found) <= at_most, found
    for version in found:
        assert open_package(to / str(version)).manifest.version == version
    assert all(path.name in map(str, found) or path.name.startswith(".vaeport-staging-") for path in to.glob("*")), to


def steps(template: Package, folder: Path, first: int, part: int) -> int:
    """Kill one at every `part`-th step from the `first` on, and see that the next one works and cleans up."""
    counted = [0]
    kill_at(0, counted)
    publish_copy(template, folder / "count" / template.manifest.name)
    sys.setprofile(None)
    leftovers = 0
    for step in range(first, counted[0] + 1, part):
        to = folder / str(step) / template.manifest.name

        def work(step: int = step, to: Path = to) -> None:
            kill_at(step)
            publish_copy(template, to)

        if (ended := end(start(work))) == 0:  # it made a few calls less than the first one, and was through
            assert step > counted[0] - FEW, step
            break
        assert os.WTERMSIG(ended) == signal.SIGKILL, step
        check(to, at_most=1)
        leftovers += len(list(to.glob(".vaeport-staging-*")))
        made = publish_copy(template, to)
        assert made.name == str(len(versions(to)))
        check(to, at_most=2)
        assert not list(to.glob(".vaeport-staging-*")), step
        shutil.rmtree(to)
    assert leftovers > 0  # or nothing was tested
    return counted[0]


def together(template: Package, folder: Path) -> int:
    """Several at once to one name, each killed now and then: no version is mixed, no live one loses its files."""

    def write(seed: int) -> None:
        chance = random.Random(seed)

        def write_and_die(step: int) -> None:
            kill_at(step)
            publish_copy(template, folder)

        for _ in range(EACH):
            publish_copy(template, folder)  # raises, if somebody took its folder for a leftover
            end(start(partial(write_and_die, chance.randrange(1, LATEST_KILL))))

    writers = [start(partial(write, seed)) for seed in range(WRITERS)]
    assert [end(writer) for writer in writers] == [0] * WRITERS
    check(folder, at_most=2 * WRITERS * EACH)
    assert len(versions(folder)) >= WRITERS * EACH
    publish_copy(template, folder)
    assert not list(folder.glob(".vaeport-staging-*"))
    return len(versions(folder))


if __name__ == "__main__":
    template_package, root = open_package(sys.argv[2]), Path(sys.argv[3])
    if sys.argv[1] == "steps":
        print(steps(template_package, root, *map(int, sys.argv[4:])))
    else:
        print(together(template_package, root / template_package.manifest.name))
