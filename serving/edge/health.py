"""grpc.health.v1.Health: whether to send requests here, for load balancers, probes and clients.

The names that a request may ask for:

    ""                           the whole server: every model is ready
    "vaeport.v1.VaeService"      the same, for clients that ask for the service that they call
    "vaeport.v1.VaeService/NAME" one model; no model's name holds a slash, so nothing else has such a name

Check answers NOT_FOUND for any other name. Watch answers SERVICE_UNKNOWN and goes on, as health.proto demands. A server
that stops says NOT_SERVING to every watcher. The streams then end with UNAVAILABLE, which asks watchers to call again.

This stands in for the servicer of grpc_health, which forgets all watchers of a service as soon as one of them leaves,
lets a watcher that does not read hold up all others, and takes any number of them.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterable
from typing import Protocol

from grpc_health.v1 import health_pb2, health_pb2_grpc

from vaeport.errors import InvalidInputError, NotFoundError, OverloadedError, UnavailableError

MAX_WATCHERS = 1000  # beyond this, each connection may still have one: no caller can take all places from the others
RETRY_SECONDS = 10.0  # for a watcher beyond the limit: the others stay long
STOPPING = "this worker is stopping; watch again"
LONGEST_NAME = 256  # characters; a watcher's name is kept as long as it watches

SERVING, NOT_SERVING, SERVICE_UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


class Context(Protocol):
    """The part of a grpc.aio.ServicerContext that is used here."""

    def peer(self) -> str:
        """The connection; on a socket in the file system all connections have the same name."""


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The service. All of it belongs to one loop. Everything is ready until `show` says otherwise.

    Args:
        service: the name of the service that serves the models.
        models: the names of the models.
    """

    def __init__(self, service: str, models: Iterable[str]) -> None:
        self._whole = ("", service)
        self._models = {f"{service}/{model}": model for model in models}
        self._status: dict[str, int] = dict.fromkeys((*self._whole, *self._models), SERVING)
        self._watchers: set[asyncio.Event] = set()  # each is set when there may be news for it
        self._peers: Counter[str] = Counter()  # how many watchers each connection has
        self._shutting_down = False
        self._ended = False

    def show(self, unready: Collection[str]) -> None:
        """Show these models as not ready and the others as ready. The server is ready if all models are: they share the
        device.
        """
        if self._shutting_down:
            return
        self._status |= {name: NOT_SERVING if model in unready else SERVING for name, model in self._models.items()}
        self._status |= dict.fromkeys(self._whole, NOT_SERVING if unready else SERVING)
        self._wake()

    def enter_shutdown(self) -> None:
        """Everything is NOT_SERVING from now on, whatever `show` says."""
        self._shutting_down = True
        self._status |= dict.fromkeys(self._status, NOT_SERVING)
        self._wake()

    def end_streams(self) -> None:
        """End every watch with UNAVAILABLE once it has seen the last status, and refuse new ones.

        Without `enter_shutdown`, this retires a worker whose successor listens on the same port: watchers call again,
        and reach the successor. Clients that balance by health consider a connection without a watch bad, so this
        belongs after the GOAWAY that makes them reconnect.
        """
        self._ended = True
        self._wake()

    def is_ready(self, model: str = "") -> bool:
        """Whether a model is ready; without a name, whether the server is."""
        return self._status[f"{self._whole[1]}/{model}" if model else ""] == SERVING

    async def Check(self, request: health_pb2.HealthCheckRequest, context: object) -> health_pb2.HealthCheckResponse:
        status = self._status.get(request.service)
        if status is None:
            raise NotFoundError(f"service: no {request.service[:LONGEST_NAME]!r} here")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        if len(request.service) > LONGEST_NAME:
            got = f"{len(request.service)}"
            raise InvalidInputError.of("service", expected=f"at most {LONGEST_NAME} characters", got=got)
        if self._ended:  # send no status first: gRPC's own clients call again at once after one
            raise UnavailableError(STOPPING)
        peer = context.peer()
        if len(self._watchers) >= MAX_WATCHERS and self._peers[peer]:
            raise OverloadedError(f"{MAX_WATCHERS} watchers of health are here already", retry_after=RETRY_SECONDS)
        news = asyncio.Event()
        self._watchers.add(news)
        self._peers[peer] += 1
        try:
            sent = None
            while True:
                news.clear()
                status = self._status.get(request.service, SERVICE_UNKNOWN)
                if status != sent:  # a slow reader gets the status of the moment at which it has read the last one
                    sent = status
                    yield health_pb2.HealthCheckResponse(status=status)
                elif self._ended:
                    raise UnavailableError(STOPPING)
                else:
                    await news.wait()
        finally:
            self._watchers.discard(news)
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    def _wake(self) -> None:
        for news in self._watchers:
            news.set()
