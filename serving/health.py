"""Readiness: whether the device still computes what it should, from canary batches through the engine that serves.

All models are tried every few seconds, and at once after a batch has failed. Canaries bypass the queues, so that a full
queue makes no model unready, and take turns on the engine as the graphs do. A canary that gives wrong numbers or an
error makes its model unready until a later one passes; an engine that does not return, or that rebuilds a session,
makes all models unready.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from serving.batching import Turn
from serving.canary import Canary
from serving.engine import Engine
from vaeport.errors import bounded

LOOK_SECONDS = 1.0  # between looks at an engine that has not returned
REBUILDING = "the engine is out of memory, and rebuilds a session for smaller batches"
SOONEST = 0.1  # times the interval: callers whose rows fail again and again must not fill the engine with canaries

log = logging.getLogger(__name__)


class Readiness:
    """Which models are ready. All are ready at first, since they have passed their self-test.

    Args:
        canaries: the canaries of each model, by its name.
        engine: the engine that serves.
        turn: the turn that its graphs take.
        every: seconds from one round of canaries to the next.
        hang: seconds that any batch may take; after that the engine counts as hung.
        show: called with the names of the models that are not ready, when they change.

    Attributes:
        unready: why a model is not ready, by its name.
    """

    def __init__(
        self,
        canaries: Mapping[str, Sequence[Canary]],
        engine: Engine,
        turn: Turn,
        *,
        every: float,
        hang: float,
        show: Callable[[Sequence[str]], None],
    ) -> None:
        self._canaries = canaries
        self._engine = engine
        self._turn = turn
        self._every = every
        self._hang = hang
        self._show = show
        self.unready: dict[str, str] = {}

    @property
    def reason(self) -> str:
        """Why the server is not ready, in one line; "" if it is."""
        return "; ".join(f"{model}: {fault}" for model, fault in self.unready.items())

    async def run(self) -> None:
        """Try the models, until this is cancelled. One canary at a time: none is sent while another is pending."""
        try:
            while True:
                self._engine.suspect.clear()
                for model in self._canaries:
                    self._judge(model, await self._outcome(model))
                await asyncio.sleep(SOONEST * self._every)
                with contextlib.suppress(TimeoutError):  # wait_for of Python 3.11 would lose a cancel now and then
                    async with asyncio.timeout((1 - SOONEST) * self._every):
                        await self._engine.suspect.wait()
        except Exception:  # a defect of ours; without canaries nothing may be called ready
            log.exception("the canaries have failed, and no model counts as ready from now on")
            self._judge_all("the canaries have stopped")

    async def _outcome(self, model: str) -> str:
        """What is wrong with a model; "" if nothing is."""
        began = time.monotonic()
        pending = asyncio.create_task(self._try(self._canaries[model]), name="canary")
        try:
            while not pending.done():
                left = self._hang - self._stuck_seconds(began)
                rebuilding = self._engine.rebuild_seconds is not None
                if rebuilding or left <= 0:
                    self._judge_all(REBUILDING if rebuilding else f"the engine has not come back for {self._hang:g} s")
                    self._engine.suspect.set()  # if it comes back, the next round begins soon
                await asyncio.wait([pending], timeout=min(left, LOOK_SECONDS) if left > 0 else LOOK_SECONDS)
            return await pending
        finally:
            pending.cancel()

    def _stuck_seconds(self, began: float) -> float:
        """For how long the engine has had something to compute without returning anything.

        Rebuilding a session does not count; the supervisor has a limit for that.
        """
        if self._engine.rebuild_seconds is not None:
            return 0.0
        busy = self._engine.busy_seconds
        return min(self._engine.idle_seconds, time.monotonic() - began) if busy is None else busy

    async def _try(self, canaries: Sequence[Canary]) -> str:
        try:
            for canary in canaries:
                async with self._turn:
                    outputs = await self._engine.run_alone(canary.graph, canary.row)
                canary.check(outputs)
        except Exception as error:  # whatever the device raises
            return bounded(" ".join(f"{type(error).__name__}: {error}".split()))
        return ""

    def _judge_all(self, fault: str) -> None:
        for model in self._canaries:
            self._judge(model, fault)

    def _judge(self, model: str, fault: str) -> None:
        was = self.unready.pop(model, "")
        if fault:
            self.unready[model] = fault
        if bool(fault) == bool(was):
            return
        if fault:
            log.error("%s is not ready: %s", model, fault, extra={"model": model})
        else:
            log.info("%s is ready again", model, extra={"model": model})
        self._show(tuple(self.unready))
