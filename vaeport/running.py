"""Flows carried out several at a time in one thread: there is no pool to close, and leaving ends all of them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic

from vaeport.flows import Ask, Flow, Pause, Result, Step


class Wake:
    """Wakes the threads that wait for answers. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._for_ever = False

    def __call__(self) -> None:
        """Wake the threads because something may have become ready."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let no thread wait any more."""
        with self._changed:
            self._for_ever = True
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool], seconds: float | None) -> None:
        """Wait until something is ready, the time is over, or this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._for_ever or ready(), seconds)

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._for_ever


class RunningFlow(Generic[Result]):
    """A flow under way: it waits for an answer, or for a moment, or is done."""

    def __init__(
        self, flow: Flow[Result], wake: Wake, send: Callable[[Ask], Any], perform: Callable[[Step], Any]
    ) -> None:
        self._flow, self._wake, self._send, self._perform = flow, wake, send, perform
        self._answer: Any = None  # a grpc.Future
        self._ask: Ask | None = None  # of this request
        self._arrived: float | None = None  # when it was there
        self._pause = Pause(0.0)
        self.moment: float | None = None  # when that is over
        self.done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._advance(lambda: flow.send(None))

    def ready(self) -> bool:
        """Whether `go_on` has something to do."""
        if self.moment is not None:
            return self._wake.closed or time.monotonic() >= self.moment
        return self._arrived is not None

    def go_on(self) -> None:
        """Give the flow the answer that has come."""
        if self._ask is None or self._arrived is None:
            if self.moment is not None:
                self._pause.over(time.monotonic() - self.moment)
            self.moment = None
            self._advance(lambda: self._flow.send(None))
            return
        answer, ask, arrived = self._answer, self._ask, self._arrived
        self._answer = self._ask = self._arrived = None
        try:
            response = answer.result()
        except Exception as error:
            ask.attempts.excuse(time.monotonic() - arrived)  # the reader of a stream may have been busy
            self._throw(error)
        else:
            self._advance(lambda: self._flow.send(response))

    def result(self) -> Result:
        """The result of a flow that is done."""
        if self._error is not None:
            raise self._error
        result: Result = self._result
        return result

    def cancel(self) -> None:
        """Drop the flow."""
        if self._answer is not None:
            self._answer.cancel()
        self._flow.close()

    def _arrive(self, _: object) -> None:
        self._arrived = time.monotonic()
        self._wake()

    def _advance(self, resume: Callable[[], Step]) -> None:
        """Take the flow to where it waits; what does not take long is done here."""
        try:
            step = resume()
        except StopIteration as end:
            self.done, self._result = True, end.value
        except Exception as error:
            self.done, self._error = True, error
        else:
            self._begin(step)

    def _throw(self, error: Exception) -> None:
        self._advance(lambda: self._flow.throw(error))

    def _begin(self, step: Step) -> None:
        if isinstance(step, Pause):
            self._pause, self.moment = step, time.monotonic() + step.seconds
            return
        try:
            if isinstance(step, Ask):
                self._ask, self._answer = step, self._send(step)
                self._answer.add_done_callback(self._arrive)
                return
            outcome = self._perform(step)
        except Exception as error:
            self._throw(error)
        else:
            self._advance(lambda: self._flow.send(outcome))


def in_order(
    flows: Iterable[Flow[Result]], start: Callable[[Flow[Result]], RunningFlow[Result]], wake: Wake, most: int
) -> Generator[Result, None, None]:
    """The results of flows, in order, until the first failure in order; the others are dropped.

    Args:
        flows: taken no faster than their results are.
        start: starts a flow.
        wake: wakes this thread for the flows.
        most: flows that run at a time.
    """
    running: deque[RunningFlow[Result]] = deque()
    try:
        for flow in flows:
            running.append(start(flow))
            while len(running) == most or _first_is_done(running):
                yield _next_result(running, wake)
        while running:
            yield _next_result(running, wake)
    finally:
        for left in running:
            left.cancel()


def _first_is_done(running: "deque[RunningFlow[Result]]") -> bool:
    """Whether there is a result by now; taking the next flow may have been long."""
    _go_on(running)
    return bool(running) and running[0].done


def _go_on(running: "deque[RunningFlow[Result]]") -> bool:
    """Whether anything was ready to."""
    ready = [flow for flow in running if flow.ready()]
    for flow in ready:
        flow.go_on()
    return bool(ready)


def _next_result(running: "deque[RunningFlow[Result]]", wake: Wake) -> Result:
    """The result of the first flow; the others go on meanwhile."""
    while not running[0].done:
        if not _go_on(running):
            moments = [flow.moment for flow in running if flow.moment is not None]
            seconds = max(0.0, min(moments) - time.monotonic()) if moments else None
            wake.wait(lambda: any(flow.ready() for flow in running), seconds)
    return running.popleft().result()
