"""`python -m serving token`: makes a bearer token, and the line by which a server knows it."""

import os
import sys
from pathlib import Path
from typing import Literal

from serving.security.tokens import line_of, new_secret, parse_scopes, read_tokens
from vaeport.errors import InvalidInputError


def token(
    name: str,
    /,
    scopes: tuple[Literal["infer", "admin"], ...] = ("infer",),
    expires: str = "",
    tokens: Path | None = None,
) -> None:
    """Print a new token on standard output, once: it cannot be read from the file. Its line goes to --tokens.

    Args:
        name: the token's owner, for the log and the limits.
        scopes: what the token allows; neither scope includes the other.
        expires: when the token expires: 2027-01-31, or 2027-01-31T12:00:00Z. By default it never does.
        tokens: the file to add the line to, made with mode 600 if it does not exist; a running server takes it within
            seconds. Without it, the line is printed on standard error.
    """
    secret = new_secret()
    try:
        line = line_of(name, parse_scopes(scopes), secret, expires)
    except ValueError as error:
        raise InvalidInputError(str(error)) from None
    if tokens is None:
        print(line, file=sys.stderr)
    else:
        _append(tokens, line)
    print(secret)


def _append(path: Path, line: str) -> None:
    """Add a line in one write, so that a server that reads meanwhile sees it whole or not at all."""
    if path.exists() and path.stat().st_size:
        read_tokens(path)  # a server would refuse the file, and never see the new line
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(file).st_size
        begun = size and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, b"\n" * bool(begun) + line.encode() + b"\n")
    finally:
        os.close(file)
