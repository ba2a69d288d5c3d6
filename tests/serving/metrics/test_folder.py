"""Processes that count and end, in every way: what they have counted stays, and their files go."""

import logging
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serving.metrics.folder import MetricsFolder
from serving.metrics.room import KINDS, has_room
from tests.serving.metrics.reading import Samples, histogram, samples_of, value
from tests.support import ROOT

WORKER = """
import sys
from serving.metrics.recorder import Recorder
recorder = Recorder()
method = recorder.of_method("s/Encode")
method.began(None)
for line in sys.stdin:
    for _ in range(int(line)):
        method.began(None)
        method.ended(None, "OK", 0.003)
    recorder.write()
    print("counted", flush=True)
"""

EVERYTHING = """
from prometheus_client import CollectorRegistry
from serving.metrics import catalogue, instruments
metrics = instruments.Instruments(CollectorRegistry())
for spec in catalogue.CATALOGUE:
    if spec.source == "worker":
        metric = getattr(metrics, spec.kind)(spec)
        if spec.labels:
            metric.labels(*spec.labels)
"""


class Counting:
    """A process that counts so many calls when told to, and has one in flight."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER],
            cwd=ROOT,
            env={"PROMETHEUS_MULTIPROC_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def count(self, calls: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "counted\n"

    def end(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        self.process.communicate(timeout=20)
        assert self.process.returncode == (-signal.SIGKILL if kill else 0)


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Callable[[], Counting]]:
    started: list[Counting] = []

    def start() -> Counting:
        started.append(Counting(tmp_path))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


@contextmanager
def scraping(folder: MetricsFolder) -> Iterator[list[float]]:
    """Scrape all the time; yields the calls that were seen, in order."""
    seen: list[float] = []
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            seen.append(calls(scrape_once(folder)))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def scrape_once(folder: MetricsFolder) -> Samples:
    registry = CollectorRegistry()
    registry.register(folder)
    return samples_of(registry)


def calls(found: Samples) -> float:
    return value(found, "vaeport_calls_total", code="OK")


def test_what_ended_processes_counted_stays_and_their_files_go(
    tmp_path: Path, counting: Callable[[], Counting]
) -> None:
    folder = MetricsFolder(tmp_path)
    workers = [counting() for _ in range(4)]
    for number, worker in enumerate(workers):
        worker.count(10 + number)
    expected = scrape_once(folder)
    assert calls(expected) == 46
    assert value(expected, "vaeport_calls_in_flight") == 4
    with scraping(folder) as seen:
        for number, worker in enumerate(workers[:3]):
            worker.end(kill=number != 1)
            folder.retire(worker.pid)
            folder.retire(worker.pid)
    assert set(seen) <= {46}
    found = scrape_once(folder)
    assert calls(found) == 46
    assert histogram(found, "vaeport_call_seconds") == {0.005: 46}
    assert value(found, "vaeport_call_seconds_sum") == pytest.approx(46 * 0.003)
    assert value(found, "vaeport_calls_in_flight") == 1
    names = {file.name for file in tmp_path.iterdir()}
    own = {file.name for file in tmp_path.glob(f"*_{workers[3].pid}.db")}
    assert names == own | {"counter_retired.db", "histogram_retired.db"}


def test_counters_never_go_backwards_while_processes_come_and_go(
    tmp_path: Path, counting: Callable[[], Counting]
) -> None:
    folder = MetricsFolder(tmp_path)
    first = counting()
    first.count(1)
    with scraping(folder) as seen:
        for _ in range(3):
            second = counting()  # a scrape may come when its files are still empty
            for _ in range(5):
                first.count(3)
                second.count(2)
            first.end(kill=True)
            folder.retire(first.pid)
            first = second
    seen.append(calls(scrape_once(folder)))
    assert seen == sorted(seen)
    assert seen[-1] == 1 + 3 * 5 * (3 + 2)
    assert len(list(tmp_path.iterdir())) <= 2 + 4


def test_a_process_that_is_killed_before_it_has_counted_leaves_nothing(tmp_path: Path) -> None:
    for name in ("counter_77.db", "histogram_77.db", "gauge_livesum_77.db", "counter_7.db"):
        (tmp_path / name).touch()
    folder = MetricsFolder(tmp_path)
    assert scrape_once(folder) == {}
    folder.retire(77)
    assert "counter_7.db" in {file.name for file in tmp_path.iterdir()}
    assert not list(tmp_path.glob("*_77.db"))
    assert scrape_once(folder) == {}


def test_a_merge_that_fails_changes_nothing(
    tmp_path: Path, counting: Callable[[], Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = MetricsFolder(tmp_path)
    worker = counting()
    worker.count(5)
    worker.end(kill=False)

    def full(self: Path, target: Path) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        folder.retire(worker.pid)
    assert calls(scrape_once(folder)) == 5
    folder.retire(worker.pid)
    assert calls(scrape_once(folder)) == 5


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond a kilobyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_no_counts_and_not_the_process(tmp_path: Path, counting: Callable[[], Counting]) -> None:
    folder, worker = MetricsFolder(tmp_path), counting()
    worker.count(5)
    worker.end(kill=True)
    with full_disk():
        folder.retire(worker.pid)
    assert calls(scrape_once(folder)) == 5
    folder.retire(worker.pid)
    assert calls(scrape_once(folder)) == 5
    assert {file.name for file in tmp_path.iterdir()} == {"counter_retired.db", "histogram_retired.db"}


def test_a_process_without_room_for_its_files_does_not_begin_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, counting: Callable[[], Counting]
) -> None:
    with full_disk(), caplog.at_level(logging.ERROR):
        assert not has_room(tmp_path, 7)
    assert "this worker counts nothing" in caplog.text
    assert list(tmp_path.iterdir()) == []
    worker = counting()
    assert has_room(tmp_path, worker.pid)
    worker.count(3)
    assert calls(scrape_once(MetricsFolder(tmp_path))) == 3
    assert len(list(tmp_path.iterdir())) == len(KINDS)


def test_files_are_made_beforehand_for_every_metric_of_a_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", EVERYTHING]
    subprocess.run(command, cwd=ROOT, env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}, check=True, timeout=60)
    assert sorted(file.name.rsplit("_", 1)[0] for file in tmp_path.iterdir()) == KINDS
