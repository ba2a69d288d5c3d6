"""Single images that arrive as they would in earnest, from a fifth of the knee to above it: latencies and refusals.

    python -m benchmarks.serving.sweep --models models --picture sweep.png

An open loop: calls arrive as a Poisson process, or 16 at a time, and each latency counts from the moment its call was
due. The knee is what the same generator gets answered in a closed loop, with the server on a core of its own and the
generator on another one. Near the knee the generator is late itself; the last column says how much.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.serving.load import Open, encode_request, open_loop
from benchmarks.serving.ratios import LOAD_CORE, SERVER_CORE, open_knee
from benchmarks.serving.reference import reference_models
from benchmarks.serving.servers import running

SHARES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)  # of the knee
ARRIVALS = {"Poisson": 1, "bursts of 16": 16}
DEADLINE = 1.0  # seconds
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
WARM_UP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Point:
    """One load.

    Attributes:
        arrivals: a key of ARRIVALS.
        share: of the knee.
        calls: what became of them.
    """

    arrivals: str
    share: float
    calls: Open

    @property
    def per_second(self) -> float:
        """Calls that were answered."""
        return len(self.calls.answered) / self.calls.seconds

    @property
    def latencies(self) -> dict[str, float]:
        """Milliseconds of those that were answered, by the name of the quantile."""
        answered = self.calls.answered or [np.nan]
        return {name: 1e3 * float(np.quantile(answered, q)) for name, q in QUANTILES.items()}


def main() -> None:
    """Measure, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description="Latencies of an open loop, from a fifth of the knee to above it.")
    parser.add_argument("--models", type=Path, help="without it, a model is trained first")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load; there are 18")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    print(describe_machine())
    with reference_models(options.models) as models:
        knee, points = measure(models, options.seconds)
    print(f"knee: {knee:.0f} calls/s\n")
    print(f"| arrivals | load | answered/s | {', '.join(QUANTILES)} | refused | late | generator's p99 lag |")
    print("|---|---|---|---|---|---|---|")
    for point in points:
        print(line(point))
    print()
    if options.picture:
        draw(knee, points, options.picture)


def measure(models: Path, seconds: float) -> tuple[float, list[Point]]:
    """The knee, in calls a second, and all points."""
    body, points = encode_request(1, "uint8"), []
    with running("ours", models, SERVER_CORE) as server:
        open_loop(server.address, body, 100, WARM_UP_SECONDS, DEADLINE, LOAD_CORE)
        knee = open_knee(server, body)
        for arrivals, burst in ARRIVALS.items():
            for share in SHARES:
                calls = open_loop(server.address, body, share * knee, seconds, DEADLINE, LOAD_CORE, burst=burst)
                points.append(Point(arrivals, share, calls))
    return knee, points


def line(point: Point) -> str:
    """Of the table."""
    calls = point.calls
    latencies = ", ".join(f"{ms:.1f}" for ms in point.latencies.values())
    return (
        f"| {point.arrivals} | {point.share:.0%} | {point.per_second:.0f} | {latencies} ms | {len(calls.refused)}"
        f" | {len(calls.late)} | {1e3 * float(np.quantile(calls.lag, 0.99)):.1f} ms |"
    )


def draw(knee: float, points: list[Point], path: Path) -> None:
    """Answered calls against their latencies; the knee is a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for arrivals, style in zip(ARRIVALS, ("-", "--"), strict=True):
        own = [point for point in points if point.arrivals == arrivals]
        for number, name in enumerate(QUANTILES):
            xy = [point.per_second for point in own], [point.latencies[name] for point in own]
            axes.plot(*xy, style, marker="o", markersize=3, color=f"C{number}", label=f"{name}, {arrivals}")
    axes.axvline(knee, color="grey", linewidth=1, label=f"knee, {knee:.0f}/s")
    axes.set(xlabel="answered calls per second", ylabel="milliseconds from arrival to answer", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
