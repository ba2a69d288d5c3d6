"""`python -m benchmarks`: all of them, each in a process of its own, as Markdown, ready for docs/results/."""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.serving.reference import reference_models


def main() -> None:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description="All benchmarks. Each prints ratios that are measured within one run.")
    parser.add_argument("--models", type=Path, help="with one model of 28x28 images; without it, one is trained first")
    parser.add_argument("--picture", type=Path, default=Path("sweep.png"), help="of latency against throughput")
    options = parser.parse_args()
    for name in ("training_epoch", "log_likelihood", "batching", "serving.overload"):
        run(name)
    with reference_models(options.models) as models:
        for name in ("serving.ratios", "serving.client", "serving.matrix"):
            run(name, "--models", str(models))
        run("serving.sweep", "--models", str(models), "--picture", str(options.picture))


def run(name: str, *arguments: str) -> None:
    """Run one of them; the others do not depend on it."""
    print(f"## {name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)


if __name__ == "__main__":
    main()
