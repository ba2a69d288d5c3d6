"""One worker, as its supervisor sees it."""

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from serving.heartbeat import Heartbeat
from serving.supervisor.messages import Order, Said

Target = Callable[..., None]

# A spawned worker inherits blocked signals. Ctrl-C and the end of a terminal reach the whole process group, but only
# the supervisor must act on them: it tells the workers what to do.
BLOCKED = {signal.SIGINT, signal.SIGHUP}


class State(Enum):
    """The states of a worker, in this order."""

    LOADING = auto()
    LOADED = auto()
    OPENING = auto()  # has been told to serve
    SERVING = auto()
    LEAVING = auto()


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """A worker process and what it has said.

    Attributes:
        number: unique among the workers of this supervisor.
        slot: its place among those that serve the same packages, from 0.
        packages: what it serves.
        channel: to it; None when it has closed its end.
        since: when it was started, in seconds on the supervisor's clock; likewise the following.
        heard: when it last said something, or was told something.
        serving_since: when it began to take calls; None before.
        leaving_since: when it was told to leave, or to stop; None before.
        beat: the last heartbeat.
        asked: open requests of callers, each Said.LOAD or Said.UNLOAD with a model's name.
        failure: why it ends, in its own words, or in ours if it was killed; "" if nobody said anything.
        failed_since: when it said that it fails; None before.
        killed: whether we have killed it, since it did not do in time what it should.
    """

    number: int
    slot: int
    packages: tuple[Path, ...]
    process: BaseProcess
    channel: Connection | None
    since: float
    heard: float
    state: State = State.LOADING
    serving_since: float | None = None
    leaving_since: float | None = None
    beat: Heartbeat | None = None
    asked: list[tuple[Said, str]] = field(default_factory=list)
    failure: str = ""
    failed_since: float | None = None
    killed: bool = False

    @classmethod
    def start(cls, number: int, slot: int, packages: tuple[Path, ...], target: Target, now: float) -> "WorkerProcess":
        """Start a process with `target(slot, packages, channel)` in it.

        Spawned: a fork would copy the state of threads. SIGINT and SIGHUP stay blocked in it; one that comes meanwhile
        is delivered to this process afterwards, and not lost.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(slot, packages, theirs), name=f"worker-{number}")
        resource_tracker.ensure_running()  # or start() does it, and unblocks SIGINT as it does
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that ours sees the end of a worker that dies
        return cls(number, slot, packages, process, ours, since=now, heard=now)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.is_alive()

    def read(self, now: float) -> None:
        """Read everything that the worker has said."""
        try:
            while self.channel is not None and self.channel.poll():
                said, about = self.channel.recv()
                self.heard = now
                self._note(Said(said), about, now)
        except (EOFError, OSError):
            self._close()

    def tell(self, order: Order, now: float) -> None:
        """Give an order. A dead worker does not hear it: its end is noticed elsewhere."""
        if order is Order.SERVE:
            self.state = State.OPENING
        else:
            self.state, self.leaving_since = State.LEAVING, now
        self.heard = now  # it may have waited long for this
        try:
            if self.channel is not None:
                self.channel.send(order.value)
        except OSError:
            self._close()

    def stop(self, now: float) -> None:
        """Send SIGTERM: the worker drains and ends; if it is still loading it ends at once."""
        self.leaving_since = now
        if self.is_alive:
            self.process.terminate()

    def kill(self) -> None:
        """Send SIGKILL: the worker ends, whatever it is doing."""
        if self.is_alive:
            self.process.kill()

    def end(self) -> str:
        """Wait for a process that has ended or is about to, and return how it ended."""
        self.process.join()
        self._close()
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with status {code}"
        return f"{how}: {self.failure}" if self.failure else how

    def _note(self, said: Said, about: Any, now: float) -> None:
        if said is Said.LOADED:
            self.state = State.LOADED
        elif said is Said.SERVING and self.state is State.OPENING:
            self.state, self.serving_since = State.SERVING, now
        elif said is Said.BEAT:
            self.beat = about
        elif said is Said.FAILED:
            self.failure, self.failed_since = about, now
        elif said in (Said.LOAD, Said.UNLOAD):
            self.asked.append((said, about))

    def _close(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None
