"""Readiness: whether the device still computes what it should, from canary batches through the engine that serves.

All models are tried every few seconds, and at once after a batch has failed. Canaries stand outside of the queues, so
that a full one makes nobody unready, and take turns on the engine as the graphs do. One that gives wrong numbers or an
error makes its model unready until a later one passes; an engine that does not come back makes all models unready, and
so does one that makes a session anew.
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

LOOK_SECONDS = 1.0  # between looks at an engine that has not come back
REBUILDING = "the engine is out of memory, and makes a session anew for smaller batches"
SOONEST = 0.1  # times the interval: callers whose rows fail again and again must not fill the engine with canaries

log = logging.getLogger(__name__)


class Readiness:
    """Which models are ready. They all are in the beginning, having passed their self-test.

    Args:
        canaries: of each model, by its name.
        engine: that serves.
        turn: of its graphs.
        every: seconds from one round of canaries to the next.
        hang: seconds that a batch may take, whoever's it is; after that the engine counts as hung.
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
        except Exception:  # a defect of ours; who cannot look must not say that all is well
            log.exception("the canaries have failed, and no model counts as ready from now on")
            self._judge_all("nobody looks any more")

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
                    self._engine.suspect.set()  # should it come back, nobody waits long for the next round
                await asyncio.wait([pending], timeout=min(left, LOOK_SECONDS) if left > 0 else LOOK_SECONDS)
            return await pending
        finally:
            pending.cancel()

    def _stuck_seconds(self, began: float) -> float:
        """For how long nothing has come back from the engine while there was something to compute.

        A session that is made anew takes as long as it takes; the supervisor has a limit for it.
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
