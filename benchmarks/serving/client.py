"""100,000 images through one `encode(generator)` of each client, beside the bulk rate of the server.

    python -m benchmarks.serving.client --models models       a folder with one model of 28x28 images

The bulk rate is that of the `large` row in ratios.py: a closed loop of 256 uint8 images a request, 8 in flight. The
server has a core of its own, load and clients another one, and they take turns. The figure is the ratio of the medians.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vaeport
from benchmarks.machine import describe_machine
from benchmarks.serving.load import closed_loop, encode_request
from benchmarks.serving.ratios import LOAD_CORE, SECONDS, SERVER_CORE, row
from benchmarks.serving.reference import reference_models
from benchmarks.serving.servers import running

IMAGES, WARM_UP_IMAGES = 100_000, 10_000
CHUNK_ROWS = 250  # of a generator that gives chunks; not what a request has, so that they have to be cut
KINDS = ("Client, images", "Client, chunks", "AsyncClient, images", "AsyncClient, chunks")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="One call with 100,000 images, beside the server's bulk rate.")
    parser.add_argument("--models", type=Path, help="without it, a model is trained first")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ask", nargs=2, metavar=("KIND", "ADDRESS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(ask(*options.ask)))
        return
    print(describe_machine())
    print("| what | figure | asked | clients, median (min to max) | beside |\n|---|---|---|---|---|")
    with reference_models(options.models) as models:
        measure(models, options.rounds)


def measure(models: Path, rounds: int) -> None:
    """The table's lines."""
    body, bulk = encode_request(256, "uint8"), list[float]()
    rates, growth = {kind: list[float]() for kind in KINDS}, {kind: list[float]() for kind in KINDS}
    with running("ours", models, SERVER_CORE) as server:
        closed_loop(server, body, 8, SECONDS, LOAD_CORE)
        for _ in range(rounds):
            bulk.append(256 * closed_loop(server, body, 8, SECONDS, LOAD_CORE).per_second)
            for kind in KINDS:
                rate, megabytes = in_process_of_its_own(kind, server.address)
                rates[kind].append(rate)
                growth[kind].append(megabytes)
    for kind in KINDS:
        ratio = statistics.median(rates[kind]) / statistics.median(bulk)
        print(row(f"rows/s, {kind} / bulk", ratio, ">= 0.8", [rates[kind], bulk], "rows/s"))
        print(row(f"MB that {kind} grows by", statistics.median(growth[kind]), "", [growth[kind], []], "MB"))


def in_process_of_its_own(kind: str, address: str) -> tuple[float, float]:
    """`ask` on the core of the load."""
    command = [sys.executable, "-m", "benchmarks.serving.client", "--ask", kind, address]
    pinned = ["taskset", "-c", str(LOAD_CORE), *command]
    rate, megabytes = json.loads(subprocess.run(pinned, capture_output=True, text=True, check=True).stdout)
    return rate, megabytes


def ask(kind: str, address: str) -> tuple[float, float]:
    """Rows a second of one call, and MB that the peak of memory rose by during it, the results included."""
    client, what = kind.split(", ")
    if client == "Client":
        return _ask(what, address)
    return asyncio.run(_ask_async(what, address))


def _ask(what: str, address: str) -> tuple[float, float]:
    with vaeport.Client(address) as client:
        client.encode(generated(what, WARM_UP_IMAGES))
        before, began = _peak_megabytes(), time.perf_counter()
        client.encode(generated(what, IMAGES))
        return IMAGES / (time.perf_counter() - began), _peak_megabytes() - before


async def _ask_async(what: str, address: str) -> tuple[float, float]:
    async with vaeport.AsyncClient(address) as client:
        await client.encode(generated(what, WARM_UP_IMAGES))
        before, began = _peak_megabytes(), time.perf_counter()
        await client.encode(generated(what, IMAGES))
        return IMAGES / (time.perf_counter() - began), _peak_megabytes() - before


def generated(what: str, count: int) -> Iterator[NDArray[np.uint8]]:
    """So many images, one by one or in chunks, each a copy of its own."""
    some = np.random.default_rng(0).integers(0, 256, (CHUNK_ROWS, 28, 28), np.uint8)
    if what == "images":
        return (some[index % CHUNK_ROWS].copy() for index in range(count))
    return (some.copy() for _ in range(0, count, CHUNK_ROWS))


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
