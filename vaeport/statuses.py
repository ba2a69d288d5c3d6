"""What a failed call means: the one translator from gRPC's statuses to the errors of vaeport.errors."""

from typing import Any, cast

import grpc

from vaeport.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
    VaeportError,
)
from vaeport.wire import PUSHBACK_KEY, REQUEST_ID_KEY

ERROR_OF: dict[grpc.StatusCode, type[VaeportError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,  # by a server that stops, not by the caller
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.INTERNAL: InternalError,
}


def error_of(error: grpc.RpcError, address: str, request_id: str = "") -> VaeportError:
    """The error that the caller sees.

    Args:
        error: a call that failed, as gRPC raises it.
        address: the server that was asked.
        request_id: the id that the call was given; an id that the server reports takes precedence.
    """
    call = cast("grpc.Call", error)  # a finished call raises itself
    code, text = call.code(), call.details() or ""
    metadata: dict[str, Any] = dict(call.trailing_metadata() or ())
    found = _error(code, text, address, metadata)
    if isinstance(found, ServerError):
        found.request_id = str(metadata.get(REQUEST_ID_KEY, request_id))
    return found


def _error(code: grpc.StatusCode, text: str, address: str, metadata: dict[str, Any]) -> VaeportError:
    kind = ERROR_OF.get(code, ServerError)
    if kind is OverloadedError:
        return OverloadedError(text, _pushback_seconds(metadata))
    if kind in (InvalidInputError, NotFoundError, InternalError):
        return kind(text)
    return kind(f"{address}: {text}" if kind is not ServerError else f"{address}: {code.name}: {text}")


def _pushback_seconds(metadata: dict[str, Any]) -> float | None:
    """The server's hint; without one, or if it is not a number of milliseconds, the call is not retried (gRFC A6)."""
    hint = metadata.get(PUSHBACK_KEY, "")
    return int(hint) / 1000 if isinstance(hint, str) and hint.isascii() and hint.isdigit() else None
