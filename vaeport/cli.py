"""The command `vaeport`: ask a server, or a package in this process. Exits 0, 1 after an error, 2 for wrong usage."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaeport._version import __version__
from vaeport.errors import InvalidInputError, VaeportError

if TYPE_CHECKING:
    from vaeport.client import Client
    from vaeport.credentials import TLS
    from vaeport.model import Model

DEFAULT_SERVER = "localhost:50051"
DEFAULT_TIMEOUT = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors go to standard error in one line."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        return command(options) or 0
    except (VaeportError, OSError) as error:
        print(f"vaeport: error: {error}", file=sys.stderr)
        return 1


def info(options: argparse.Namespace) -> None:
    """Print the models, one a line."""
    with _source(options) as source:
        for model in source.info().models:
            channels, height, width = model.image_shape
            print(
                f"{model.name} version {model.version}: images {channels}x{height}x{width}, "
                f"{model.latent_dim} latent dimensions, {model.likelihood}, {' '.join(model.providers)}, {model.digest}"
            )


def sample(options: argparse.Namespace) -> None:
    """Draw images, write them as one picture, and print its path."""
    from vaeport.pictures import save_grid

    with _source(options) as source:
        images = source.sample(options.n, seed=options.seed, temperature=options.temperature)
    save_grid(images, options.output)
    print(options.output)


def doctor(options: argparse.Namespace) -> int:
    """Look at what is installed, the device, limits, a package and a server; exit 1 if something fails."""
    from vaeport.doctor import examine
    from vaeport.findings import as_json, as_table, failed

    findings = list(examine(options.package, options.server, *_locks(options)))
    print(as_json(findings) if options.json else as_table(findings))
    return int(failed(findings))


def _source(options: argparse.Namespace) -> "contextlib.AbstractContextManager[Client | Model]":
    if options.package is not None:
        if _encrypted(options) or options.token_file or options.model or options.timeout != DEFAULT_TIMEOUT:
            flags = "--model, --timeout, --token-file and those of TLS"
            raise InvalidInputError(f"{flags} are for a server; a --package is one model, in this process")
        from vaeport.model import load

        return contextlib.nullcontext(load(options.package))
    from vaeport.client import Client

    tls, token = _locks(options)
    return Client(options.server, model=options.model, timeout=options.timeout, tls=tls or False, token=token)


def _locks(options: argparse.Namespace) -> "tuple[TLS | None, str]":
    """How to connect, and the token to show."""
    from vaeport.credentials import TLS

    token = _read_token(options.token_file) if options.token_file else ""
    return TLS(options.ca, options.cert, options.key) if _encrypted(options) else None, token


def _read_token(path: Path) -> str:
    token = path.read_text(errors="replace").strip()
    if not token:
        raise InvalidInputError.of("--token-file", expected="a token", got=f"nothing in {path}")
    return token


def _encrypted(options: argparse.Namespace) -> bool:
    return bool(options.tls or options.ca or options.cert or options.key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vaeport", description="Samples and facts of a variational autoencoder.")
    parser.add_argument("--version", action="version", version=f"vaeport {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    locks = argparse.ArgumentParser(add_help=False)
    locks.add_argument("--tls", action="store_true", help="encrypt, and check the server's certificate")
    locks.add_argument(
        "--ca", type=Path, metavar="PEM", help="TLS, with the certificates that the server's descends from"
    )
    locks.add_argument("--cert", type=Path, metavar="PEM", help="TLS, with this certificate of ours; needs --key")
    locks.add_argument("--key", type=Path, metavar="PEM", help="the private key of --cert")
    locks.add_argument("--token-file", type=Path, metavar="PATH", help="a file with the token to show to the server")

    source = argparse.ArgumentParser(add_help=False, parents=[locks])
    where = source.add_mutually_exclusive_group()
    where.add_argument(
        "--server", default=DEFAULT_SERVER, metavar="HOST:PORT", help="ask a server (%(default)s), or unix:PATH"
    )
    where.add_argument("--package", type=Path, metavar="PATH", help="compute here, with this package and no server")
    source.add_argument("--model", default="", help="name of the model on a server with several")
    source.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT, help="seconds for each request (%(default)s)")

    command = commands.add_parser("info", parents=[source], help="what there is to ask", description=info.__doc__)
    command.set_defaults(command=info)

    command = commands.add_parser("sample", parents=[source], help="draw images", description=sample.__doc__)
    command.add_argument("-n", type=int, default=64, help="how many (%(default)s)")
    command.add_argument("--seed", type=int, help="same seed, same images; drawn if absent")
    command.add_argument("--temperature", type=float, default=1.0, help="spread of the latents (%(default)s)")
    command.add_argument("-o", "--output", type=Path, default=Path("grid.png"), help="picture file (%(default)s)")
    command.set_defaults(command=sample)

    command = commands.add_parser(
        "doctor", parents=[locks], help="what works here, and what does not", description=doctor.__doc__
    )
    command.add_argument("--package", type=Path, metavar="PATH", help="a package to self-test, too")
    command.add_argument("--server", metavar="HOST:PORT", help="a server to ask, too")
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(command=doctor)
    return parser


if __name__ == "__main__":
    sys.exit(main())
