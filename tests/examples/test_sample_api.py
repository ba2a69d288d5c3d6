"""The web service with a real vaeport server behind it: pictures, refusals, health."""

import io
from collections.abc import AsyncIterator

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

import vaeport
from examples.sample_api import MAX_COUNT, STATUSES, create_app
from tests.support import ServerProcess
from vaeport.pictures import grid
from vaeport.testing import AsyncFakeClient


def asking(app: FastAPI) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")


@pytest.fixture
async def app(server: ServerProcess) -> AsyncIterator[FastAPI]:
    """The service, started: httpx's transport leaves that to others."""
    app = create_app(server.address)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def web(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with asking(app) as web:
        yield web


async def test_samples_are_the_servers_as_one_png(web: httpx2.AsyncClient, server: ServerProcess) -> None:
    answer = await web.get("/samples", params={"count": 4, "seed": 7})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    with vaeport.Client(server.address) as client:
        expected = grid(client.sample(4, seed=7), columns=2, tile=(64, 64))
    with Image.open(io.BytesIO(answer.content)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


async def test_without_a_seed_each_picture_is_another(web: httpx2.AsyncClient) -> None:
    first, second = [(await web.get("/samples")).content for _ in range(2)]
    assert first != second


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0},
        {"count": MAX_COUNT + 1},
        {"count": "x"},
        {"seed": -1},
        {"seed": 2**64},
        {"temperature": -1},
        {"temperature": "nan"},
    ],
)
async def test_what_cannot_be_drawn_is_422_and_says_why(web: httpx2.AsyncClient, wrong: dict[str, int | str]) -> None:
    answer = await web.get("/samples", params=wrong)
    assert answer.status_code == 422
    assert next(iter(wrong)) in answer.text


async def test_health_names_the_models(web: httpx2.AsyncClient) -> None:
    answer = await web.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"digits": "1"})


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (vaeport.OverloadedError("full", retry_after=1.2), 503, "2"),
        (vaeport.OverloadedError("full"), 503, "1"),
        (vaeport.UnavailableError("away"), 503, "1"),
        (vaeport.DeadlineExceededError("late"), 504, None),
        (vaeport.InternalError("a defect"), 502, None),
        (vaeport.UnauthenticatedError("who?"), 502, None),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("route", ["/samples", "/healthz"])
async def test_errors_of_the_server_are_statuses(
    app: FastAPI,
    web: httpx2.AsyncClient,
    route: str,
    error: vaeport.VaeportError,
    status: int,
    retry_after: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app.state.client = AsyncFakeClient()
    app.state.client.fail_next(error)
    answer = await web.get(route)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert str(error) not in answer.text
    assert str(error) in caplog.text


async def test_a_server_that_is_not_there_makes_it_unhealthy() -> None:
    app = create_app("127.0.0.1:1")
    async with app.router.lifespan_context(app), asking(app) as web:
        assert (await web.get("/healthz")).status_code == 503


def test_no_status_is_hidden_by_one_before_it() -> None:
    kinds = list(STATUSES)
    assert not [(a, b) for i, a in enumerate(kinds) for b in kinds[i + 1 :] if issubclass(b, a)]
