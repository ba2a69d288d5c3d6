"""Flags that several commands share, and the form of every command."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    # What add_subparsers returns; argparse has no public name for it.
    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

DEFAULT_SERVER = "localhost:50051"
DEFAULT_TIMEOUT = 30.0  # seconds; vaeport.base_client's, which would load grpc


def add_command(
    commands: "Commands",
    run: Callable[[argparse.Namespace], int | None],
    summary: str,
    examples: Sequence[str],
    parents: Sequence[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """A command named as its function, whose docstring is the description in its --help."""
    described = "\n".join(line.strip() for line in (run.__doc__ or "").splitlines())
    command = commands.add_parser(
        run.__name__,
        help=summary,
        description=described.strip(),
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=list(parents),
    )
    command.set_defaults(command=run)
    return command


def credentials() -> argparse.ArgumentParser:
    """TLS and tokens."""
    flags = argparse.ArgumentParser(add_help=False)
    _add_credentials(flags)
    return flags


def source() -> argparse.ArgumentParser:
    """The flags that name a server, or a package."""
    flags = argparse.ArgumentParser(add_help=False)
    where = flags.add_mutually_exclusive_group()
    where.add_argument(
        "--server",
        default=DEFAULT_SERVER,
        metavar="ADDRESS",
        help="a server: host:port (%(default)s), unix:PATH or dns:///name:port",
    )
    where.add_argument(
        "--package", type=Path, metavar="PATH", help="no server: compute here, with models/NAME/VERSION or models/NAME"
    )
    served = flags.add_argument_group("with --server")
    served.add_argument("--model", metavar="NAME", help="the model, on a server with several")
    served.add_argument("--model-version", metavar="N", help="its version; the newest or pinned one if absent")
    served.add_argument(
        "--timeout", type=float, metavar="SECONDS", help=f"for each request, with retries ({DEFAULT_TIMEOUT:g})"
    )
    _add_credentials(flags)
    here = flags.add_argument_group("with --package")
    here.add_argument(
        "--precision", metavar="NAME", help="of the graphs: fp32 (the default), or fp16, int8 if it has them"
    )
    here.add_argument("--device", choices=("cpu", "cuda", "auto"), help="where to compute (cpu)")
    return flags


def images() -> argparse.ArgumentParser:
    """Image files and folders of them."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGES", help="image files, and folders for all those below them"
    )
    return flags


def add_picture(command: argparse.ArgumentParser, name: str) -> None:
    """The flag for the picture to write."""
    text = "a picture (%(default)s), or X.npy or X.npz for the numbers: float32 [N, C, H, W] in [0, 1]"
    command.add_argument("-o", "--output", type=Path, default=Path(name), metavar="PATH", help=text)


def positive(text: str) -> int:
    """An integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return number


def positive_seconds(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text}")
    return number


def _add_credentials(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("a server with TLS or tokens")
    group.add_argument("--tls", action="store_const", const=True, help="encrypt, and check the server's certificate")
    group.add_argument(
        "--ca", type=Path, metavar="PEM", help="TLS, with the certificates that the server's descends from"
    )
    group.add_argument("--cert", type=Path, metavar="PEM", help="TLS, with this certificate of ours; needs --key")
    group.add_argument("--key", type=Path, metavar="PEM", help="the private key of --cert")
    group.add_argument("--token-file", type=Path, metavar="PATH", help="a file with the token to show to the server")
