"""`python -m export`: the command that makes a package from a run."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from export.errors import ExportError
from training.errors import TrainingError
from vaeport.errors import VaeportError


@dataclass(frozen=True, slots=True)
class Options:
    """Make a package of a run: graphs that are compared with PyTorch first. Prints the folder of the new version."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run directory that training left behind."""

    to: Path
    """The folder of the model's versions, MODELS/<name>; the last component is the package's name."""

    version: int | None = None
    """The version to make; it must not exist. Without it: one more than the newest."""

    last: bool = False
    """Take the weights of the last epoch, not of the one with the lowest test loss."""

    formats: str = "onnx,torchscript"
    """What to write: onnx, which the server needs, and torchscript, which PyTorch deprecates."""


def main() -> int:
    """Parse the options, export, and return the exit status."""
    options = tyro.cli(Options, prog="python -m export")
    try:
        from export.pipeline import export_run  # torch: not for --help

        formats = options.formats.split(",")
        print(export_run(options.run, options.to, version=options.version, last=options.last, formats=formats))
    except (ExportError, TrainingError, VaeportError, OSError) as error:
        print(f"export: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("export: stopped; nothing is written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
