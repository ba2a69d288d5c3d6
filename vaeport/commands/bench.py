"""`vaeport bench`: a closed loop of callers, each of which calls again as soon as it is answered."""

import argparse
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vaeport.commands import flags
from vaeport.commands.source import model_of, open_source
from vaeport.errors import VaeportError, bounded

if TYPE_CHECKING:
    from vaeport.commands.flags import Commands
    from vaeport.commands.source import Source
    from vaeport.results import ModelInfo

CALLS = ("encode", "decode", "sample", "reconstruct", "score")
PERCENTILES = (50, 90, 99)


@dataclass
class Measured:
    """What the callers saw.

    Attributes:
        latencies: seconds of each call that succeeded.
        failures: how often each error occurred, by the name of its class.
        seconds: from the first call to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def bench(options: argparse.Namespace) -> int:
    """Call again and again for some seconds, and print calls and images a second and how long a call took.
    The images are noise. The callers share this process and its cores with the client, so a fast server may wait for
    them; compare only runs of the same machine.
    """
    with open_source(options) as source:
        model = model_of(source)
        call = _call(source, model, options.call, options.rows)
        call()  # connects; an error that every call would have ends the command here
        measured = closed_loop(call, options.callers, options.seconds)
    found = summary(measured, options.rows)
    if options.json:
        load = {"call": options.call, "rows": options.rows, "callers": options.callers}
        print(json.dumps({"model": model.name, "version": model.version, **load, **found}, indent=2))
    else:
        print(f"{options.call}, images a call: {options.rows}, callers: {options.callers}, ", end="")
        print(f"{bounded(model.name)} version {bounded(model.version)}, {measured.seconds:.1f} s")
        print("\n".join(_lines(found)))
    return int(bool(measured.failures))


def add(commands: "Commands") -> None:
    """The flags."""
    examples = [
        "vaeport bench --seconds 5 --callers 8 --server localhost:50051",
        "vaeport bench sample --rows 64 --seconds 5 --json --package models/digits/1",
    ]
    command = flags.add_command(commands, bench, "how fast it answers", examples, [flags.source()])
    command.add_argument("call", nargs="?", choices=CALLS, default="encode", help="what to call (encode)")
    command.add_argument("--rows", type=flags.positive, default=1, metavar="N", help="images a call (%(default)s)")
    command.add_argument("--callers", type=flags.positive, default=4, metavar="N", help="calls in flight (%(default)s)")
    command.add_argument(
        "--seconds", type=flags.positive_seconds, default=5.0, help="no call begins later than that (%(default)s)"
    )
    command.add_argument("--json", action="store_true", help="for machines")


def closed_loop(call: Callable[[], object], callers: int, seconds: float) -> Measured:
    """Let threads call, each again when it is answered, until the time is over or the user interrupts.

    Args:
        call: what to call; its VaeportErrors are counted, others are raised.
        callers: threads.
        seconds: no call begins later than this.
    """
    measured, stop = Measured(), threading.Event()
    start = time.perf_counter()

    def caller() -> None:
        while not stop.is_set() and (before := time.perf_counter()) < start + seconds:
            try:
                call()
            except VaeportError as error:
                measured.failures[type(error).__name__] += 1
            else:
                measured.latencies.append(time.perf_counter() - before)

    with ThreadPoolExecutor(callers) as pool:
        try:
            for done in [pool.submit(caller) for _ in range(callers)]:
                done.result()
        finally:
            stop.set()
    measured.seconds = time.perf_counter() - start
    return measured


def summary(measured: Measured, rows: int) -> dict[str, Any]:
    """Rates a second, percentiles of the latency in milliseconds (None without an answer), and failures."""
    import numpy as np

    calls = len(measured.latencies)
    answered: dict[str, float | None] = {f"p{each}_ms": None for each in PERCENTILES}
    if calls:
        points = np.percentile(measured.latencies, PERCENTILES)
        answered = {f"p{each}_ms": float(point) * 1000 for each, point in zip(PERCENTILES, points, strict=True)}
    rates = {"calls_per_second": calls / measured.seconds, "images_per_second": calls * rows / measured.seconds}
    return {"seconds": measured.seconds, "calls": calls, **rates, **answered, "failures": dict(measured.failures)}


def _call(source: "Source", model: "ModelInfo", name: str, rows: int) -> Callable[[], object]:
    import numpy as np

    if name == "sample":
        return lambda: source.sample(rows, seed=0)
    if name == "decode":
        latents = np.zeros((rows, model.latent_dim), np.float32)
        return lambda: source.decode(latents)
    images = np.random.default_rng(0).integers(0, 256, (rows, *model.image_shape), np.uint8)
    if name == "score":
        return lambda: source.score(images, seed=0)
    method = getattr(source, name)
    return lambda: method(images)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{'calls/s':<10}{found['calls_per_second']:>12,.1f}",
        f"{'images/s':<10}{found['images_per_second']:>12,.1f}",
    ]
    for each in PERCENTILES:
        milliseconds = found[f"p{each}_ms"]
        lines.append(f"{f'p{each}':<10}" + (f"{milliseconds:>12,.2f} ms" if milliseconds is not None else f"{'-':>12}"))
    return lines + [f"{count:,} failed with {name}" for name, count in found["failures"].items()]
