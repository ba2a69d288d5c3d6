"""The server or the package that a command asks, as its flags name it."""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from vaeport.commands.flags import DEFAULT_TIMEOUT
from vaeport.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from vaeport.client import Client
    from vaeport.credentials import TLS
    from vaeport.model import Model
    from vaeport.results import ModelInfo

    Source: TypeAlias = Client | Model

FOR_A_SERVER = ("model", "model_version", "timeout", "tls", "ca", "cert", "key", "token_file")
FOR_A_PACKAGE = ("precision", "device")
NOBODY_LISTENS = ("Connection refused", "No such file or directory")  # in the text of a failed connection


def open_source(options: argparse.Namespace) -> "contextlib.AbstractContextManager[Source]":
    """A client of the server, or the model of the package; both have the same methods.

    Raises:
        InvalidInputError: flags for a server with a package, or vice versa; or what `Client` and `load` raise.
    """
    if options.package is None:
        _refuse(options, FOR_A_PACKAGE, "for a --package; a server has its own")
        return _asking(options)
    _refuse(options, FOR_A_SERVER, "for a server; a --package is one model, in this process")
    from vaeport.model import load

    model = load(options.package, device=options.device or "cpu", precision=options.precision or "fp32")
    return contextlib.nullcontext(model)


def locks_of(options: argparse.Namespace) -> "tuple[TLS | None, str]":
    """How to connect, and the token to show."""
    from vaeport.credentials import TLS

    token = _read_token(options.token_file) if options.token_file else ""
    encrypted = options.tls or options.ca or options.cert or options.key
    return TLS(options.ca, options.cert, options.key) if encrypted else None, token


def model_of(source: "Source") -> "ModelInfo":
    """The model that is asked.

    Raises:
        InvalidInputError: there are several models, and none is named.
    """
    info = source.info()
    for model in info.models:
        if len(info.models) == 1 or model.name == info.default_model:
            return model
    names = ", ".join(model.name for model in info.models)
    raise InvalidInputError.of("--model", expected=f"one of {names}", got="no name")


@contextlib.contextmanager
def _asking(options: argparse.Namespace) -> "Iterator[Client]":
    """A client whose error says what to do if no server listens at the address."""
    with _client(options) as client:
        try:
            yield client
        except UnavailableError as error:
            reason = next((text for text in NOBODY_LISTENS if text in str(error)), None)
            if reason is None:
                raise
            raise UnavailableError(
                f"no server at {options.server} ({reason}); start one with `python -m serving --models DIR`, "
                "or give --package"
            ) from error


def _client(options: argparse.Namespace) -> "Client":
    from vaeport.client import Client

    tls, token = locks_of(options)
    return Client(
        options.server,
        model=options.model or "",
        version=options.model_version or "",
        timeout=DEFAULT_TIMEOUT if options.timeout is None else options.timeout,
        tls=tls or False,
        token=token,
    )


def _refuse(options: argparse.Namespace, names: tuple[str, ...], text: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]
    if given:
        raise InvalidInputError(f"{', '.join(given)}: {text}")


def _read_token(path: Path) -> str:
    token = path.read_text(errors="replace").strip()
    if not token:
        raise InvalidInputError.of("--token-file", expected="a token", got=f"nothing in {path}")
    return token
