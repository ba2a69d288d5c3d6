"""The command `vaeport`: its parser, and how it ends. What each command does is in vaeport/commands/."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vaeport._version import __version__
from vaeport.commands import (
    bench,
    completion,
    doctor,
    encode,
    info,
    interpolate,
    reconstruct,
    sample,
    score,
    traverse,
)
from vaeport.errors import VaeportError, bounded

COMMANDS = (info, sample, encode, reconstruct, interpolate, traverse, score, bench, doctor, completion)

OK, ERROR = 0, 1  # 2 is argparse's, for wrong usage
INTERRUPTED, NO_READER = 130, 141  # the statuses that shells give for SIGINT and SIGPIPE
EXIT_STATUS = """exit status:
  0    all went well
  1    an error, in one line on standard error; a check of doctor, or a call of bench, failed
  2    wrong usage
  130  interrupted by Ctrl-C
  141  the reader of the output has gone

`vaeport COMMAND --help` has an example of each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors go to standard error in one line."""
    _open_streams()
    try:
        try:
            return _run(arguments)
        finally:
            _flush()
    except BrokenPipeError:
        return NO_READER
    except (VaeportError, OSError, MemoryError) as error:
        text = " ".join(str(error).splitlines()) or "not enough memory"  # Python's own MemoryError says nothing
        print("vaeport: error:", bounded(text), file=sys.stderr)  # it may quote what a server says
        return ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="vaeport",
        description="Samples, latents and scores of a variational autoencoder, from a server or a package.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vaeport {__version__}")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _run(arguments: Sequence[str] | None) -> int:
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        hint = "; --dimensions takes commas, as in 0,3" if getattr(options, "dimensions", None) else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    command: Callable[[argparse.Namespace], int | None] = options.command
    return command(options) or OK


def _open_streams() -> None:
    """Whoever has closed one (`>&-`) wants nothing of it; Python has None there, which nothing can be printed to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - lives as long as the process


def _flush() -> None:
    """Write out what was printed, while a failure can still be reported in one line."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again as it exits
        raise


if __name__ == "__main__":
    sys.exit(main())
