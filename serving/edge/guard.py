"""One layer around every method of every service on the port, health and reflection included.

It turns bytes that do not parse into INVALID_ARGUMENT (grpc.aio alone would answer UNKNOWN) and errors, also those of
serialising an answer, into the statuses of serving.edge.status, so that no traceback leaves the process. While the
server drains, new calls are refused, except those that ask for its health. The calls and bytes of each caller are
counted here, if they are limited: at the door it is not known yet where a call comes from.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import grpc
from grpc import aio

from serving.edge.call_log import CallLog, LogCalls
from serving.edge.credentials import caller_of
from serving.edge.door import Check, Details, Door, abort
from serving.edge.large_messages import LARGE_BYTES, Written, on_thread
from serving.edge.observed import CallObserver, observed
from serving.edge.peers import Hold, Peers
from serving.edge.refusals import DrainingError, cause_of
from serving.edge.request_id import request_id_of
from serving.edge.status import failure_of
from serving.edge.unread import UnreadAnswers
from serving.telemetry import SILENT, Telemetry
from vaeport.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from serving.edge.door import Handler

HEALTH = "/grpc.health.v1.Health/"
OURS = ("/vaeport.", "/inference.")

Behaviour = Callable[[Any, Any], Any]


class GuardedServer:
    """Stands in for a `grpc.aio.Server` while services are added to it; each method goes through the guard.

    Args:
        server: the real one, which gets a single handler: the door.
        checks: the door's checks, besides the one whether the server drains.
        peers: the limits of each caller; None means no limit.
        answers: the limits of bytes of unread answers; None means no limit.
        log_calls: which calls are logged.
        telemetry: is told of every call of a known method, and of refusals.
    """

    def __init__(
        self,
        server: aio.Server,
        checks: Sequence[Check] = (),
        peers: Peers | None = None,
        log_calls: LogCalls = "none",
        telemetry: Telemetry = SILENT,
        answers: UnreadAnswers | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._answers = answers
        self._door = Door([self._check_draining, *checks], telemetry)
        self._peers = peers
        self._log_calls = log_calls
        server.add_generic_rpc_handlers((self._door,))
        self._draining = asyncio.Event()
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing. Generated code registers a service twice; the other call names the methods, and is wrapped."""

    def add_registered_method_handlers(self, service: str, handlers: "Mapping[str, Handler]") -> None:
        """Called by generated code with the methods of one service."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            observers = self._observers(method)
            self._door.add(method, self._guard(method, handler, observers), observers)

    @property
    def active(self) -> int:
        """Calls that are being answered, as far as a drain waits for them."""
        return self._active

    def refuse(self) -> None:
        """Refuse new calls with UNAVAILABLE from now on; streams end after their next request or response."""
        self._draining.set()

    async def drain(self, grace: float) -> bool:
        """Wait at most `grace` seconds until the accepted calls are answered; returns whether they are.

        Streams of health and reflection are not waited for: a watcher never ends.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        return self._idle.is_set()

    def _check_draining(self, details: Details) -> UnavailableError | None:
        if self._draining.is_set() and not details.method.startswith(HEALTH):  # which says NOT_SERVING by itself
            return DrainingError()
        return None

    def _observers(self, method: str) -> list[CallObserver]:
        lines = [] if self._log_calls == "none" else [CallLog(method, self._log_calls)]
        return [*self._telemetry.of_method(method), *lines]

    def _guard(self, method: str, handler: Any, observers: Sequence[CallObserver]) -> "Handler":
        kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        behaviour: Behaviour = getattr(handler, kind)
        streaming = handler.response_streaming
        parse, serialise = handler.request_deserializer, _writer(handler.response_serializer)
        counted = not streaming or method.startswith(OURS)
        never = asyncio.Event()
        answer = behaviour
        of_health = method.startswith(HEALTH)
        peers, answers = (None, None) if of_health else (self._peers, self._answers)
        if streaming:
            answer = _stream(behaviour, serialise, self._draining if counted else never, answers)

        async def guarded(request: Any, context: Any) -> Any:
            if counted:
                self._enter()
            hold = None
            try:
                if self._draining.is_set() and not of_health:  # the drain began after the call had passed the door
                    raise DrainingError()
                if answers is not None:
                    answers.check(context)
                if peers is not None:
                    hold = peers.enter(caller_of(context))
                if handler.request_streaming:
                    request = _parsed(parse, request, self._draining, hold)
                else:
                    request = await _message(parse, request, hold)
                response = await answer(request, context)
                if not streaming:
                    response = serialise(response)
                    if answers is not None:
                        answers.send(context, len(response))
                return response
            except aio.AbortError:
                raise  # a servicer has chosen its own status
            except aio.InternalError:
                raise asyncio.CancelledError from None  # the caller has gone; grpc logs nothing for a cancelled call
            except Exception as error:
                if cause := cause_of(error):
                    self._telemetry.refused(cause)
                await abort(context, failure_of(error, method, request_id_of(context.invocation_metadata())))
            finally:
                if hold is not None:
                    hold.end()

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        watched = observed(guarded, observers)
        # gRPC takes and gives plain bytes: an error inside its own conversion would escape as UNKNOWN, with its text.
        return cast("Handler", make(watched))

    def _enter(self) -> None:
        self._active += 1
        self._idle.clear()
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(self._leave)  # when the task is done its answer has been sent, unlike when we return

    def _leave(self, _task: object) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()


def _writer(serialise: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A function that serialises a message, unless that has been done already."""

    def write(response: Any) -> bytes:
        return response.data if type(response) is Written else serialise(response)

    return write


async def _message(parse: Callable[[bytes], Any], data: bytes, hold: Hold | None) -> Any:
    if hold is not None:
        hold.take(len(data))
    try:
        return parse(data) if len(data) < LARGE_BYTES else await on_thread(parse, data)
    except Exception as error:  # protobuf's DecodeError, or whatever another parser raises
        raise InvalidInputError(f"the request does not parse: {error}") from None


async def _parsed(
    parse: Callable[[bytes], Any], requests: AsyncIterator[bytes], draining: asyncio.Event, hold: Hold | None
) -> AsyncIterator[Any]:
    stop = asyncio.ensure_future(draining.wait())
    try:
        while (request := await _next(requests, stop)) is not _END:
            yield await _message(parse, request, hold)
    finally:
        stop.cancel()


_END: Any = object()


async def _next(requests: AsyncIterator[Any], stop: asyncio.Future[Any]) -> Any:
    """The next request, or _END. A drain is noticed even while the caller sends nothing."""
    coming = asyncio.ensure_future(anext(requests, _END))
    try:
        await asyncio.wait((coming, stop), return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        raise UnavailableError("the server is draining")
    finally:
        coming.cancel()


def _stream(
    behaviour: Behaviour, serialise: Callable[[Any], bytes], ending: asyncio.Event, answers: UnreadAnswers | None
) -> Callable[[Any, Any], Awaitable[None]]:
    """A handler that writes the responses of an async generator one by one, until `ending` is set."""

    async def stream(request: Any, context: Any) -> None:
        async with contextlib.aclosing(behaviour(request, context)) as responses:  # close now, not at collection
            async for response in responses:
                data = serialise(response)
                with answers.held(context, len(data)) if answers is not None else contextlib.nullcontext():
                    await context.write(data)
                if ending.is_set():
                    raise UnavailableError("the server is stopping: this stream ends here")

    return stream


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
