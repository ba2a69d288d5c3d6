"""`python -m export`: the command that makes a package from a run. COMMANDS has those that take a package."""

import importlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from export.errors import ExportError
from vaeport.errors import VaeportError

COMMANDS = {  # each is imported when it is asked for: none of them needs torch
    "verify": ("export.verify", "verify_command"),
    "triton": ("export.triton", "triton_command"),
    "onnx-tests": ("export.onnx_tests", "onnx_tests_command"),
    "sign": ("export.sign", "sign_command"),
    "verify-signature": ("export.sign", "verify_signature_command"),
}


@dataclass(frozen=True, slots=True)
class Options:
    """Make a package of a run: graphs that are compared with PyTorch first. Prints the folder of the new version.

    Commands that take a package, each with its own --help: verify, triton, onnx-tests, sign, verify-signature.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run directory that training left behind."""

    to: Path
    """The folder of the model's versions, MODELS/<name>; the last component is the package's name."""

    version: int | None = None
    """The version to make; it must not exist. Without it: one more than the newest."""

    last: bool = False
    """Take the weights of the last epoch, not of the best one."""

    formats: str = "onnx,torchscript"
    """What to write: onnx, which the server needs, and torchscript, which PyTorch deprecates."""

    precisions: str = "fp32"
    """What to compute in: fp32, then any of fp16 (for CUDA) and int8 (for CPUs with VNNI; needs the run's data)."""

    force: bool = False
    """Publish a precision that is slower than fp32 here, changes the ELBO too much, or cannot be measured here."""
    card_images: bool = False
    """Show held-out images and their reconstructions in the card. Images of your data are inside then."""

    golden_images: bool = False
    """Make the golden vectors of held-out images, not of synthetic ones. Images of your data are inside then."""


def main() -> int:
    """Parse the options, export or run the command that is named, and return the exit status."""
    progress = logging.StreamHandler()  # to stderr: a proof of large images takes a minute or two
    progress.setFormatter(logging.Formatter("export: %(message)s"))
    logging.getLogger("export").addHandler(progress)
    logging.getLogger("export").setLevel(logging.INFO)
    logging.getLogger("export").propagate = False  # ONNX Runtime's quantiser gives the root a handler, too
    try:
        if command := COMMANDS.get(next(iter(sys.argv[1:]), "")):
            module, function = command
            getattr(importlib.import_module(module), function)(sys.argv[2:])
        else:
            _export(tyro.cli(Options, prog="python -m export"))
    except BrokenPipeError:  # the reader of the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again as it exits
        return 141  # what shells say of SIGPIPE
    except (ExportError, VaeportError, OSError) as error:
        print(f"export: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("export: stopped", file=sys.stderr)
        return 130
    return 0


def _export(options: Options) -> None:
    from export.pipeline import export_run  # torch: not for --help, and not for verify
    from export.precisions import parse_precisions
    from training.config import data_root
    from training.errors import TrainingError

    try:
        made = export_run(
            options.run,
            options.to,
            version=options.version,
            last=options.last,
            formats=options.formats.split(","),
            precisions=parse_precisions(options.precisions),
            force=options.force,
            card_images=options.card_images,
            golden_images=options.golden_images,
            data_root=data_root(),
        )
        print(made)
    except TrainingError as error:
        raise ExportError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
