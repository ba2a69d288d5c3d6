"""How workers are started, replaced and ended: real processes with a toy inside."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serving.supervisor.supervisor import TICK_SECONDS, pause
from tests.support import ROOT

PATIENCE_SECONDS = 90.0  # on a machine with other work, a spawned process takes seconds to start


class Toy:
    """A supervisor of toy workers, and its log."""

    def __init__(self, models: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "tests.serving.supervisor.toy", "--models", str(models), *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self.log.append(line)
                self._said.notify_all()

    def saw(self, pattern: str, times: int = 1) -> list[re.Match[str]]:
        """Wait until the log matches that often; the matches."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.log if (match := re.search(pattern, line))]

        with self._said:
            assert self._said.wait_for(lambda: len(found()) >= times, PATIENCE_SECONDS), "".join(self.log)
            return found()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", "".join(self.log)

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if any("spawn_main" in word for word in child.cmdline())]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end by itself; the exit status."""
        status = self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    package(tmp_path / "models", 1, "good")
    return tmp_path / "models"


def package(models: Path, version: int, nature: str) -> None:
    staged = models.parent / "staged"
    staged.mkdir(parents=True)
    (staged / "nature").write_text(nature)
    (models / "toy").mkdir(parents=True, exist_ok=True)
    staged.rename(models / "toy" / str(version))


@pytest.fixture
def start(models: Path) -> Iterator[Callable[..., Toy]]:
    toys: list[Toy] = []

    def start(*flags: str) -> Toy:
        toys.append(Toy(models, *flags))
        return toys[-1]

    yield start
    for toy in toys:
        toy.close()


Start = Callable[..., Toy]


def test_all_workers_start_and_stop(start: Start) -> None:
    toy = start("--workers", "3")
    toy.wait_ready()
    assert len(toy.workers()) == 3
    toy.send(signal.SIGTERM)
    assert toy.end() == 0
    toy.saw("worker . has left", times=3)


def test_a_worker_that_is_killed_is_replaced(start: Start) -> None:
    toy = start("--workers", "2")
    toy.wait_ready()
    for times in (1, 2, 3):
        toy.workers()[0].kill()
        toy.saw("was killed by SIGKILL; the next one starts now", times)
        toy.saw("worker . started", 2 + times)
    toy.send(signal.SIGINT)
    assert toy.end() == 0


def test_a_worker_that_hangs_is_replaced(start: Start, models: Path) -> None:
    package(models, 2, "hangs")
    toy = start("--workers", "1", "--hang-seconds", "2")
    toy.wait_ready()
    toy.saw(r"worker 0 has hung for \d+\.\d s: it is killed")
    toy.saw("worker 0 was killed by SIGKILL: has hung for")
    toy.saw("worker 1 started")


def test_a_worker_whose_engine_hangs_is_replaced_though_its_loop_is_alive(start: Start, models: Path) -> None:
    package(models, 2, "computes for ever")
    toy = start("--workers", "1", "--hang-seconds", "50")
    toy.wait_ready()
    toy.saw("worker 0 has hung: a batch has been running for 60 s: it is killed")
    toy.saw("worker 1 started")


def test_a_reload_starts_new_workers_before_the_old_ones_leave(start: Start, models: Path) -> None:
    toy = start("--workers", "2")
    toy.wait_ready()
    package(models, 2, "good")
    toy.send(signal.SIGHUP)
    toy.saw("reloading: toy 2, after toy 1")
    toy.saw("reload done: toy 2")
    text = "".join(toy.log)
    assert text.index("worker 3 started") < text.index("the old ones leave") < text.index("worker 0 has left")
    assert len(toy.workers()) == 2


def test_a_worker_whose_caller_asks_for_it_causes_one_reload(start: Start, models: Path) -> None:
    (models / "toy" / "1" / "nature").write_text("asks for version 2")
    toy = start("--workers", "2")
    toy.wait_ready()
    package(models, 2, "good")
    toy.saw("reload done: toy 2")
    toy.send(signal.SIGTERM)
    assert toy.end() == 0
    assert 1 <= "".join(toy.log).count("reloading: toy 2") <= 2  # both workers ask; the second one may come later


def test_watching_takes_up_a_new_version_a_pin_and_a_withdrawal(start: Start, models: Path) -> None:
    toy = start("--workers", "1", "--watch", "0.1")
    toy.wait_ready()
    package(models, 2, "good")
    toy.saw("reload done: toy 2")
    (models / "toy" / "CURRENT").write_text("1\n")
    toy.saw("reload done: toy 1")
    (models / "toy" / "CURRENT").unlink()
    toy.saw("reload done: toy 2", times=2)
    (models / "toy" / "WITHDRAWN").write_text("2\n")
    toy.saw("reload done: toy 1", times=2)


@pytest.mark.parametrize(
    ("nature", "why"),
    [
        ("refused", "the self-test failed"),
        ("refused and stays", "the self-test failed"),
        ("dies loading", "ended with status 3"),
    ],
)
def test_a_version_that_cannot_be_loaded_never_serves(start: Start, models: Path, nature: str, why: str) -> None:
    toy = start("--workers", "2")
    toy.wait_ready()
    before = {worker.pid for worker in toy.workers()}
    package(models, 2, nature)
    toy.send(signal.SIGHUP)
    toy.saw(f"reload refused, still serving toy 1: {why}")
    assert {worker.pid for worker in toy.workers()} == before
    toy.send(signal.SIGTERM)
    assert toy.end() == 0


def test_a_reload_that_only_some_workers_can_do_is_none(start: Start, models: Path) -> None:
    toy = start("--workers", "3")
    toy.wait_ready()
    before = {worker.pid for worker in toy.workers()}
    package(models, 2, "refused in slot 2")
    toy.send(signal.SIGHUP)
    toy.saw("reload refused, still serving toy 1: the self-test failed")
    toy.saw("worker . has left", times=2)
    assert {worker.pid for worker in toy.workers()} == before
    assert "reload done" not in "".join(toy.log)


def test_a_storm_of_reloads_does_not_pile_up_workers(start: Start, models: Path) -> None:
    package(models, 2, "stays")
    toy = start("--workers", "1", "--max-connection-age-seconds", "0", "--grace", "0", "--lame-duck-seconds", "0")
    toy.wait_ready()
    for _ in range(60):
        toy.send(signal.SIGHUP)
        assert len(toy.workers()) <= 4  # one that serves, one that loads, two that do not leave
        time.sleep(0.05)
    toy.saw("did not end in time: it is killed", times=2)


def test_a_reload_that_is_asked_for_during_the_start_is_done_after_it(start: Start) -> None:
    toy = start("--workers", "1")
    toy.saw("worker 0 started")
    toy.send(signal.SIGHUP)
    toy.wait_ready()
    toy.saw("reload done: toy 1")


def test_a_choice_that_cannot_be_made_is_refused_and_nothing_starts(start: Start, models: Path) -> None:
    toy = start("--workers", "1")
    toy.wait_ready()
    (models / "toy" / "CURRENT").write_text("7\n")
    toy.send(signal.SIGHUP)
    toy.saw("reload refused, still serving toy 1: .*CURRENT: version 7 is not there; there is 1")
    shutil.rmtree(models)
    toy.send(signal.SIGHUP)
    toy.saw("reload refused, still serving toy 1: .*no such folder of models")


def test_what_was_refused_is_tried_again_by_a_watcher_later(start: Start, models: Path) -> None:
    toy = start("--workers", "1", "--watch", "0.1")
    toy.wait_ready()
    package(models, 2, "refused")
    toy.saw("reload refused")
    time.sleep(1.0)
    assert len(toy.saw("reload refused")) == 1  # not ten times a second
    (models / "toy" / "2" / "nature").write_text("good")
    toy.send(signal.SIGHUP)  # an operator need not wait for the watcher
    toy.saw("reload done: toy 2")


def test_a_start_that_fails_says_why(start: Start, models: Path) -> None:
    package(models, 2, "refused")
    toy = start("--workers", "2")
    assert toy.end() == 1
    toy.saw("^error: the self-test failed$")
    package(models, 3, "dies loading")
    toy = start("--workers", "2")
    assert toy.end() == 1
    toy.saw("^error: a worker ended with status 3 before it was ready; see its log above$")


def test_a_worker_that_has_said_why_it_fails_and_does_not_end_is_killed(start: Start, models: Path) -> None:
    package(models, 2, "refused and stays")
    toy = start("--workers", "1")
    assert toy.end() == 1
    toy.saw("worker 0 has failed, and did not end in time: it is killed")
    toy.saw("^error: the self-test failed$")


def test_a_crash_loop_ends_with_the_reason(start: Start, models: Path) -> None:
    package(models, 2, "dies serving")
    toy = start("--workers", "1")
    assert toy.end() == 1
    toy.saw("^error: (12 workers in a row died soon; the last one|a worker) ended with status 4")


def test_the_supervisor_wakes_when_the_next_worker_may_start() -> None:
    assert pause(now=10.0, start_at=10.1) == pytest.approx(0.1)
    assert [pause(10.0, moment) for moment in (0.0, 10.0, 99.0)] == [TICK_SECONDS] * 3


def test_a_signal_during_the_start_ends_it(start: Start, models: Path) -> None:
    package(models, 2, "loads slowly")
    toy = start("--workers", "2")
    toy.saw("worker . started", times=2)
    toy.send(signal.SIGTERM)
    assert toy.end() == 128 + signal.SIGTERM


def test_a_signal_during_a_reload_ends_old_and_new_workers(start: Start, models: Path) -> None:
    toy = start("--workers", "1")
    toy.wait_ready()
    package(models, 2, "loads slowly")
    toy.send(signal.SIGHUP)
    toy.saw("worker 1 started")
    toy.send(signal.SIGTERM)
    toy.end()
    toy.saw("worker 0 has left")


def test_a_worker_that_does_not_leave_is_killed_and_a_second_signal_ends_at_once(start: Start, models: Path) -> None:
    package(models, 2, "stays")
    toy = start("--workers", "1", "--grace", "0", "--lame-duck-seconds", "0", "--max-connection-age-seconds", "0")
    toy.wait_ready()
    toy.send(signal.SIGHUP)
    toy.saw("worker 0 did not end in time: it is killed")
    toy.saw("reload done")
    for worker in toy.workers():
        worker.suspend()  # as if it could not hear the signal
    toy.send(signal.SIGTERM)
    toy.saw("stopping: SIGTERM")
    toy.send(signal.SIGINT)
    assert toy.end() == 128 + signal.SIGINT


def test_new_workers_that_wait_for_each_other_have_not_hung(start: Start, models: Path) -> None:
    """They load one after the other, and have nothing to say from then until all are loaded."""
    toy = start("--workers", "3", "--hang-seconds", "2")
    toy.wait_ready()
    package(models, 2, "loads in a while")
    toy.send(signal.SIGHUP)
    toy.saw("reload done: toy 2|reload refused")
    assert "has hung" not in "".join(toy.log)


def test_a_new_worker_that_dies_while_the_others_begin_to_serve_is_replaced(start: Start, models: Path) -> None:
    toy = start("--workers", "2")
    toy.wait_ready()
    package(models, 2, "dies once")
    toy.send(signal.SIGHUP)
    toy.saw("worker 3 ended with status 4 while a reload was under way; another one starts")
    toy.saw("reload done: toy 2")


def test_nobody_has_hung_after_a_pause_of_all_processes(start: Start) -> None:
    """`docker pause`, a snapshot of a virtual machine: nobody could say anything."""
    toy = start("--workers", "2", "--hang-seconds", "2")
    toy.wait_ready()
    everybody = [psutil.Process(toy.process.pid), *toy.workers()]
    for process in everybody:
        process.suspend()
    time.sleep(3.0)
    for process in everybody:
        process.resume()
    toy.send(signal.SIGHUP)
    toy.saw("reload done")
    assert "has hung" not in "".join(toy.log)


def test_a_worker_that_hangs_while_it_leaves_is_killed(start: Start, models: Path) -> None:
    package(models, 2, "hangs leaving")
    toy = start("--workers", "1", "--hang-seconds", "2")
    toy.wait_ready()
    toy.send(signal.SIGHUP)
    toy.saw(r"worker 0 has hung\b.* \d+(\.\d)? s: it is killed")  # since it was heard, or since it sent what was heard
    toy.saw("reload done")


def test_a_watcher_takes_a_newer_version_up_at_once_after_one_that_was_refused(start: Start, models: Path) -> None:
    toy = start("--workers", "1", "--watch", "0.1")
    toy.wait_ready()
    package(models, 2, "refused")
    toy.saw("reload refused")
    package(models, 3, "good")
    toy.saw("reload done: toy 3")


def test_when_what_is_served_is_deleted_and_a_worker_dies_the_default_is_served(start: Start, models: Path) -> None:
    toy = start("--workers", "1")
    toy.wait_ready()
    package(models, 2, "good")
    shutil.rmtree(models / "toy" / "1")
    toy.workers()[0].kill()
    toy.saw("reload done: toy 2")


def test_a_supervisor_that_waits_needs_no_time(start: Start) -> None:
    toy = start("--workers", "2")
    toy.wait_ready()
    process = psutil.Process(toy.process.pid)
    before = process.cpu_times()
    time.sleep(2.0)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.1  # with beats ten times as often as real ones
