"""`make demo`: the whole path in one go, through the commands that a person would type.

Trains on the built-in digits, exports, starts a server on a free port, asks it for samples over gRPC, and stops it.
What it does goes to standard error; the path of the picture is the one line on standard output.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

RUN = Path("runs/demo")
MODEL = RUN / "models" / "digits"  # not in models/, which is for models that are meant to be served
PICTURE = RUN / "samples-over-grpc.png"
EPOCHS = 300
STOP_SECONDS = 30


def main() -> int:
    """Run all steps; the first that fails ends the demo, and its message is the last line."""
    try:
        demo()
    except subprocess.CalledProcessError as error:
        print(f"demo: error: {' '.join(error.cmd[1:])} failed with exit status {error.returncode}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def demo() -> None:
    """Train, export, serve, sample, stop."""
    if RUN.exists():
        shutil.rmtree(RUN)  # the demo's own, made again each time
    say(f"1. train on scikit-learn's digits, {EPOCHS} epochs -> {RUN}")
    python("training", "--data", "digits", "--epochs", str(EPOCHS), "--run", str(RUN))
    say("2. export to ONNX, compared with PyTorch")
    version = python("export", str(RUN), "--to", str(MODEL)).splitlines()[-1]
    say(f"   -> {version}")
    with served() as address:
        say(f"3. serve with ONNX Runtime on {address}, and sample over gRPC")
        python("vaeport.cli", "sample", "--server", address, "--seed", "7", "-o", str(PICTURE))
    say(f"4. stopped the server; open the picture, and {RUN}/report.md")
    print(PICTURE)


def say(text: str) -> None:
    """To the person who watches."""
    print(text, file=sys.stderr, flush=True)


def python(module: str, *arguments: str) -> str:
    """Run a command of the project; its standard output."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextlib.contextmanager
def served() -> Iterator[str]:
    """A server on a free port of this machine; yields its address, and ends it in any case."""
    command = [sys.executable, "-m", "serving", "--models", str(MODEL.parent), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = server.stdout.readline().split()
            if not ready:
                raise subprocess.CalledProcessError(server.wait(), command)
            yield ready[1]
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_SECONDS)
            finally:
                server.kill()


if __name__ == "__main__":
    sys.exit(main())
