"""The serving rows of the design's table, each a ratio within one run, both sides in turn.

    python -m benchmarks.serving.ratios --models models       a folder with one model of 28x28 images

The server has a core of its own, the load another one. Seven rounds; the figure is the ratio of the medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.serving.load import Closed, closed_loop, encode_request, open_loop, python_closed
from benchmarks.serving.reference import reference_models
from benchmarks.serving.servers import Server, running
from vaeport.graphs import choose_device, load_graphs
from vaeport.machine import usable_cores
from vaeport.package import open_package
from vaeport.versions import default_package

ROUNDS, SECONDS = 7, 2.0
SERVER_CORE, LOAD_CORE = 0, 1
MANY_REQUESTS = 200_000


@dataclass(frozen=True, slots=True)
class Side:
    """A server, and what it is asked.

    Attributes:
        kind: of the server.
        rows, dtype: of a request.
        arguments: of the server's command line.
    """

    kind: str
    rows: int
    dtype: str
    arguments: tuple[str, ...] = ()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Ours beside an empty handler, bare ONNX Runtime and a plain server.")
    parser.add_argument("--models", type=Path, help="without it, a model is trained first")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--bare", type=int, metavar="ROWS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(bare_rows_per_second(options.models, options.bare))
        return
    print(describe_machine())
    print("| what | figure | asked | ours, median (min to max) | beside |\n|---|---|---|---|---|")
    with reference_models(options.models) as models:
        for name in options.rows:
            print(ROWS[name](models), flush=True)
    print()


def single(models: Path) -> str:
    """CPU of a single image at 32 in flight, against the empty handler."""
    ours, empty = in_turn(models, [Side("ours", 1, "uint8"), Side("empty", 1, "uint8")], in_flight=32)
    micro = [[round_.cpu_seconds * 1e6 for round_ in rounds] for rounds in (ours, empty)]
    ratio = statistics.median(micro[0]) / statistics.median(micro[1])
    return row("CPU per single image, 32 in flight / empty handler", ratio, "<= 1.5", micro, "us")


def large(models: Path) -> str:
    """Rows a second of 256 images a request, against ONNX Runtime alone on the same core."""
    body, ours, alone = encode_request(256, "uint8"), [], []
    with running("ours", models, SERVER_CORE) as server:
        for _ in range(ROUNDS):
            ours.append(256 * closed_loop(server, body, 8, SECONDS, LOAD_CORE).per_second)
            alone.append(bare(models, 256))
    ratio = statistics.median(ours) / statistics.median(alone)
    return row("rows/s, 256 uint8 images a request / bare ONNX Runtime", ratio, ">= 0.6", [ours, alone], "rows/s")


def middle(models: Path) -> str:
    """Rows a second of 64 images a request, against plain servers with float32; as many processes, on all cores."""
    processes = usable_cores()
    kinds = [Side("ours", 64, "uint8", (f"--workers={processes}",))]
    kinds += [Side(kind, 64, "float32", (f"--processes={processes}",)) for kind in ("plain", "tuned")]
    sides = in_turn(models, kinds, in_flight=32, pinned=False)
    ours, plain, tuned = ([64 * round_.per_second for round_ in rounds] for rounds in sides)
    what = "rows/s, 64 images a request / plain server"
    return "\n".join(
        (
            row(what, statistics.median(ours) / statistics.median(plain), ">= 1.5", [ours, plain], "rows/s"),
            row(f"{what}, tuned", statistics.median(ours) / statistics.median(tuned), "", [ours, tuned], "rows/s"),
        )
    )


def tail(models: Path) -> str:
    """p99 by p50 at half of the load that saturates it."""
    body, shares = encode_request(1, "uint8"), []
    with running("ours", models, SERVER_CORE) as server:
        knee = open_knee(server, body)
        for _ in range(ROUNDS):
            latencies = open_loop(server.address, body, knee / 2, 5.0, 1.0, LOAD_CORE).answered
            shares.append(float(np.quantile(latencies, 0.99) / np.quantile(latencies, 0.5)))
    return row(f"p99 / p50 at half of {knee:.0f} requests/s", statistics.median(shares), "< 5", [shares, []], "")


def open_knee(server: Server, body: bytes) -> float:
    """Calls a second that the load generator of the open loop gets answered at most, as a closed loop."""
    return python_closed(server.address, body, 64, SECONDS, LOAD_CORE) / SECONDS


def start(models: Path) -> str:
    """Seconds from the command to the first answer."""
    seconds = []
    for _ in range(ROUNDS):
        with running("ours", models, None) as server:
            seconds.append(server.ready_seconds)
    return row("seconds from start to ready", statistics.median(seconds), "<= 3", [seconds, []], "s")


def memory(models: Path) -> str:
    """MB of a worker, and its growth over many requests."""
    body = encode_request(1, "uint8")
    with running("ours", models, SERVER_CORE) as server:
        closed_loop(server, encode_request(256, "uint8"), 32, SECONDS, LOAD_CORE)
        closed_loop(server, body, 32, SECONDS, LOAD_CORE)
        first, done = server.resident_bytes() / 1e6, 0.0
        while done < MANY_REQUESTS:
            done += 10.0 * closed_loop(server, body, 32, 10.0, LOAD_CORE).per_second
        last = server.resident_bytes() / 1e6
    return f"| MB of a worker; growth over {done:.0f} requests | {last:.0f}; {last - first:.1f} | <= 250; < 5 | | |"


def in_turn(models: Path, sides: Sequence[Side], in_flight: int, *, pinned: bool = True) -> list[list[Closed]]:
    """Rounds of closed loops, the servers in turn; each only works while it is asked."""
    at, load_at = (SERVER_CORE, LOAD_CORE) if pinned else (None, None)
    with ExitStack() as stack:
        pairs = [
            (
                stack.enter_context(running(side.kind, models, at, *side.arguments)),
                encode_request(side.rows, side.dtype),
            )
            for side in sides
        ]
        rounds = [[closed_loop(s, body, in_flight, SECONDS, load_at) for s, body in pairs] for _ in range(ROUNDS + 1)]
    return [list(side) for side in zip(*rounds[1:], strict=True)]  # the first one warms up


def bare_rows_per_second(models: Path, rows: int) -> float:
    """ONNX Runtime on `rows` float32 rows at a time, in a loop, on this process's core."""
    graph = load_graphs(open_package(default_package(next(models.iterdir()))), choose_device("cpu"), 1)["encoder"]
    batch = np.random.default_rng(0).random((rows, 1, 28, 28), np.float32)
    for _ in range(20):
        graph(batch)
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        graph(batch)
        count += 1
    return rows * count / elapsed


def bare(models: Path, rows: int) -> float:
    """The same, in a process on the server's core."""
    command = [sys.executable, "-m", "benchmarks.serving.ratios", f"--bare={rows}", "--models", str(models)]
    pinned = ["taskset", "-c", str(SERVER_CORE), *command]
    return float(subprocess.run(pinned, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout)


def row(what: str, figure: float, asked: str, sides: Sequence[Sequence[float]], unit: str) -> str:
    """A line of the table."""
    cells = [
        f"{statistics.median(side):.4g} ({min(side):.4g} to {max(side):.4g}) {unit}" if side else "" for side in sides
    ]
    return f"| {what} | **{figure:.2f}** | {asked} | {' | '.join(cells)} |"


ROWS: dict[str, Callable[[Path], str]] = {
    "single": single,
    "large": large,
    "middle": middle,
    "tail": tail,
    "start": start,
    "memory": memory,
}

if __name__ == "__main__":
    main()
