"""The one table from domain errors to gRPC statuses."""

import logging
import math
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from vaeport.errors import (
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from vaeport.wire import PUSHBACK_KEY, REQUEST_ID_KEY

log = logging.getLogger(__name__)

STATUS_OF: dict[type[Exception], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
}

MAX_TEXT = 1000  # characters; longer details exceed the metadata that a client takes, and would hide the status itself
MIN_PUSHBACK_MS = 1  # a hint of zero would invite a busy loop

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """What the caller is told."""

    code: grpc.StatusCode
    text: str
    trailing_metadata: Metadata = ()


def failure_of(error: Exception, method: str, request_id: str) -> Failure:
    """What to tell the caller about `error`; the id is in the trailing metadata. An error outside the table is our bug:
    it is logged in full under that id, and the caller gets the id alone."""
    metadata: Metadata = ((REQUEST_ID_KEY, request_id),)
    code = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), None)
    if code is None:
        extra = {"method": method, "request_id": request_id}
        log.error("%s failed, request id %s", method, request_id, exc_info=error, extra=extra)
        return Failure(grpc.StatusCode.INTERNAL, f"internal error {request_id}", metadata)
    text = str(error) if len(str(error)) <= MAX_TEXT else f"{str(error)[:MAX_TEXT]}..."
    if isinstance(error, OverloadedError):
        metadata += _retry_metadata(code, text, error.retry_after or 0.0)
    return Failure(code, text, metadata)


def _retry_metadata(code: grpc.StatusCode, text: str, seconds: float) -> Metadata:
    """A google.rpc.RetryInfo in the status details, and the same delay for gRPC's own retries."""
    milliseconds = max(MIN_PUSHBACK_MS, math.ceil(seconds * 1000))
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(milliseconds)
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    rich = rpc_status.to_status(status_pb2.Status(code=code.value[0], message=text, details=[detail]))
    return (*rich.trailing_metadata, (PUSHBACK_KEY, str(milliseconds)))
