"""Runs the commands of a page as somebody types them, in a folder of their own and on free ports."""

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import ROOT

SERVER = re.compile(r"localhost:50051|HOST:PORT")
"""How pages write the address of a server."""
COMMAND_SECONDS = 60
QUICK = ["--port", "0", "--workers", "1", "--device", "cpu", "--lame-duck-seconds", "0"]


@dataclass
class Shell:
    """Runs the commands of a page in a folder of its own, and keeps the servers that they start until the end."""

    folder: Path
    address: str = ""
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, line: str) -> None:
        """One command; it must succeed, or, if it is a server, become ready."""
        words = shlex.split(line, comments=True)
        if words and starts_a_server(words):
            self.serve(words)
        elif words:
            if SERVER.search(line) and not self.address:
                self.serve(["python", "-m", "serving"])
            done = subprocess.run(
                ["bash", "-ec", SERVER.sub(self.address, line)],
                cwd=self.folder,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}"

    def serve(self, words: list[str]) -> None:
        """Start a server on a free port; commands after it ask it."""
        line = "exec " + shlex.join([word.replace("9090", "0") for word in words] + QUICK)
        process = subprocess.Popen(
            ["bash", "-c", line], cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE, text=True
        )
        self.servers.append(process)
        assert process.stdout is not None
        word, _, self.address = process.stdout.readline().strip().partition(" ")
        assert word == "ready", words

    def environment(self) -> dict[str, str]:
        """This checkout's code and commands, wherever the folder is."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def close(self) -> None:
        """Stop the servers; each must end as a drained one does."""
        for process in self.servers:
            process.send_signal(signal.SIGTERM)
        for process in self.servers:
            with process:
                assert process.wait(30) == 0


def starts_a_server(words: list[str]) -> bool:
    """Whether it is `python -m serving` with flags alone, and not one of its commands."""
    module = words.index("-m") + 1 if "-m" in words else 0
    return module > 0 and words[module] == "serving" and words[module + 1].startswith("--")
