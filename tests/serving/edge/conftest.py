"""Edges with toy models on free ports, as the settings of a test say."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from serving.core import Core
from serving.edge import Edge
from serving.settings import Settings
from tests.serving.test_edge import free_address
from tests.serving.toys import toy_model

StartEdge = Callable[..., Awaitable[str]]


@pytest.fixture
async def start_edge() -> AsyncIterator[StartEdge]:
    """Start one, and return its address; it is stopped with the test."""
    core = Core([toy_model()], max_request_rows=1024)
    edges: list[Edge] = []

    async def start(settings: Settings, address: str = "") -> str:
        address = address or free_address()
        edges.append(Edge(core, address, settings))
        await edges[-1].start()
        return address

    yield start
    for edge in edges:
        await edge.stop(0)
    await core.close()
