"""What a worker says of itself, and when its supervisor calls it hung."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from serving.batching import Turn
from serving.engine import Engine
from serving.health import Readiness
from serving.heartbeat import Heartbeat, heartbeat_of, hung
from tests.serving.toy_graphs import HANGS, ToyGraph, as_bound
from tests.serving.toys import decode, toy_model
from tests.serving.waiting import until
from tests.support import ROOT

BEAT = Heartbeat(100.0, True, "", None, 2.0, {"toy_encoder": 0, "toy_decoder": 7}, 3)


@pytest.mark.parametrize(
    ("beat", "now", "why"),
    [
        (BEAT, 100.0, ""),
        (BEAT, 110.0, ""),
        (BEAT, 110.5, "no heartbeat for 10 s"),
        (replace(BEAT, busy_seconds=10.0), 101.0, ""),
        (replace(BEAT, busy_seconds=10.6), 101.0, "a batch has been running for 11 s"),
        (replace(BEAT, rebuild_seconds=600.0), 101.0, ""),
        (replace(BEAT, rebuild_seconds=600.6), 101.0, "a session has been rebuilding for 601 s"),
        (replace(BEAT, idle_seconds=3600.0), 101.0, ""),  # nothing to compute
        (replace(BEAT, ready=False, reason="toy: wrong numbers"), 101.0, ""),  # not ready, but alive
    ],
)
def test_hung_is_who_is_silent_or_busy_with_one_batch_for_too_long(beat: Heartbeat, now: float, why: str) -> None:
    assert hung(beat, now, limit=10.0) == why


def test_a_beat_is_plain_json() -> None:
    assert Heartbeat(**json.loads(json.dumps(asdict(BEAT)))) == BEAT


def test_the_supervisor_needs_no_heavy_module_for_it() -> None:
    code = "import serving.heartbeat, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert not set(loaded.split()) & {"grpc", "onnxruntime", "numpy", "google"}


async def test_a_beat_tells_what_the_worker_does() -> None:
    engine, turn, graph = Engine(), Turn(), ToyGraph(HANGS)
    held = asyncio.Event()

    async def waiting(pieces: object) -> object:
        await held.wait()
        return await decode(pieces)  # type: ignore[arg-type]

    model = toy_model(decode=waiting)  # type: ignore[arg-type]
    readiness = Readiness({}, engine, turn, every=1.0, hang=1.0, show=lambda _: None)
    calls = [asyncio.create_task(model.decoder.submit(np.zeros((4, 2), np.float32))) for _ in range(3)]
    await until(lambda: model.decoder.queued_rows == 8)
    before = time.monotonic()
    beat = heartbeat_of(engine, readiness, [model], calls=3)
    assert before <= beat.sent <= time.monotonic()
    assert (beat.ready, beat.reason, beat.busy_seconds, beat.calls) == (True, "", None, 3)
    assert beat.queue_rows == {"toy_encoder": 0, "toy_decoder": 8}

    batch = asyncio.create_task(engine.run_alone(as_bound(graph), np.zeros((1, 2), np.float32)))
    await until(graph.computing.is_set)
    await until(lambda: (heartbeat_of(engine, readiness, [model], calls=0).busy_seconds or 0.0) > 0.02)
    graph.release.set()
    await batch
    beat = heartbeat_of(engine, readiness, [model], calls=0)
    assert beat.busy_seconds is None
    assert 0 <= beat.idle_seconds < 5

    readiness.unready["toy"] = "wrong numbers"
    beat = heartbeat_of(engine, readiness, [model], calls=0)
    assert (beat.ready, beat.reason) == (False, "toy: wrong numbers")
    readiness.unready.clear()
    beat = heartbeat_of(engine, readiness, [model], calls=0, draining=True)
    assert (beat.ready, beat.reason) == (False, "draining")
    held.set()
    await asyncio.gather(*calls)
    await model.encoder.close()
    await model.decoder.close()
    engine.close()
