"""The door: every call passes it before a byte of its message is read.

A check sees the method and the metadata. The first check that objects ends the call: its message is never read, let
alone parsed. A call that passes all checks is answered by the handler of its method.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc
from grpc import aio

from serving.edge.observed import CallObserver, observed
from serving.edge.refusals import cause_of
from serving.edge.request_id import request_id_of
from serving.edge.status import Failure, failure_of
from serving.telemetry import SILENT, Telemetry
from vaeport.errors import VaeportError
from vaeport.wire import REQUEST_ID_KEY

if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]  # subscriptable only in the stubs

NOT_OFFERED = Failure(grpc.StatusCode.UNIMPLEMENTED, "no such method here")

Metadata = Sequence[tuple[str, str | bytes]]


class Details(Protocol):
    """What is known of a call before its message: the part of a grpc.HandlerCallDetails that is used here."""

    method: str
    """/package.Service/Method."""
    invocation_metadata: Metadata
    """Pairs of a lower-case key and a value; those of `-bin` keys are bytes."""


Check = Callable[[Details], VaeportError | None]
"""An objection to a call, or None. It runs for each call, on the loop: microseconds, and no waiting."""


class Door(grpc.GenericRpcHandler):
    """All methods on a port, behind checks that are asked in order.

    Args:
        checks: each may object to a call.
        telemetry: is told of refusals.
    """

    def __init__(self, checks: Sequence[Check], telemetry: Telemetry = SILENT) -> None:
        self._checks = tuple(checks)
        self._telemetry = telemetry
        self._observers: dict[str, Sequence[CallObserver]] = {}
        self._handlers: dict[str, Handler] = {}

    def add(self, method: str, handler: "Handler", observers: Sequence[CallObserver] = ()) -> None:
        """Offer `/package.Service/Method`.

        `observers` are told of the calls that are refused here. Calls of unknown methods are not observed: a stranger
        chose their names.
        """
        self._handlers[method] = handler
        self._observers[method] = observers

    def service(self, handler_call_details: Details) -> "Handler":  # type: ignore[override]
        """The handler of a call, or one that refuses it.

        An unknown method is UNIMPLEMENTED for everybody: that is how clients find out which services there are.
        """
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        handler = self._handlers.get(method)
        if handler is None:
            return refusal(replace(NOT_OFFERED, trailing_metadata=((REQUEST_ID_KEY, request_id_of(metadata)),)))
        error = self._objection(handler_call_details)
        if error is None:
            return handler
        if cause := cause_of(error):
            self._telemetry.refused(cause)
        return refusal(failure_of(error, method, request_id_of(metadata)), self._observers[method])

    def _objection(self, details: Details) -> Exception | None:
        try:
            for check in self._checks:
                if (error := check(details)) is not None:
                    return error
        except Exception as error:  # grpc.aio would send its text to the caller
            return error
        return None


def refusal(failure: Failure, observers: Sequence[CallObserver] = ()) -> "Handler":
    """A handler that ends a call at once. It is a stream's handler, which decides itself what to read: nothing."""

    async def refuse(_requests: object, context: Any) -> None:
        await abort(context, failure)

    return grpc.stream_stream_rpc_method_handler(observed(refuse, observers))


async def abort(context: Any, failure: Failure) -> None:
    """End a call with a status."""
    try:
        await context.abort(failure.code, failure.text, failure.trailing_metadata)
    except aio.InternalError:
        # The caller has left, or its deadline has passed. grpc would log a traceback for each such call, just when
        # there is no time to lose.
        raise asyncio.CancelledError from None
