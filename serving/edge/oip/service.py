"""Adds inference.GRPCInferenceService to a server, as generated code does for services of the default pool."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from serving.edge.door import abort
from serving.edge.oip.grpc_service_pb2 import DESCRIPTOR
from serving.edge.oip.servicer import InferenceServicer
from serving.edge.request_id import request_id_of
from serving.edge.status import Failure
from vaeport.wire import REQUEST_ID_KEY

if TYPE_CHECKING:
    from serving.edge.door import Handler

_SERVICE = DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE: str = _SERVICE.full_name

NO_SHARED_MEMORY = "no shared memory here: send tensors in the messages"
NO_SETTINGS = "not set over the network: see --traces, --log-format and --log-calls of the server"
NOT_HERE = {
    **dict.fromkeys([f"SystemSharedMemory{what}" for what in ("Status", "Register", "Unregister")], NO_SHARED_MEMORY),
    **dict.fromkeys([f"CudaSharedMemory{what}" for what in ("Status", "Register", "Unregister")], NO_SHARED_MEMORY),
    **dict.fromkeys(["TraceSetting", "LogSettings"], NO_SETTINGS),
}
"""Methods of the protocol that are UNIMPLEMENTED, and what the caller is told."""


class Server(Protocol):
    """The part of a grpc.aio.Server, or of the guard that stands in for it, that is used here."""

    def add_registered_method_handlers(self, service: str, handlers: "dict[str, Handler]") -> None:
        """Offer the methods of a service."""


def add_to_server(servicer: InferenceServicer, server: Server) -> None:
    """Offer every method of the protocol."""
    server.add_registered_method_handlers(
        SERVICE, {method.name: _handler(method, servicer) for method in _SERVICE.methods}
    )


def _handler(method: MethodDescriptor, servicer: InferenceServicer) -> "Handler":
    refusal = NOT_HERE.get(method.name)
    answer = getattr(servicer, method.name) if refusal is None else _refuse_with(refusal)
    streaming = method.name == "ModelStreamInfer"  # not every implementation of protobuf has it in descriptors
    make: Any = grpc.stream_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
    request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
    handler: Handler = make(answer, request.FromString, response.SerializeToString)
    return handler


def _refuse_with(text: str) -> Callable[[object, Any], Awaitable[None]]:
    async def refuse(_request: object, context: Any) -> None:
        request_id = request_id_of(context.invocation_metadata())
        await abort(context, Failure(grpc.StatusCode.UNIMPLEMENTED, text, ((REQUEST_ID_KEY, request_id),)))

    return refuse
