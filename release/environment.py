"""A clean virtual environment with the wheel in it, as a service has that installs the library alone."""

import json
import os
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from release.commands import ReleaseError, run

BASE = frozenset({"grpcio", "numpy", "pillow", "protobuf"})
THEIRS = frozenset({"typing-extensions"})
"""What those bring along in turn."""

IMPORTS = 9
IMPORT_SECONDS = 0.3
_TIMED = "import time; start = time.perf_counter(); import vaeport; print(time.perf_counter() - start)"
_TYPED = """import vaeport
with vaeport.Client("localhost:50051") as client:
    reveal_type(client.info())
    client.sample("many")
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own; nothing of the one that runs this is seen in it."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, wheel: Path, constraints: Path | None = None) -> Self:
        """Make one and install the wheel with what it needs, from the package index that pip is set up for."""
        venv.create(folder, with_pip=True, symlinks=True)
        made = cls(folder)
        limits: list[str | Path] = ["-c", constraints] if constraints else []
        made.python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *limits, wheel)
        made.python("-m", "pip", "check")
        return made

    def python(self, *arguments: str | Path) -> str:
        """What its interpreter prints. Neither the current folder nor PYTHON* variables reach it."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return run(self.folder / "bin/python", *arguments, cwd=self.folder, env=clean)

    def installed(self) -> set[str]:
        """The names of the distributions in it, but for those of every new environment."""
        rows = json.loads(self.python("-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
        return {row["name"].lower().replace("_", "-") for row in rows} - {"pip", "setuptools"}


def check(environment: Environment) -> float:
    """Raise ReleaseError unless the library is there alone and works.

    Returns:
        Seconds of `import vaeport`, the best of several fresh interpreters.
    """
    more = environment.installed() - BASE - THEIRS - {"vaeport"}
    if more:
        raise ReleaseError(f"vaeport alone brings {', '.join(sorted(more))}; expected {', '.join(sorted(BASE))}")
    run(environment.folder / "bin/vaeport", "--help", cwd=environment.folder)
    _check_types(environment)
    seconds = min(float(environment.python("-c", _TIMED)) for _ in range(IMPORTS))
    if seconds >= IMPORT_SECONDS:
        raise ReleaseError(f"import vaeport: expected less than {IMPORT_SECONDS} s, got {seconds:.2f}")
    return seconds


def _check_types(environment: Environment) -> None:
    """A type checker takes the installed library's types: it knows a result, and sees a wrong argument."""
    script = environment.folder / "typed.py"
    script.write_text(_TYPED)
    mypy = [sys.executable, "-m", "mypy", "--config-file=", "--no-incremental", "--strict"]
    try:
        run(*mypy, "--python-executable", environment.folder / "bin/python", script, cwd=environment.folder)
    except ReleaseError as error:
        said = str(error)
    else:
        raise ReleaseError("mypy: takes client.sample('many'), so it sees no types of the installed library")
    for expected in ('typed.py:4: error: Argument 1 to "sample"', 'Revealed type is "vaeport.results.ServerInfo"'):
        if expected not in said:
            raise ReleaseError(f"mypy: expected {expected!r}, got\n{said}")
