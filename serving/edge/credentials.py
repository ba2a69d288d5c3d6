"""The check of bearer tokens at the door, and the name of a running call's caller."""

import time
from collections.abc import Iterable
from contextvars import ContextVar
from ipaddress import IPv6Network
from typing import Protocol
from urllib.parse import unquote

from serving.edge.door import Check, Details, Metadata
from serving.security.access import Scope, scope_of
from serving.security.tokens import Tokens
from serving.security.watched import Watched
from vaeport.errors import PermissionDeniedError, UnauthenticatedError, VaeportError

KEY = "authorization"
SCHEME = "bearer "

_token_name: ContextVar[str] = ContextVar("token_name", default="")  # a call's door and its handler share one context


def check_admin_closed(details: Details) -> VaeportError | None:
    """The check of a server without tokens: everyone may do everything except change the server."""
    if scope_of(details.method) is not Scope.ADMIN:
        return None
    return PermissionDeniedError("this call is closed: start the server with --tokens, and with a token for admin")


def token_check(tokens: Watched[Tokens]) -> Check:
    """The check of a server with tokens: each method needs the scope that serving.security.access names."""

    def check(details: Details) -> VaeportError | None:
        needed = scope_of(details.method)
        if needed is None:
            return None
        secret = bearer_of(details.invocation_metadata)
        if secret is None:
            return UnauthenticatedError("this call needs a token, as metadata: one authorization entry, Bearer TOKEN")
        token = tokens.value.find(secret)
        if token is None:
            return UnauthenticatedError("the token is unknown here")
        if token.expires is not None and token.expires <= time.time():
            return UnauthenticatedError(f"the token of {token.name} has expired")
        if needed not in token.scopes:
            return PermissionDeniedError(f"the token of {token.name} lacks the scope {needed}, which this call needs")
        _token_name.set(token.name)
        return None

    return check


def bearer_of(metadata: Metadata) -> str | None:
    """The token in the metadata; None if there is none, more than one entry, or another scheme."""
    values = [value for key, value in metadata if key == KEY]
    if len(values) != 1:
        return None
    (value,) = values
    if not isinstance(value, str) or value[: len(SCHEME)].lower() != SCHEME:
        return None
    return value[len(SCHEME) :].strip() or None


class Context(Protocol):
    """The part of a grpc.aio.ServicerContext that is used here."""

    def peer(self) -> str:
        """ipv4:ADDRESS:PORT, ipv6:[ADDRESS]:PORT with percent signs, or unix:"""

    def peer_identities(self) -> Iterable[bytes] | None:
        """The names of a client's certificate."""


def caller_of(context: Context) -> str:
    """`token NAME`, `certificate NAME`, or the host that calls. Nothing secret: for the log, and for limits."""
    if name := _token_name.get():
        return f"token {name}"
    for name_in_certificate in context.peer_identities() or ():
        return f"certificate {name_in_certificate.decode(errors='replace')}"
    return host_of(context.peer())


def host_of(peer: str) -> str:
    """The host of a peer, without its port. For IPv6 its /64 network: the owner of one address usually has them all."""
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    if family != "ipv6":
        return host or family
    address = unquote(host).strip("[]").partition("%")[0]
    return str(IPv6Network((address, 64), strict=False))
