"""The one mechanism behind start, crash recovery and reload: start, self-test and warm new workers, let them take
calls, then tell the old ones to leave.

The supervisor is a loop over its workers' messages and ends. It computes nothing and answers no calls, so that little
in it can fail, and it never waits for a single worker.
"""

import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from types import FrameType
from typing import TYPE_CHECKING

from serving.repository import default_packages
from serving.settings import Settings
from serving.supervisor.crashes import LIMIT, Crashes
from serving.supervisor.messages import Order
from serving.supervisor.notify import Notifier
from serving.supervisor.overdue import overdue
from serving.supervisor.process import State, Target, WorkerProcess
from serving.supervisor.status import exit_cause, status_of
from serving.supervisor.wanted import Packages, Wanted
from vaeport.errors import PackageError

if TYPE_CHECKING:
    from serving.metrics.status import Status
    from serving.metrics.supervisor import SupervisorMetrics

TICK_SECONDS = 1.0  # the longest time between two looks at the clock
ENDING_SECONDS = 0.005
PAUSE_SECONDS = 2.0  # without a turn of the loop: the machine, or its container, was paused
LIVE_SECONDS = 10.0  # without a turn of the loop: it is stuck
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MAX_LEAVING = 2  # times the workers that serve: how many may be leaving when a reload begins
RELOAD_TRIES = 3  # unexplained deaths of new workers while they load, before the reload is given up

log = logging.getLogger(__name__)


class StartError(RuntimeError):
    """A worker ended before the server was ready."""


class CrashLoopError(RuntimeError):
    """Workers die as fast as they are started."""


@dataclass(eq=False, slots=True)
class Generation:
    """Workers that serve the same packages."""

    packages: Packages
    workers: list[WorkerProcess] = field(default_factory=list)
    deaths: int = 0

    def all_are(self, state: State, count: int) -> bool:
        """Whether there are `count` workers, all of them in that state."""
        return len(self.workers) == count and all(worker.state is state for worker in self.workers)

    def open(self, now: float) -> None:
        """Let the workers that have loaded take calls."""
        for worker in self.workers:
            if worker.state is State.LOADED:
                worker.tell(Order.SERVE, now)


class Supervisor:
    """Keeps `settings.workers` workers that serve the default version of each model.

    Args:
        settings: the server's settings; `workers` is the actual number.
        target: what a worker runs; called with its slot, its packages and its end of the channel.
        announce: called once, when all workers take calls.
        notify: notifies a service manager.

    Attributes:
        metrics: counts what happens, if there are metrics.
    """

    def __init__(
        self, settings: Settings, target: Target, announce: Callable[[], None], notify: Notifier | None = None
    ) -> None:
        self.metrics: SupervisorMetrics | None = None
        self._settings = settings
        self._target = target
        self._announce = announce
        self._notify = notify or Notifier(None)
        self._current = Generation(default_packages(settings.models))
        self._next: Generation | None = None
        self._leaving: list[WorkerProcess] = []
        self._switched = False  # a reload is done except for the workers that leave
        self._crashes = Crashes()
        self._started = 0
        self._start_at = 0.0  # the earliest moment for another worker of the current generation
        self._ready = False
        self._stepped = time.monotonic()
        self._watched = 0.0  # when systemd last heard from us
        self._why = "start"  # the next worker of the current generation starts
        self._signals: list[int] = []
        self._stopping = 0  # signals that have been acted upon
        self._status = 0
        self._wanted = Wanted(settings.models, settings.watch)
        self._patient_until = 0.0  # until then no worker counts as hung

    def run(self) -> int:
        """Serve until a signal; returns the exit status.

        Raises:
            StartError: a worker ended before all were ready.
            CrashLoopError: workers die as fast as they are started.
        """
        with self._handled_signals() as wake:
            try:
                while not self._stopping or self._workers():
                    self._step()
                    self._wait(wake)
            finally:
                for worker in self._workers():
                    worker.kill()
                    worker.end()
        return self._status

    def status(self) -> "Status":
        """The server's current state; callable from any thread."""
        return status_of(self._workers(), "stopping" if self._stopping else "" if self._ready else "starting")

    def live(self) -> tuple[bool, str]:
        """Whether this loop is running, also in words; callable from any thread."""
        silence = time.monotonic() - self._stepped
        return silence < LIVE_SECONDS, f"the supervisor was awake {silence:.1f} s ago"

    def _step(self) -> None:
        now = time.monotonic()
        if now - self._stepped > PAUSE_SECONDS:  # the workers may have been paused as well
            self._patient_until = now + self._settings.hang_seconds
        self._stepped = now
        for worker in self._workers():
            worker.read(now)
            while worker.asked:
                said, model = worker.asked.pop(0)
                log.info("a caller asks to %s %s", said.value, model)
                self._wanted.hear(said, model, self._current.packages)
        for worker in self._workers():
            if not worker.is_alive:
                self._bury(worker, now)
        if len(self._signals) > self._stopping:
            self._stop(now)
        if not self._stopping:
            self._keep(now)
            self._reload(now)
        self._force(now)
        if now - self._watched >= TICK_SECONDS:
            self._watched = now
            self._notify("WATCHDOG=1")

    def _wait(self, wake: socket.socket) -> None:
        """Wait until a worker says something or ends, a signal comes, or it is time to look at the clock."""
        workers = self._workers()
        channels = [worker.channel for worker in workers if worker.channel is not None]
        sentinels = [worker.process.sentinel for worker in workers]
        ready = wait([*channels, *sentinels, wake], pause(time.monotonic(), self._start_at))
        if wake in ready:
            wake.recv(4096)
        elif not set(ready) & set(channels):
            time.sleep(ENDING_SECONDS)  # the end of a worker shows some time before it can be waited for

    def _workers(self) -> list[WorkerProcess]:
        following = self._next  # read once: other threads call this, too
        return [*self._current.workers, *(following.workers if following else []), *self._leaving]

    def _start_worker(self, generation: Generation, now: float) -> None:
        taken = {worker.slot for worker in generation.workers}
        slot = next(slot for slot in range(self._settings.workers) if slot not in taken)
        worker = WorkerProcess.start(self._started, slot, generation.packages, self._target, now)
        generation.workers.append(worker)
        self._started += 1
        if self.metrics is not None:
            self.metrics.worker_started("reload" if generation is self._next else self._why)
        log.info("worker %d started, process %d", worker.number, worker.process.pid)

    # --- workers that end

    def _bury(self, worker: WorkerProcess, now: float) -> None:
        """Act on the end of a worker."""
        worker.read(now)  # its last words
        how = worker.end()
        cause = exit_cause(worker, leaving=worker in self._leaving, stopping=bool(self._stopping))
        if self.metrics is not None and worker.process.pid is not None:
            self.metrics.worker_exited(worker.process.pid, cause)
        if worker in self._leaving:
            self._leaving.remove(worker)
            self._left(worker, how)
        elif worker in self._current.workers:
            self._current.workers.remove(worker)
            self._why = "hang" if cause == "hang" else "crash"
            self._died(worker, how, now)
        elif self._next is not None:
            self._next.workers.remove(worker)
            self._died_loading(self._next, worker, how, now)

    def _left(self, worker: WorkerProcess, how: str) -> None:
        if worker.process.exitcode == 0 or worker.serving_since is None:
            log.info("worker %d has left", worker.number)
        else:
            log.warning("worker %d %s while it was leaving", worker.number, how)
            if self._stopping:
                self._status = 128 + self._signals[-1]
        self._say_if_done()

    def _say_if_done(self) -> None:
        """Log that a reload is done, once all replaced workers have gone."""
        if self._switched and not self._leaving and not self._stopping:
            self._switched = False
            log.info("reload done: %s", _names(self._current.packages))
            self._notify("READY=1")

    def _died(self, worker: WorkerProcess, how: str, now: float) -> None:
        """Replace a worker that should serve and has died, unless that is hopeless."""
        if not self._ready:
            raise StartError(worker.failure or f"a worker {how} before it was ready; see its log above")
        served = now - worker.serving_since if worker.serving_since is not None else 0.0
        delay = self._crashes.died(served)
        self._start_at = now + delay
        log.error("worker %d %s; the next one starts %s", worker.number, how, f"in {delay:g} s" if delay else "now")
        if self._settings.models.is_dir() and not all(path.is_dir() for path in worker.packages):
            self._wanted.asked = True  # another worker would miss it, too
        serves = any(other.state is State.SERVING for other in self._current.workers)
        if self._crashes.is_loop and not serves and self._next is None:
            raise CrashLoopError(f"{LIMIT} workers in a row died soon; the last one {how}; see its log above")

    def _died_loading(self, generation: Generation, worker: WorkerProcess, how: str, now: float) -> None:
        """Give the reload up because a new worker has died, unless that may have been an accident."""
        generation.deaths += 1
        if worker.failure or generation.deaths >= RELOAD_TRIES:
            self._refuse(generation, worker.failure or how, now)
        else:
            log.warning("worker %d %s while a reload was under way; another one starts", worker.number, how)

    # --- keeping workers

    def _keep(self, now: float) -> None:
        """Start missing workers of the current generation."""
        generation, count = self._current, self._settings.workers
        while len(generation.workers) < count and now >= self._start_at:
            self._start_worker(generation, now)
        generation.open(now)
        if not self._ready and generation.all_are(State.SERVING, count):
            self._ready = True
            self._announce()
            self._notify("READY=1")

    def _force(self, now: float) -> None:
        """Kill workers that do not do in time what they should."""
        stopping, patient = bool(self._stopping), now < self._patient_until
        for worker in self._workers():
            failure = overdue(worker, self._settings, now, stopping=stopping, patient=patient)
            if failure and not worker.killed:
                worker.killed, worker.failure = True, worker.failure or failure
                log.error("worker %d %s: it is killed", worker.number, failure)
                worker.kill()

    # --- reload

    def _reload(self, now: float) -> None:
        if self._next is None and (packages := self._due(now)) is not None:
            log.info("reloading: %s, after %s", _names(packages), _names(self._current.packages))
            self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            self._next = Generation(packages)
        if self._next is not None:
            self._advance(self._next, now)

    def _due(self, now: float) -> Packages | None:
        """The packages of a reload that should begin now; None if none should."""
        if not self._ready or len(self._leaving) >= MAX_LEAVING * self._settings.workers:
            return None  # later: each leaving worker holds its models in memory
        try:
            return self._wanted.due(self._current.packages, now)
        except (PackageError, OSError) as error:
            self._refused_because(str(error), str(error), now)
            return None

    def _advance(self, following: Generation, now: float) -> None:
        """Let the new workers load one after the other, so that callers notice little; then open all at once."""
        count = self._settings.workers
        if any(worker.state is State.LOADING for worker in following.workers):
            return
        if len(following.workers) < count:
            self._start_worker(following, now)
        elif following.all_are(State.SERVING, count):
            self._switch(following, now)
        else:
            following.open(now)

    def _switch(self, following: Generation, now: float) -> None:
        log.info("the new workers take calls; the old ones leave, when their callers have")
        old, self._current, self._next = self._current, following, None
        self._wanted.backoff.forget()
        self._crashes = Crashes()
        for worker in old.workers:
            worker.tell(Order.LEAVE, now)
        self._leaving += old.workers
        self._switched = True
        if self.metrics is not None:
            self.metrics.reloaded("done")
        if not old.workers:  # they had all died
            self._say_if_done()

    def _refuse(self, generation: Generation, why: str, now: float) -> None:
        """Give a reload up. It has not affected the current workers."""
        self._next = None
        for worker in generation.workers:
            worker.stop(now)
        self._leaving += generation.workers
        self._refused_because(why, generation.packages, now)

    def _refused_because(self, why: str, what: object, now: float) -> None:
        log.error("reload refused, still serving %s: %s", _names(self._current.packages), why)
        if self.metrics is not None:
            self.metrics.reloaded("failed")
        self._wanted.backoff.refused(what, now)
        self._notify("READY=1", f"STATUS=reload refused: {why}")

    # --- signals

    @contextmanager
    def _handled_signals(self) -> Iterator[socket.socket]:
        """Record signals; yields a socket that becomes readable when one has come."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP:
                self._wanted.asked = True
            else:
                self._signals.append(number)

        reader, writer = socket.socketpair()
        with reader, writer:
            writer.setblocking(False)
            before = {number: signal.signal(number, on_signal) for number in HANDLED}
            descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                yield reader
            finally:
                signal.set_wakeup_fd(descriptor)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _stop(self, now: float) -> None:
        """Drain at the first signal, end at once at the second. A signal before the server is ready ends the start."""
        self._stopping = len(self._signals)
        log.info("stopping: %s", signal.Signals(self._signals[-1]).name)
        self._notify("STOPPING=1")
        if not self._ready or self._stopping > 1:
            self._status = 128 + self._signals[-1]
        for worker in self._workers():
            worker.kill() if self._stopping > 1 else worker.stop(now)
        self._leaving, self._next = self._workers(), None
        self._current = Generation(self._current.packages)


def pause(now: float, start_at: float) -> float:
    """The most seconds to wait: until the next worker may start, if that is sooner than the next tick."""
    until = start_at - now
    return until if 0.0 < until < TICK_SECONDS else TICK_SECONDS


def _names(packages: Packages) -> str:
    return ", ".join(f"{path.parent.name} {path.name}" for path in packages)
