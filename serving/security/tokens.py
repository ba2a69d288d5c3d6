"""Bearer tokens: made here, known to the server by their digests alone.

A line of the file is a name, the scopes, the digest and, optionally, when the token expires:

    # name    scopes        digest                expires
    search    infer         sha256:9f86d081...    2027-01-01
    deployer  infer,admin   sha256:60303ae2...

SHA-256 is enough: slow hashes like scrypt protect passwords from being guessed, but a token is 256 random bits, and
they would cost milliseconds per call.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from serving.security.access import Scope
from serving.security.watched import Watched, read_file, warn_if_others_read
from serving.settings import SettingsError

FLAG = "--tokens"
PREFIX = "vaeport_"  # lets scanners for leaked secrets find tokens
RANDOM_BYTES = 32
MAX_TOKENS = 256  # a call is compared with all of them, at a quarter of a microsecond each
MAX_FILE_BYTES = 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the server knows it.

    Attributes:
        name: the token's owner, for the log and the limits; two tokens may share it while one replaces the other.
        scopes: what the token allows.
        digest: SHA-256 of the token.
        expires: seconds since the epoch from which it is refused; None means never.
    """

    name: str
    scopes: frozenset[Scope]
    digest: bytes
    expires: float | None = None


class Tokens:
    """The tokens of a file."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens = tuple(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def __iter__(self) -> Iterator[Token]:
        return iter(self._tokens)

    def find(self, secret: str) -> Token | None:
        """The token that `secret` is, expired or not.

        It is compared with every token, to the last byte, so that the time taken reveals neither which tokens exist nor
        how close `secret` came.
        """
        digest, found = digest_of(secret), None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def digest_of(secret: str) -> bytes:
    """SHA-256 of a token."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def new_secret() -> str:
    """A new token."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def watch_tokens(path: Path) -> Watched[Tokens]:
    """The tokens of a file, kept up to date by `refresh`.

    Raises:
        SettingsError: they cannot be read.
    """
    watched = Watched("tokens", [path], partial(read_tokens, path))
    warn_if_others_read(FLAG, path)
    return watched


def read_tokens(path: Path) -> Tokens:
    """The tokens of a file.

    Raises:
        SettingsError: it cannot be read, a line is wrong, or it holds no token. The text says where, but never quotes
            the line: it might be a token that somebody put there by mistake.
    """
    try:
        lines = read_file(FLAG, path, MAX_FILE_BYTES).decode().splitlines()
    except UnicodeDecodeError:
        raise SettingsError(f"{FLAG} {path}: expected UTF-8") from None
    tokens: dict[bytes, Token] = {}
    for number, line in enumerate(lines, 1):
        if fields := line.partition("#")[0].split():
            try:
                token = _parse(fields)
            except ValueError as error:
                raise SettingsError(f"{FLAG} {path}, line {number}: {error}") from None
            if tokens.setdefault(token.digest, token) is not token:
                raise SettingsError(f"{FLAG} {path}, line {number}: this token has a line already")
    if not 1 <= len(tokens) <= MAX_TOKENS:
        raise SettingsError(f"{FLAG} {path}: expected 1 to {MAX_TOKENS} tokens, got {len(tokens)}")
    return Tokens(tokens.values())


def _parse(fields: list[str]) -> Token:
    if not 3 <= len(fields) <= 4:
        raise ValueError(f"expected name, scopes, digest and perhaps an end, got {len(fields)} columns")
    name, scopes, digest = fields[:3]
    if not NAME.fullmatch(name) or name.startswith(PREFIX):  # a name is logged, a token must not be
        raise ValueError("expected a name of up to 64 letters, digits and . _ @ -, which is no token")
    if not DIGEST.fullmatch(digest):
        raise ValueError("expected sha256: and 64 hexadecimal digits; `python -m serving token` makes the line")
    expires = parse_moment(fields[3]) if len(fields) == 4 else None
    return Token(name, parse_scopes(scopes.split(",")), bytes.fromhex(digest.removeprefix("sha256:")), expires)


def parse_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Scopes by their names; ValueError for an unknown name, or for none."""
    names = set(names)
    if not names or names - set(Scope):
        raise ValueError(f"expected scopes of {', '.join(Scope)}")
    return frozenset(map(Scope, names))


def parse_moment(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 date or time. A date begins at 00:00; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected an end as 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def line_of(name: str, scopes: Iterable[Scope], secret: str, expires: str = "") -> str:
    """The line of the file for a token.

    Raises:
        ValueError: the reader would refuse it.
    """
    fields = [name, ",".join(sorted(scopes)), f"sha256:{digest_of(secret).hex()}"]
    if expires:
        fields.append(expires.replace(" ", "T"))
    _parse(fields)
    return " ".join(fields)
