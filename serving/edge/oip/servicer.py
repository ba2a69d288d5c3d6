"""inference.GRPCInferenceService: read the request, call the core, write the response."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from serving.core import Core
from serving.edge.deadline import deadline_of, within
from serving.edge.health import HealthServicer
from serving.edge.oip import grpc_service_pb2 as pb
from serving.edge.oip.requests import read_request
from serving.edge.oip.responses import config, infer_response, metadata, statistics, stream_error, stream_response
from serving.edge.request_id import request_id_of
from serving.edge.status import failure_of
from serving.edge.streams import IN_FLIGHT, in_order
from serving.graphs import ServedGraph, graph_names
from serving.repository import default_packages
from serving.settings import Settings
from vaeport._version import __version__
from vaeport.errors import InvalidInputError, NotFoundError, PackageError, UnavailableError

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
WANTS_STATUS = ("triton_grpc_error", "true")


class Context(Protocol):
    """What is needed of a grpc.aio.ServicerContext."""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the caller has sent beside the messages."""


class InferenceServicer:
    """The methods. Those that are not here are UNIMPLEMENTED; see serving.edge.oip.service.

    Args:
        core: computes.
        health: knows what is ready.
        settings: of the server.
        max_rows: of one request.
        reload: asks for a reload of the server; None where nobody could do it.
    """

    def __init__(
        self,
        core: Core,
        health: HealthServicer,
        settings: Settings,
        max_rows: int,
        reload: Callable[[], None] | None,
    ) -> None:
        self._core = core
        self._health = health
        self._models = settings.models
        self._max_rows = max_rows
        self._reload = reload
        self._extensions = ["model_configuration"]
        if settings.workers <= 1:  # several do not know each other's figures
            self._extensions.append("statistics")

    async def ServerLive(self, request: pb.ServerLiveRequest, context: object) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: object) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._health.is_ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: object) -> pb.ModelReadyResponse:
        try:
            graph = self._core.graph(request.name, request.version)
        except NotFoundError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_ready(graph))

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: object) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="vaeport", version=__version__, extensions=self._extensions)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: object) -> pb.ModelMetadataResponse:
        return metadata(self._core.graph(request.name, request.version))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: object) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=config(self._core.graph(request.name, request.version), self._max_rows))

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: object) -> pb.ModelStatisticsResponse:
        everything = not request.name and not request.version
        graphs = self._core.graphs() if everything else [self._core.graph(request.name, request.version)]
        return pb.ModelStatisticsResponse(model_stats=[statistics(graph) for graph in graphs])

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        return await self._infer(request, deadline_of(context))

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        deadline, sent = deadline_of(context), context.invocation_metadata()
        statuses = WANTS_STATUS in [(key, value) for key, value in sent]

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                return stream_response(await self._infer(request, deadline))
            except Exception as error:
                if statuses:
                    raise
                failure = failure_of(error, STREAM, request_id_of(sent))
                return stream_error(request, f"{failure.code.name}: {failure.text}")

        async with contextlib.aclosing(in_order(requests, answer, IN_FLIGHT)) as answers:
            async for one in answers:
                yield one

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: object) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        models = []
        for graph in self._core.graphs():
            ready = self._is_ready(graph)
            if ready or not request.ready:
                state, reason = ("READY", "") if ready else ("UNAVAILABLE", "its canary fails, or the server stops")
                model = pb.RepositoryIndexResponse.ModelIndex(name=graph.name, version=graph.info.version)
                model.state, model.reason = state, reason
                models.append(model)
        return pb.RepositoryIndexResponse(models=models)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: object
    ) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        if request.parameters:
            expected = "none: models come from their folder alone"
            raise InvalidInputError.of("parameters", expected=expected, got=f"{len(request.parameters)}")
        if self._reload is None:
            raise UnavailableError("nobody is here to reload this server")
        names = await asyncio.to_thread(_loadable, self._models)
        if request.model_name not in names:
            raise NotFoundError(f"model_name: no model {request.model_name!r} to load; there is {', '.join(names)}")
        self._reload()
        return pb.RepositoryModelLoadResponse()

    async def _infer(self, request: pb.ModelInferRequest, deadline: float | None) -> pb.ModelInferResponse:
        graph = self._core.graph(request.model_name, request.model_version)
        wanted = read_request(request, graph.spec)
        inferred = await self._core.infer(graph, wanted.rows, within(wanted.timeout, deadline))
        return infer_response(inferred, wanted.outputs, request.id)

    def _is_ready(self, graph: ServedGraph) -> bool:
        return self._health.is_ready(graph.info.name)


def _check_repository(name: str) -> None:
    if name:
        raise NotFoundError(f"repository_name: no repository {name!r} here; there is one, without a name")


def _loadable(models: Path) -> list[str]:
    """What a reload would serve now: each package, and its graphs."""
    try:
        packages = [path.parent.name for path in default_packages(models)]
    except (PackageError, OSError) as error:
        raise NotFoundError(f"model_name: nothing to load: {error}") from error
    return [name for package in packages for name in (package, *graph_names(package))]
