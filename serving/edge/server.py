"""The gRPC server of one worker: all services on one port."""

import asyncio
from collections.abc import Callable, Sequence
from math import prod
from typing import cast

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.core import Core
from serving.edge.access_control import AccessControl
from serving.edge.credentials import caller_of
from serving.edge.grpc_log import keep_strangers_out_of_the_log
from serving.edge.guard import GuardedServer
from serving.edge.health import HealthServicer
from serving.edge.http2 import server_options
from serving.edge.oip import InferenceServicer, add_to_server
from serving.edge.oip import grpc_service_pb2 as inference_pb2
from serving.edge.port import Port
from serving.edge.reflection import reflection_servicer
from serving.edge.servicer import VaeServicer
from serving.edge.unread import UnreadAnswers
from serving.settings import Settings
from serving.telemetry import SILENT, Telemetry
from vaeport.results import ModelInfo
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import MAX_MESSAGE_BYTES

VAE_SERVICE = vae_pb2.DESCRIPTOR.services_by_name["VaeService"].full_name
NEWS_SECONDS = 0.1  # until the watchers of the health have received a change
AGED = 1.1  # gRPC spreads the ages of connections by a tenth (proposal A9)
FLUSH_SECONDS = 0.5  # for responses on their way; endless streams are cut after it
PLAIN = Settings()  # on loopback: no TLS, no tokens, no limits of callers
ANSWER_SHARES = 4  # how many callers must read nothing until all callers have to wait
FRAME_BYTES = 64 * 1024  # room in a message for everything that is not tensor data


class Edge:
    """The services of a core on an address, from `start` to `stop` or `leave`.

    Args:
        core: answers the calls.
        address: "HOST:PORT", or "unix:PATH".
        settings: TLS, tokens, limits of callers and of connections.
        telemetry: is told of every call.
        change: asks for a reload with a model, or without it; None without a supervisor.

    Attributes:
        health: which models are ready.

    Raises:
        SettingsError: certificate, key or tokens cannot be used, or the address cannot be bound.
    """

    def __init__(
        self,
        core: Core,
        address: str,
        settings: Settings = PLAIN,
        telemetry: Telemetry = SILENT,
        *,
        change: Callable[[str, bool], None] | None = None,
    ) -> None:
        self._max_age = settings.max_connection_age_seconds
        limits = request_limits(core)
        keep_strangers_out_of_the_log()
        self.access_control = AccessControl(settings)
        self._server = aio.server(options=server_options(settings, limits.max_request_bytes))
        answers = answers_of(settings)
        self._guard = GuardedServer(
            self._server,
            self.access_control.checks(),
            self.access_control.peers,
            settings.log_calls,
            telemetry,
            answers,
        )
        self.health = HealthServicer(VAE_SERVICE, [model.name for model in core.info("", "")])
        guarded = cast("aio.Server", self._guard)
        vae_pb2_grpc.add_VaeServiceServicer_to_server(VaeServicer(core, limits, answers), guarded)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, guarded)
        servicer = InferenceServicer(core, self.health, settings, limits.max_request_rows, change, answers)
        add_to_server(servicer, self._guard)
        described = (module.DESCRIPTOR for module in (vae_pb2, inference_pb2, health_pb2, reflection_pb2))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection_servicer(described), guarded
        )
        self._port = Port(self._server, address, self.access_control.server_credentials(), settings.mode_of_socket)
        self._renewal: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answer calls."""
        await self._server.start()
        self._port.publish()
        self._renewal = asyncio.create_task(self.access_control.keep_current())

    @property
    def calls(self) -> int:
        """How many calls are being answered."""
        return self._guard.active

    async def stop(self, grace: float, lame_duck: float = 0.0) -> None:
        """Turn not ready, and close.

        Args:
            grace: seconds for the accepted calls, while new ones are refused with UNAVAILABLE.
            lame_duck: seconds before that, in which calls are still taken, while watchers of the health send theirs
                elsewhere.
        """
        self.health.enter_shutdown()
        await asyncio.sleep(max(lame_duck, min(grace, NEWS_SECONDS)))
        self._guard.refuse()
        await self._guard.drain(grace)
        self.health.end_streams()
        self._port.cut()  # newer calls get UNAVAILABLE; if gRPC ended them, they would get CANCELLED
        await self._server.stop(min(grace, FLUSH_SECONDS))
        self._end()

    async def leave(self, grace: float) -> None:
        """Close, now that others listen on the same address: callers are asked to reconnect, and no call is refused.

        gRPC asks in two ways. A connection that has reached its maximum age loses no call. One that the server closes
        loses the calls that are on their way at that moment: they end as CANCELLED. So younger connections are waited
        for.

        Args:
            grace: seconds for the calls that remain then. Streams that take longer end after their next message.
        """
        await self._port.close()
        await self._port.emptied(AGED * self._max_age)
        closing = asyncio.create_task(self._server.stop(grace + FLUSH_SECONDS))
        self.health.end_streams()
        if not await self._guard.drain(grace):
            self._guard.refuse()
            await self._guard.drain(FLUSH_SECONDS)
        await self._server.stop(min(grace, FLUSH_SECONDS))
        await closing
        self._end()

    def _end(self) -> None:
        self._port.withdraw()
        if self._renewal is not None:
            self._renewal.cancel()


def answers_of(settings: Settings) -> UnreadAnswers:
    """Unread answers may take as many bytes as waiting requests may, and those of one caller a part of that."""
    most = settings.max_queue_bytes
    return UnreadAnswers(most, settings.max_bytes_per_peer or max(1, most // ANSWER_SHARES), caller_of)


def rows_of_a_message(models: Sequence[ModelInfo], most: int) -> int:
    """The most rows of a request: `most`, or as many as fit into a message, the request or its answer.

    gRPC and protobuf take messages of up to 2 GiB.
    """
    return min(most, (MAX_MESSAGE_BYTES - FRAME_BYTES) // _answer_row_bytes(models))


def request_limits(core: Core) -> vae_pb2.Limits:
    """What one request may hold, by the shapes of the models: no valid message can be larger."""
    models = core.info("", "")
    rows = rows_of_a_message(models, core.max_request_rows)
    return vae_pb2.Limits(max_request_rows=rows, max_request_bytes=rows * _row_bytes(models) + FRAME_BYTES)


def _row_bytes(models: Sequence[ModelInfo]) -> int:
    return max(4 * max(prod(model.image_shape), model.latent_dim) for model in models)


def _answer_row_bytes(models: Sequence[ModelInfo]) -> int:
    """Bytes of a row in the largest answer, which has more than its request.

    That is all that the decoder gives, images with their latents, or posteriors with draws of them.
    """
    sizes = ((prod(model.image_shape), model.latent_dim) for model in models)
    return max(4 * max(2 * image, image + latent, 3 * latent) for image, latent in sizes)
