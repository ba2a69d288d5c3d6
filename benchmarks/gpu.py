"""What only a GPU can show, in one go, as Markdown, ready for docs/results/: its tests, its rows of the proof, and the
benchmarks that it is for.

    python -m benchmarks.gpu                              MNIST in VAEPORT_DATA_ROOT
    python -m benchmarks.gpu --only tests proof serving   some of it
    python -m benchmarks.gpu --device cpu                 a rehearsal: the same on a CPU, as far as it goes there

Each command has a process and a limit of time of its own: what fails or hangs does not hold up the rest. The exit
status is 1 if something did. Rows of IWAE's table that were cut off go on where they stood, if --runs is the same.
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe_machine

PARTS = ("tests", "proof", "serving", "likelihood", "iwae")
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


def commands(part: str, options: argparse.Namespace, folder: Path) -> Iterator[Command]:
    """The commands of one of PARTS, in the order in which they need each other."""
    run, models, device = str(folder / "run"), folder / "models", ("--device", options.device)
    if part == "tests":
        yield Command("Tests", ("pytest", "-q", "-p", "no:cacheprovider", *TESTS), 240)
    elif part == "proof":
        yield Command("A run", ("training", "--data", options.data, "--epochs", "3", "--run", run, *device), 120)
        # --force: the proof is wanted of float16, too, where it is slower or cannot be measured
        precisions = ("--precisions", "fp32,fp16", "--force")
        yield Command("Its export", ("export", run, "--to", str(models / "reference"), *precisions), 120)
        package = str(models / "reference" / "1")
        yield Command("The proof", ("export", "verify", package, "--run-torchscript"), 120)
    elif part == "serving":
        trained = ("--models", str(models)) if models.exists() else ()
        for how in ((), ("--tf32",), ("--cuda-graphs",)):
            yield Command(" ".join(("Serving", *how)), ("benchmarks.serving.device", *trained, *device, *how), 120)
    elif part == "likelihood":
        yield Command("Log-likelihood", ("benchmarks.log_likelihood", *device), 240)
    elif options.device == "cuda":  # the table takes hours elsewhere
        for row in options.rows:
            table = ("--batch-size", "100", "--epochs", str(options.epochs), "--runs", str(options.runs))
            yield Command(f"IWAE's table, {row}", ("benchmarks.iwae_table", "--rows", row, *table), 540)


def main() -> int:
    """Run them one after the other; the exit status."""
    parser = argparse.ArgumentParser(description="What only a GPU can show.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts; all, if it is not given")
    parser.add_argument("--data", default="mnist", help="to train on, as of python -m training")
    parser.add_argument("--rows", nargs="+", default=["iwae-k1", "iwae-k50"], help="of IWAE's table")
    parser.add_argument("--epochs", type=int, default=400, help="of IWAE's table; the paper's are 3,280")
    parser.add_argument("--runs", type=Path, default=Path("runs/iwae"), help="where the runs of IWAE's table go")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `run` ends what it has started
    print(f"# On {options.device}\n\n{describe_machine()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ended = [run(command, folder) for part in options.only for command in commands(part, options, Path(folder))]
    return 0 if all(ended) else 1


def run(command: Command, folder: str) -> bool:
    """Print what it prints, but for the name of the folder, and how it ended; whether it ended well."""
    began, status = time.monotonic(), None
    line = [sys.executable, "-m", *command.arguments]
    with tempfile.TemporaryFile("w+") as output:  # no pipe: what a command leaves behind would keep it open
        process = subprocess.Popen(line, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(command.limit)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            process.wait()
        output.seek(0)
        lines = [text.rpartition("\r")[2] for text in output.read().split("\n")]  # of progress, where it ended
    text = "\n".join([f"$ python -m {shlex.join(command.arguments)}", *lines]).replace(folder, "FOLDER").rstrip()
    how = "ended at its limit" if status is None else f"exit status {status}"
    print(f"## {command.title}\n\n```text\n{text}\n```\n\n{how}, {time.monotonic() - began:.0f} s\n", flush=True)
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
