"""One layer around every method of every service on the port, health and reflection included.

It turns bytes that do not parse into INVALID_ARGUMENT (grpc.aio alone would answer UNKNOWN) and errors into the
statuses of serving.edge.status, so that no traceback leaves the process. While the server drains, new calls are
refused, but for those that ask for its health.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
from grpc import aio

from serving.edge.status import Failure, failure_of
from vaeport.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]  # subscriptable in the stubs alone

HEALTH = "/grpc.health.v1.Health/"
OURS = "/vaeport."

Behaviour = Callable[[Any, Any], Any]


class GuardedServer:
    """Stands in for a `grpc.aio.Server` while services are added to it; each method goes through the guard."""

    def __init__(self, server: aio.Server) -> None:
        self._server = server
        self._draining = asyncio.Event()
        self._active = 0  # calls that are being answered, as far as a drain waits for them
        self._idle = asyncio.Event()
        self._idle.set()

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Generated code registers every service twice; the other call names the methods, so it is the one to wrap."""

    def add_registered_method_handlers(self, service: str, handlers: "Mapping[str, Handler]") -> None:
        """Called by generated code with the methods of one service."""
        guarded = {name: self._guard(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))

    def refuse(self) -> None:
        """Refuse new calls with UNAVAILABLE from now on; streams, of requests or responses, end after the next one."""
        self._draining.set()

    async def drain(self, grace: float) -> bool:
        """Wait until the accepted calls are answered, `grace` seconds at most; whether they are.

        Streams of health and reflection are not waited for: a watcher never ends.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        return self._idle.is_set()

    def _guard(self, method: str, handler: Any) -> "Handler":
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        behaviour: Behaviour = getattr(handler, kind)
        if handler.request_streaming:
            behaviour = _parsed_requests(behaviour, self._draining)
        counted = not handler.response_streaming or method.startswith(OURS)
        never = asyncio.Event()
        answer = _stream(behaviour, self._draining if counted else never) if handler.response_streaming else behaviour

        async def guarded(request: Any, context: Any) -> Any:
            if counted:
                self._enter()
            try:
                if self._draining.is_set() and not method.startswith(HEALTH):  # which says NOT_SERVING by itself
                    raise UnavailableError("the server is draining")
                if type(request) is _Malformed:
                    raise request.error
                return await answer(request, context)
            except aio.AbortError:
                raise  # a servicer has chosen its own status
            except Exception as error:
                await _abort(context, failure_of(error, method))

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return cast("Handler", make(guarded, _lenient(handler.request_deserializer), handler.response_serializer))

    def _enter(self) -> None:
        self._active += 1
        self._idle.clear()
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(self._leave)  # its answer has been sent then; it has not when the handler returns

    def _leave(self, _task: object) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()


async def _abort(context: Any, failure: Failure) -> None:
    try:
        await context.abort(failure.code, failure.text, failure.trailing_metadata)
    except aio.InternalError:  # the caller has left, or its deadline has passed; grpc would log that with a traceback,
        raise asyncio.CancelledError from None  # for each such call, just when there is no time to lose


class _Malformed:
    """What a deserialiser returns in place of a message, since raising there would end in UNKNOWN."""

    __slots__ = ("error",)

    def __init__(self, error: InvalidInputError) -> None:
        self.error = error


def _lenient(deserialise: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def lenient(data: bytes) -> Any:
        try:
            return deserialise(data)
        except Exception as error:  # protobuf's DecodeError, or whatever another parser raises
            return _Malformed(InvalidInputError(f"the request does not parse: {error}"))

    return lenient


def _parsed_requests(behaviour: Behaviour, draining: asyncio.Event) -> Behaviour:
    async def parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        stop = asyncio.ensure_future(draining.wait())
        try:
            while (request := await _next(requests, stop)) is not _END:
                if type(request) is _Malformed:
                    raise request.error
                yield request
        finally:
            stop.cancel()

    return lambda requests, context: behaviour(parsed(requests), context)


_END = object()


async def _next(requests: AsyncIterator[Any], stop: asyncio.Future[Any]) -> Any:
    """The next request, or _END. While the caller sends none, the drain is noticed, too."""
    coming = asyncio.ensure_future(anext(requests, _END))
    try:
        await asyncio.wait((coming, stop), return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        raise UnavailableError("the server is draining")
    finally:
        coming.cancel()


def _stream(behaviour: Behaviour, ending: asyncio.Event) -> Callable[[Any, Any], Awaitable[None]]:
    """Responses of an async generator, until it is `ending`, or of a coroutine that writes to the context itself."""

    async def stream(request: Any, context: Any) -> None:
        responses = behaviour(request, context)
        if inspect.isawaitable(responses):
            await responses
            return
        async with contextlib.aclosing(responses):  # now, not when it is collected
            async for response in responses:
                await context.write(response)
                if ending.is_set():
                    raise UnavailableError("the server is stopping: this stream ends here")

    return stream


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
