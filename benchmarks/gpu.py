"""What only a GPU can show, in one go, as Markdown, ready for docs/results/: its tests, its rows of the proof, and the
benchmarks that it is for.

    python -m benchmarks.gpu                      MNIST in VAEPORT_DATA_ROOT
    python -m benchmarks.gpu --device cpu         a rehearsal: the same on a CPU, as far as it goes there

Each command has a process and a limit of time of its own: what fails or hangs does not hold up the rest. The exit
status is 1 if something did.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe_machine

TESTS = ("tests/serving/test_cuda_engine.py", "tests/training/test_cuda.py", "tests/export/test_parity.py")


@dataclass(frozen=True, slots=True)
class Command:
    """A module to run.

    Attributes:
        title: of what it prints.
        arguments: of `python -m`.
        limit: seconds that it may take.
    """

    title: str
    arguments: tuple[str, ...]
    limit: float


def commands(device: str, data: str, folder: Path) -> Iterator[Command]:
    """In the order in which they are needed, what matters most first."""
    run, models = str(folder / "run"), folder / "models"
    force = () if device == "cuda" else ("--force",)  # float16 cannot be measured elsewhere
    yield Command("Tests", ("pytest", "-q", "-p", "no:cacheprovider", *TESTS), 240)
    training = ("training", "--data", data, "--epochs", "3", "--device", device, "--run", run)
    yield Command("A run", training, 120)
    precisions = ("--precisions", "fp32,fp16")
    yield Command("Its export", ("export", run, "--to", str(models / "reference"), *precisions, *force), 120)
    yield Command("The proof", ("export", "verify", str(models / "reference" / "1"), "--run-torchscript"), 120)
    for options in ((), ("--tf32",), ("--cuda-graphs",)):
        title = " ".join(("Serving", *options))
        serving = ("benchmarks.serving.device", "--models", str(models), "--device", device, *options)
        yield Command(title, serving, 120)
    yield Command("Log-likelihood", ("benchmarks.log_likelihood", "--device", device), 240)
    if device == "cuda":  # elsewhere it takes hours
        for row in ("iwae-k1", "iwae-k50"):
            table = ("benchmarks.iwae_table", "--batch-size", "100", "--rows", row, "--runs", str(folder / "iwae"))
            yield Command(f"IWAE's table, {row}", table, 900)


def main() -> int:
    """Run them one after the other; the exit status."""
    parser = argparse.ArgumentParser(description="What only a GPU can show.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--data", default="mnist", help="to train on, as of python -m training")
    options = parser.parse_args()
    print(f"# On {options.device}\n\n{describe_machine()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ended = [run(command, folder) for command in commands(options.device, options.data, Path(folder))]
    return 0 if all(ended) else 1


def run(command: Command, folder: str) -> bool:
    """Print what it prints, but for the name of the folder, and how it ended; whether it ended well."""
    began = time.monotonic()
    line = [sys.executable, "-m", *command.arguments]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=command.limit)
            how = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            output, _ = process.communicate()
            how = "ended at its limit"
    text = f"$ python -m {shlex.join(command.arguments)}\n{output}".replace(folder, "FOLDER").rstrip()
    print(f"## {command.title}\n\n```text\n{text}\n```\n\n{how}, {time.monotonic() - began:.0f} s\n", flush=True)
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
