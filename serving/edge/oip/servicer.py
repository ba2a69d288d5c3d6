"""inference.GRPCInferenceService: read the request, call the core, write the response."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

from serving.core import Core
from serving.edge.deadline import deadline_of, within
from serving.edge.health import HealthServicer
from serving.edge.large_messages import LARGE_BYTES, is_large, on_thread
from serving.edge.oip import grpc_service_pb2 as pb
from serving.edge.oip.requests import read_request
from serving.edge.oip.responses import (
    Make,
    Response,
    config,
    infer_response,
    metadata,
    statistics,
    stream_error,
    stream_response,
    written,
)
from serving.edge.request_id import request_id_of
from serving.edge.status import failure_of
from serving.edge.streams import within_limits
from serving.edge.unread import UnreadAnswers
from serving.graphs import ServedGraph, graph_names
from serving.repository import default_packages
from serving.settings import Settings
from vaeport._version import __version__
from vaeport.errors import InvalidInputError, NotFoundError, PackageError, UnavailableError

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
SLOW_VALUES = 16 * 1024  # of uint_contents, a third of a millisecond: protobuf writes them one by one
WANTS_STATUS = ("triton_grpc_error", "true")


class Context(Protocol):
    """The part of a grpc.aio.ServicerContext that is used here."""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the caller has sent beside the messages."""


class InferenceServicer:
    """The methods. Those that are not here are UNIMPLEMENTED; see serving.edge.oip.service.

    Args:
        core: computes.
        health: knows what is ready.
        settings: the server's settings.
        max_rows: the most rows of one request.
        change: asks for a reload with a model, or without it; None without a supervisor.
        answers: unread answers; streams make no more of them than there is room for.
    """

    def __init__(
        self,
        core: Core,
        health: HealthServicer,
        settings: Settings,
        max_rows: int,
        change: Callable[[str, bool], None] | None,
        answers: UnreadAnswers,
    ) -> None:
        self._core = core
        self._answers = answers
        self._health = health
        self._models = settings.models
        self._max_rows = max_rows
        self._default_model = settings.default_model
        self._change = change
        self._extensions = ["model_configuration"]
        if settings.workers <= 1:  # several workers do not know each other's figures
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
        return await self._infer(request, deadline_of(context), infer_response)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        deadline, sent = deadline_of(context), context.invocation_metadata()
        statuses = WANTS_STATUS in [(key, value) for key, value in sent]

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                return await self._infer(request, deadline, stream_response)
            except Exception as error:
                if statuses:
                    raise
                failure = failure_of(error, STREAM, request_id_of(sent))
                return stream_error(request, f"{failure.code.name}: {failure.text}")

        async with contextlib.aclosing(within_limits(requests, answer, self._answers, context)) as answers:
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
        change = self._changes()
        packages = await asyncio.to_thread(_loadable, self._models)
        change(_package_of(request.model_name, packages), True)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: object
    ) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        change = self._changes()
        packages = [model.name for model in self._core.info("", "")]
        package = _package_of(request.model_name, packages)
        if packages == [package] or package == self._default_model:
            expected = "a model that is neither the only one nor --default-model"
            raise InvalidInputError.of("model_name", expected=expected, got=request.model_name)
        change(package, False)
        return pb.RepositoryModelUnloadResponse()

    def _changes(self) -> Callable[[str, bool], None]:
        """The function that asks for a reload with a model, or without it."""
        if self._change is None:
            raise UnavailableError("this server has no supervisor that could reload it")
        return self._change

    async def _infer(self, request: pb.ModelInferRequest, deadline: float | None, make: Make[Response]) -> Response:
        """Compute, and make the response; a large response is serialised already."""
        graph = self._core.graph(request.model_name, request.model_version)
        if any(_is_slow(tensor) for tensor in request.inputs[:1]):
            wanted = await on_thread(read_request, request, graph.spec)
        else:
            wanted = read_request(request, graph.spec)
        inferred = await self._core.infer(graph, wanted.rows, within(wanted.timeout, deadline))
        if sum(inferred.outputs[index].nbytes for index in wanted.outputs) >= LARGE_BYTES:
            return cast("Response", await on_thread(written, make, inferred, wanted.outputs, request.id))
        return make(inferred, wanted.outputs, request.id)

    def _is_ready(self, graph: ServedGraph) -> bool:
        return self._health.is_ready(graph.info.name)


def _is_slow(tensor: pb.ModelInferRequest.InferInputTensor) -> bool:
    """Whether reading it would hold up the loop."""
    return is_large(tensor.shape) or len(tensor.contents.uint_contents) >= SLOW_VALUES


def _check_repository(name: str) -> None:
    if name:
        raise NotFoundError(f"repository_name: no repository {name!r} here; there is one, without a name")


def _loadable(models: Path) -> list[str]:
    """The packages that a reload could serve now."""
    try:
        return [path.parent.name for path in default_packages(models)]
    except (PackageError, OSError) as error:
        raise NotFoundError(f"model_name: nothing to load: {error}") from error


def _package_of(name: str, packages: Sequence[str]) -> str:
    """The package of that name, or with a graph of that name; its graphs are loaded and unloaded together."""
    names = {each: package for package in packages for each in (package, *graph_names(package))}
    if name not in names:
        raise NotFoundError(f"model_name: no model {name!r}; there is {', '.join(names)}")
    return names[name]
