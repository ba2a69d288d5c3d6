"""More load than the engine can bear: what is answered, what is refused, and how soon, counted from each arrival.

    python -m benchmarks.serving.overload --seconds 60

The engine of this server sleeps: 20 ms for each batch of at most 4 rows. So it is the limit, and neither the load
generator nor the edge is. The knee is what a closed loop gets answered. Two things can keep the queue short: the
deadlines of the callers, or the bound on its rows.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.serving.load import Open, encode_request, open_loop, python_closed
from benchmarks.serving.servers import Server, serve, started
from serving.batching import Batcher, Limits, Turn
from serving.batching.delivery import Rows
from serving.core import Core
from serving.models import ServedModel
from vaeport.results import ModelInfo
from vaeport.scoring import ScoringSpec

BATCH_SECONDS, BATCH_ROWS = 0.020, 4
DEADLINE = 0.5  # seconds
SHARES = (1.2, 3.0)  # of the knee
KNEE_SECONDS = 5.0
PROMPT = 0.050  # seconds; a refusal that takes longer was an admission
QUEUES = {"deadlines": 4096, "a bound of 32 rows": 32}


@dataclass(frozen=True, slots=True)
class Overload:
    """One run.

    Attributes:
        share: of the knee that arrived.
        knee: calls a second.
        calls: what became of them.
        growth: bytes of resident memory that the server had more at the end than at half time.
    """

    share: float
    knee: float
    calls: Open
    growth: int

    @property
    def goodput(self) -> float:
        """Calls answered in time, as a share of the knee."""
        return len(self.calls.answered) / self.calls.seconds / self.knee

    @property
    def p99(self) -> float:
        """Seconds, of all that were admitted. One that was and got no answer counts for infinitely long."""
        slow = [np.inf for seconds in self.calls.unanswered if seconds > PROMPT]
        return float(np.quantile(self.calls.answered + slow, 0.99, method="higher"))

    @property
    def refusals(self) -> list[float]:
        """Seconds until each refusal."""
        return [seconds for seconds in self.calls.unanswered if seconds <= PROMPT]

    @property
    def unanswered(self) -> int:
        """Calls that were admitted, or seemed to be, and got no answer."""
        return len(self.calls.unanswered) - len(self.refusals)

    @property
    def lag(self) -> float:
        """Seconds by which the generator was late, 99 % of the time at most. It needs a machine that is not busy."""
        return float(np.quantile(self.calls.lag, 0.99))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Goodput, latencies and refusals above the knee.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--serve", type=int, metavar="QUEUE_ROWS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve(options.serve))
        return
    print(describe_machine())
    print(f"| deadline {DEADLINE * 1e3:.0f} ms, queue kept short by | load | {COLUMNS} |\n|{'---|' * 9}")
    for name, rows in QUEUES.items():
        for run in measure(rows, options.seconds):
            print(f"| {name} | {run.share:.0%} | {cells(run)} |", flush=True)
    print()


COLUMNS = (
    "goodput / knee | p50, p99 of what is admitted | admitted, no answer | refused"
    " | refused within: p50, p99, most | memory | generator's p99 lag"
)


def cells(run: Overload) -> str:
    """A line of the table."""
    refused = ", ".join(f"{1e3 * s:.1f}" for s in np.quantile(run.refusals or [np.nan], [0.5, 0.99, 1.0]))
    p50 = float(np.median(run.calls.answered))
    return (
        f"**{run.goodput:.2f}** of {run.knee:.0f}/s | {1e3 * p50:.0f}, {1e3 * run.p99:.0f} ms | {run.unanswered}"
        f" | {len(run.refusals)} | {refused} ms | {run.growth / 1e6:+.1f} MB | {1e3 * run.lag:.1f} ms"
    )


def measure(queue_rows: int, seconds: float, shares: Sequence[float] = SHARES) -> list[Overload]:
    """Run a server under each load in turn, after its knee was found."""
    body = encode_request(1, "uint8")
    with started(["-m", "benchmarks.serving.overload", "--serve", str(queue_rows)], None) as server:
        knee = python_closed(server.address, body, 4 * BATCH_ROWS, KNEE_SECONDS, None) / KNEE_SECONDS
        return [_overload(server, body, share, knee, seconds) for share in shares]


def _overload(server: Server, body: bytes, share: float, knee: float, seconds: float) -> Overload:
    """Two halves of the time; the first one may fill what is filled once."""
    first, half_time = _half(server, body, share * knee, seconds / 2)
    second, end = _half(server, body, share * knee, seconds / 2)
    calls = Open(
        first.seconds + second.seconds,
        first.answered + second.answered,
        first.refused + second.refused,
        first.late + second.late,
        first.lag + second.lag,
        first.failed + second.failed,
    )
    return Overload(share, knee, calls, end - half_time)


def _half(server: Server, body: bytes, rate: float, seconds: float) -> tuple[Open, int]:
    return open_loop(server.address, body, rate, seconds, DEADLINE, None), server.resident_bytes()


async def _serve(queue_rows: int) -> None:
    """A model that answers zeros, and takes its time for it."""
    limits, turn = Limits(BATCH_ROWS, queue_rows, 2**29), Turn()
    info = ModelInfo("sleeper", "1", (1, 28, 28), 20, "bernoulli", "sha256:0", ("Sleep",))
    encoder, decoder = Batcher(_encode, limits, turn=turn), Batcher(_encode, limits, turn=turn)
    model = ServedModel(info, ScoringSpec("bernoulli", None, "none", {}, "1"), encoder, decoder)
    await serve(Core([model], max_request_rows=1024))


async def _encode(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
    await asyncio.to_thread(time.sleep, BATCH_SECONDS)
    zeros = np.zeros((sum(map(len, pieces)), 20), np.float32)
    return zeros, zeros


if __name__ == "__main__":
    main()
