"""A supervisor of toy workers: what a package is to its worker, one word in a file of it says.

    python -m tests.serving.supervisor.toy MODELS [FLAGS OF THE SERVER]

A program of its own, since a supervisor handles the signals of its process. test_supervisor.py runs it.
"""

import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import tyro

from serving.heartbeat import Heartbeat
from serving.logs import configure_logging
from serving.settings import Settings
from serving.supervisor import CrashLoopError, StartError, crashes, reload_backoff, supervisor
from serving.supervisor.messages import Order, Said

BEAT_SECONDS = 0.1


def toy_work(slot: int, packages: tuple[Path, ...], channel: Connection) -> None:
    """A worker that does as its first package says."""
    nature = (packages[0] / "nature").read_text()
    if nature == "refused" or nature == f"refused in slot {slot}":
        channel.send((Said.FAILED, "the self-test failed"))
        sys.exit(1)
    if nature == "refused and stays":
        channel.send((Said.FAILED, "the self-test failed"))
        time.sleep(60)
    if nature == "dies loading":
        os._exit(3)
    if nature == "loads slowly":
        time.sleep(60)
    if nature == "loads in a while":
        time.sleep(1.2)
    channel.send((Said.LOADED, None))
    assert channel.recv() == Order.SERVE
    if nature == "dies once" and slot == 1:
        (packages[0] / "nature").write_text("good")
        os._exit(4)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    channel.send((Said.SERVING, None))
    if nature == "dies serving":
        os._exit(4)
    _serve(nature, packages, channel)


def _serve(nature: str, packages: tuple[Path, ...], channel: Connection) -> None:
    while True:
        if nature == "asks for version 2" and (packages[0].parent / "2").exists():
            channel.send((Said.LOAD, "toy"))
            nature = "good"
        if nature != "hangs":
            busy = 60.0 if nature == "computes for ever" else None
            channel.send((Said.BEAT, Heartbeat(time.monotonic(), True, "", busy, 0.0, {}, 0)))
        if channel.poll(BEAT_SECONDS):
            assert channel.recv() == Order.LEAVE
            if nature == "hangs leaving":
                time.sleep(60)
            if nature != "stays":
                return


if __name__ == "__main__":
    configure_logging()
    vars(crashes)["LONGEST_DELAY"] = 0.1  # a crash loop of minutes is no test
    vars(reload_backoff)["FIRST_RETRY"] = 3600.0  # and nobody waits for this one
    try:
        sys.exit(supervisor.Supervisor(tyro.cli(Settings), toy_work, lambda: print("ready", flush=True)).run())
    except (StartError, CrashLoopError) as error:
        sys.exit(f"error: {error}")
