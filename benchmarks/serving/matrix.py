"""Encode in a closed loop, for calls in flight, rows a call and dtype: ours beside an empty handler and others.

    python -m benchmarks.serving.matrix --models models       a folder with one model of 28x28 images

    / empty   calls a second, as a share of those of a handler that reads the same bytes and computes nothing
    / plain   as a multiple of those of a plain server, which runs ONNX Runtime for each call by itself; its threads
              choose their cores themselves, so it computes on the load's core, too
    / tuned   the same with one thread, on the servers' core
    / bare    rows a second, as a share of those of ONNX Runtime alone, in a loop, with as many rows at a time

The servers share a core and take turns, the load has another one. Single measurements: ratios.py has the medians.
"""

import argparse
import itertools
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.serving.load import Closed, closed_loop, encode_request
from benchmarks.serving.ratios import LOAD_CORE, SERVER_CORE, bare
from benchmarks.serving.reference import reference_models
from benchmarks.serving.servers import Server, running

IN_FLIGHT = (1, 8, 32, 128)
ROWS = (1, 16, 64, 256, 1024)
DTYPES = ("uint8", "float32")
# Nobody is refused: a refusal is cheap, and h2load would count it as an answer.
WIDE_QUEUE = (f"--max-queue-rows={2 * max(IN_FLIGHT) * max(ROWS)}", f"--max-queue-bytes={2**31}")
COLUMNS = ("dtype", "rows", "in flight", "calls/s", "rows/s", "CPU us/call", "/ empty", "/ plain", "/ tuned", "/ bare")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="A closed loop for calls in flight, rows a call and dtype.")
    parser.add_argument("--models", type=Path, help="without it, a model is trained first")
    parser.add_argument("--seconds", type=int, default=3, help="of each loop; there are four for each of 40 lines")
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    options = parser.parse_args()
    print(describe_machine())
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with reference_models(options.models) as models, ExitStack() as stack:
        alone = {rows: bare(models, rows) for rows in options.rows}
        servers = [
            stack.enter_context(running("ours", models, SERVER_CORE, *WIDE_QUEUE)),
            *(stack.enter_context(running(kind, models, SERVER_CORE)) for kind in ("empty", "plain", "tuned")),
        ]
        for dtype, rows, in_flight in itertools.product(DTYPES, options.rows, options.in_flight):
            print(line(servers, dtype, rows, in_flight, options.seconds, alone[rows]), flush=True)
    print()


def line(servers: list[Server], dtype: str, rows: int, in_flight: int, seconds: int, alone: float) -> str:
    """A line of the table, measured now; `alone` is rows a second of ONNX Runtime."""
    body = encode_request(rows, dtype)
    ours, *others = (_answered(server, body, in_flight, seconds) for server in servers)
    cells = [f"{ours.per_second:.0f}", f"{rows * ours.per_second:.0f}", f"{ours.cpu_seconds * 1e6:.0f}"]
    cells += [f"{ours.per_second / other.per_second:.2f}" for other in others]
    return f"| {dtype} | {rows} | {in_flight} | {' | '.join(cells)} | {rows * ours.per_second / alone:.2f} |"


def _answered(server: Server, body: bytes, in_flight: int, seconds: int) -> Closed:
    return closed_loop(server, body, in_flight, seconds, LOAD_CORE)


if __name__ == "__main__":
    main()
