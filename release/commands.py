"""Other programs, run so that what they say is seen only if they fail."""

import subprocess
from collections.abc import Mapping
from pathlib import Path


class ReleaseError(Exception):
    """What is about to be released is not as it must be; the message says what, for a person."""


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The standard output of a command; ReleaseError with all that it said if it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, check=False)
    if done.returncode:
        words = " ".join(map(str, command))
        raise ReleaseError(f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
