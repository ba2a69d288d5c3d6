"""The table of the IWAE paper (arXiv 1509.00519, one stochastic layer, dynamic MNIST), on a schedule of any length.

Each row is a recipe, trained and then evaluated with 5,000 samples an image, in processes of their own.

    python -m benchmarks.iwae_table --epochs 20 --batch-size 100 --runs runs/iwae     an hour on two cores
    python -m benchmarks.iwae_table                                                   the paper's schedule: for a GPU

A row that was interrupted goes on where it stood.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# Recipe: the paper's test NLL in nats, and its active units.
PAPER = {
    "iwae-k1": (86.76, 19),
    "vae-k5": (86.47, 20),
    "vae-k50": (86.35, 20),
    "iwae-k5": (85.54, 22),
    "iwae-k50": (84.78, 25),
}
SAMPLES = 5000


def main() -> None:
    """Train and evaluate the rows, and print the table as they come."""
    parser = argparse.ArgumentParser(description="The IWAE paper's table, one stochastic layer.")
    parser.add_argument("--epochs", type=int, help="passes over MNIST; without it the paper's 3,280")
    parser.add_argument("--batch-size", type=int, help="images per step; without it the paper's 20")
    parser.add_argument("--runs", type=Path, default=Path("runs/iwae"), help="where the runs go")
    parser.add_argument("--rows", nargs="+", choices=PAPER, default=list(PAPER), help="recipes")
    options = parser.parse_args()
    print("| recipe | log-likelihood | paper | active units | paper | seconds a pass |\n|---|---|---|---|---|---|")
    for name in options.rows:
        run = options.runs / name
        _train(name, run, options)
        print(_row(name, run), flush=True)


def _train(name: str, run: Path, options: argparse.Namespace) -> None:
    command = ["--recipe", f"recipes/{name}.toml", "--run", str(run)]
    for flag in ("epochs", "batch_size"):
        if (value := getattr(options, flag)) is not None:
            command += [f"--{flag.replace('_', '-')}", str(value)]
    resume = ["--resume"] if (run / "run.json").exists() else []
    subprocess.run([sys.executable, "-m", "training", *command, *resume], check=True, stdout=sys.stderr)


def _row(name: str, run: Path) -> str:
    command = [sys.executable, "-m", "training", "evaluate", str(run), "--samples", str(SAMPLES), "--json"]
    measures: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    seconds = [json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = measures["log_likelihood"]
    likelihood, active = PAPER[name]
    return (
        f"| {name} | {found['mean']:.2f} +- {found['standard_error']:.2f} | {-likelihood} | {measures['active_units']} "
        f"| {active} | {sorted(seconds)[len(seconds) // 2]:.1f} |"
    )


if __name__ == "__main__":
    main()
