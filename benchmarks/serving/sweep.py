"""Single images that arrive as they would in earnest, from a fifth of the knee to above it: latencies and refusals.

    python -m benchmarks.serving.sweep --models models --picture sweep.png

An open loop: calls arrive as a Poisson process, or 16 at a time, and each latency counts from the moment its call was
due. The knee is what the same generator gets answered by our server in a closed loop. All servers run, on one core, and
take turns at each load; the generator has another core. Near the knee it is late itself; the last column says how much.
"""

import argparse
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.serving.load import Open, encode_request, open_loop
from benchmarks.serving.ratios import LOAD_CORE, SERVER_CORE, open_knee
from benchmarks.serving.reference import reference_models
from benchmarks.serving.servers import Server, running

KINDS = ("ours", "empty", "plain", "tuned")  # of servers
SHARES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)  # of the knee
ARRIVALS = {"Poisson": 1, "bursts of 16": 16}
DEADLINE = 1.0  # seconds
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
WARM_UP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Point:
    """One load on one server.

    Attributes:
        calls: what became of them.
        cpu_seconds: of the server, per call.
    """

    calls: Open
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Calls that were answered in time."""
        return len(self.calls.answered) / self.calls.seconds

    @property
    def latencies(self) -> dict[str, float]:
        """Milliseconds of those that were answered, by the name of the quantile."""
        answered = self.calls.answered or [np.nan]
        return {name: 1e3 * float(np.quantile(answered, q)) for name, q in QUANTILES.items()}


@dataclass(frozen=True, slots=True)
class Load:
    """One load on all servers.

    Attributes:
        arrivals: a key of ARRIVALS.
        share: of the knee.
        points: by the kind of server.
    """

    arrivals: str
    share: float
    points: dict[str, Point]


def main() -> None:
    """Measure, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description="Latencies of an open loop, from a fifth of the knee to above it.")
    parser.add_argument("--models", type=Path, help="without it, a model is trained first")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of 18 loads on each of 4 servers")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    print(describe_machine())
    with reference_models(options.models) as models, ExitStack() as stack:
        servers = {kind: stack.enter_context(running(kind, models, SERVER_CORE)) for kind in KINDS}
        body = encode_request(1, "uint8")
        for server in servers.values():
            open_loop(server.address, body, 100, WARM_UP_SECONDS, DEADLINE, LOAD_CORE)
        knee = open_knee(servers["ours"], body)
        print(f"knee: {knee:.0f} calls/s; answered calls/s, {', '.join(QUANTILES)} in ms, CPU us/call\n")
        print(f"| arrivals | load | {' | '.join(KINDS)} | ours: refused, late | generator's p99 lag |")
        print(f"|---|---|{'---|' * len(KINDS)}---|---|")
        loads = []
        for load in measure(servers, body, knee, options.seconds):
            print(line(load), flush=True)
            loads.append(load)
    print()
    if options.picture:
        draw(knee, loads, options.picture)


def measure(servers: dict[str, Server], body: bytes, knee: float, seconds: float) -> Iterator[Load]:
    """Each load, on one server after the other."""
    for arrivals, share in itertools.product(ARRIVALS, SHARES):
        points = {}
        for kind, server in servers.items():
            before = server.cpu_seconds()
            rate, burst = share * knee, ARRIVALS[arrivals]
            calls = open_loop(server.address, body, rate, seconds, DEADLINE, LOAD_CORE, burst=burst)
            points[kind] = Point(calls, (server.cpu_seconds() - before) / len(calls.lag))
        yield Load(arrivals, share, points)


def line(load: Load) -> str:
    """Of the table."""
    cells = " | ".join(_cell(load.points[kind]) for kind in KINDS)
    ours = load.points["ours"].calls
    lag = 1e3 * float(np.quantile(ours.lag, 0.99))
    return f"| {load.arrivals} | {load.share:.0%} | {cells} | {len(ours.refused)}, {len(ours.late)} | {lag:.1f} ms |"


def _cell(point: Point) -> str:
    latencies = ", ".join(f"{ms:.3g}" for ms in point.latencies.values())
    return f"{point.per_second:.0f}; {latencies}; {1e6 * point.cpu_seconds:.0f}"


def draw(knee: float, loads: list[Load], path: Path) -> None:
    """Answered calls against their latencies, a panel for each kind of arrivals; the knee is a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    panels = figure.subplots(1, len(ARRIVALS), sharey=True)
    for axes, arrivals in zip(panels, ARRIVALS, strict=True):
        own = [load.points for load in loads if load.arrivals == arrivals]
        for number, kind in enumerate(KINDS):
            for name, style in (("p50", "--"), ("p99", "-")):
                xy = [p[kind].per_second for p in own], [p[kind].latencies[name] for p in own]
                axes.plot(*xy, style, marker="o", markersize=3, color=f"C{number}", label=f"{kind}, {name}")
        axes.axvline(knee, color="grey", linewidth=1, label=f"knee, {knee:.0f}/s")
        axes.set(title=arrivals, xlabel="answered calls per second", yscale="log")
        axes.grid(alpha=0.3, which="both")
    panels[0].set(ylabel="milliseconds from arrival to answer")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize="small", ncols=5)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
