"""What a worker reports of itself every second, and the rule by which its supervisor calls it hung.

The supervisor imports this module, so it needs neither gRPC nor numpy. A beat is sent from the worker's loop: its
arrival shows that the loop is alive, its content what the engine does.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

REBUILD_SECONDS = 600.0  # for rebuilding sessions: as long as a start may take

if TYPE_CHECKING:
    from serving.engine import Engine
    from serving.health import Readiness
    from serving.models import ServedModel


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One beat. All of it is plain JSON.

    Attributes:
        sent: seconds on the monotonic clock, which the processes of a machine share.
        ready: whether to send requests here.
        reason: why not; "" if it is ready.
        busy_seconds: for how long the engine has been computing the current batch; None if there is none, or a session
            is being rebuilt.
        idle_seconds: since the engine's thread last finished a batch or a canary, with whatever result.
        queue_rows: rows that wait, by graph, `<model>_encoder` and `<model>_decoder`.
        calls: the number of calls that are being answered.
        rebuild_seconds: for how long the engine has been rebuilding a session, out of memory; None if it does not.
    """

    sent: float
    ready: bool
    reason: str
    busy_seconds: float | None
    idle_seconds: float
    queue_rows: Mapping[str, int]
    calls: int
    rebuild_seconds: float | None = None


def heartbeat_of(
    engine: "Engine", readiness: "Readiness", models: "Sequence[ServedModel]", calls: int, draining: bool = False
) -> Heartbeat:
    """The worker's beat of this moment."""
    reason = "draining" if draining else readiness.reason
    rows = {
        f"{model.info.name}_{role}": batcher.queued_rows
        for model in models
        for role, batcher in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    rebuild = engine.rebuild_seconds
    return Heartbeat(
        time.monotonic(), not reason, reason, engine.busy_seconds, engine.idle_seconds, rows, calls, rebuild
    )


def hung(beat: Heartbeat, now: float, limit: float) -> str:
    """Why a worker must be replaced, by its last beat; "" if it need not be.

    Args:
        beat: the last one that came.
        now: seconds on the monotonic clock.
        limit: seconds without a beat, or for one batch, that are too many. Rebuilding a session may take
            REBUILD_SECONDS.
    """
    if (silent := now - beat.sent) > limit:
        return f"no heartbeat for {silent:.0f} s"
    if beat.busy_seconds is not None and beat.busy_seconds > limit:
        return f"a batch has been running for {beat.busy_seconds:.0f} s"
    if beat.rebuild_seconds is not None and beat.rebuild_seconds > REBUILD_SECONDS:
        return f"a session has been rebuilding for {beat.rebuild_seconds:.0f} s"
    return ""
