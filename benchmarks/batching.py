"""What the batching layer costs per request: CPU time from submit to delivery, with an engine that does nothing.

Against the least that any batcher must do: callers who wait for a future each, and one task that answers all who wait.
In one process, in turn; the figure is the median over the rounds.

    python -m benchmarks.batching
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from serving.batching import Batcher, Limits
from serving.batching.delivery import Rows

ROUNDS = 7
REQUESTS = 20_000  # a round
IN_FLIGHT = (1, 32)

ROW = np.zeros((1, 1, 28, 28), np.float32)
OUTPUT = np.zeros((256, 20), np.float32)

Submit = Callable[[], Awaitable[object]]


def main() -> None:
    """Measure all in turn and print the table."""
    print("| us of CPU per single-row request | in flight | median | min | max |")
    print("|---|---|---|---|---|")
    for in_flight in IN_FLIGHT:
        figures: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(ROUNDS):
            for name, contender in CONTENDERS.items():
                figures[name].append(asyncio.run(contender(in_flight)))
        for name, measured in figures.items():
            numbers = " | ".join(f"{f:.1f}" for f in (statistics.median(measured), min(measured), max(measured)))
            print(f"| {name} | {in_flight} | {numbers} |")
        medians = {name: statistics.median(measured) for name, measured in figures.items()}
        print(f"\nratio at {in_flight} in flight: {medians['batcher'] / medians['bare futures']:.2f}\n")


async def through_the_batcher(in_flight: int) -> float:
    """Requests with a deadline each, as clients of the server send them."""
    batcher = Batcher(no_engine, Limits(max_batch_rows=256, max_queue_rows=4096, max_queue_bytes=2**29))
    now = asyncio.get_running_loop().time
    microseconds = await cpu_time(lambda: batcher.submit(ROW, now() + 30), in_flight)
    await batcher.close()
    return microseconds


async def no_engine(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
    """Answers in the next round of the loop, as any engine does at the earliest."""
    await asyncio.sleep(0)
    output = OUTPUT[: len(pieces)]
    return output, output


async def through_bare_futures(in_flight: int) -> float:
    """The floor."""
    waiting: list[asyncio.Future[object]] = []
    loop = asyncio.get_running_loop()

    async def answer() -> None:
        while True:
            await asyncio.sleep(0)
            answered = waiting.copy()
            waiting.clear()
            for future in answered:
                future.set_result(None)

    async def submit() -> object:
        future: asyncio.Future[object] = loop.create_future()
        waiting.append(future)
        return await future

    owner = loop.create_task(answer())
    microseconds = await cpu_time(submit, in_flight)
    owner.cancel()
    return microseconds


async def cpu_time(submit: Submit, in_flight: int) -> float:
    """Microseconds of this process per request."""

    async def caller() -> None:
        for _ in range(REQUESTS // in_flight):
            await submit()

    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return (time.process_time() - began) / REQUESTS * 1e6


CONTENDERS = {"batcher": through_the_batcher, "bare futures": through_bare_futures}


if __name__ == "__main__":
    main()
