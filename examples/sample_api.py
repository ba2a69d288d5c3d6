"""A web service that draws samples: GET /samples gives a PNG of images that a vaeport server drew.

    VAEPORT_SERVER=localhost:50051 uvicorn --factory examples.sample_api:from_environment
    curl -o samples.png 'http://localhost:8000/samples?count=16&seed=7'

All requests share one `vaeport.AsyncClient`: many calls go over its connection at a time, and what a server that
restarts leaves unanswered is sent again. What goes wrong there becomes a status that browsers, proxies and load
balancers understand (`STATUSES`). /healthz is 200 while samples can be had. /docs describes it all, thanks to FastAPI.

For your own use: `MAX_COUNT` and `TIMEOUT_SECONDS` bound what one request may cost; `samples` is the place for other
parameters, and for another format; a server with TLS or a token is named in `create_app`. The body of a request for
images would be `await request.body()`, opened by Pillow and passed to `client.reconstruct` or `client.score`.
"""

import asyncio
import io
import logging
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

import vaeport
from vaeport.pictures import grid

MAX_COUNT = 256
TIMEOUT_SECONDS = 5.0
TILE = (64, 64)  # pixels, height and width, of each image in the picture
RETRY_SECONDS = 1  # when the server does not say

STATUSES: dict[type[vaeport.VaeportError], int] = {  # the first that fits
    vaeport.InvalidInputError: 422,
    vaeport.NotFoundError: 503,  # our server has lost its model; the caller has done nothing wrong
    vaeport.OverloadedError: 503,
    vaeport.UnavailableError: 503,
    vaeport.DeadlineExceededError: 504,
    vaeport.VaeportError: 502,
}

router = APIRouter()
log = logging.getLogger("sample_api")


def from_environment() -> FastAPI:
    """The service in front of the server that VAEPORT_SERVER names; for uvicorn."""
    return create_app(os.environ.get("VAEPORT_SERVER", "localhost:50051"))


def create_app(server: str) -> FastAPI:
    """The service in front of a vaeport server, "host:port"."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with vaeport.AsyncClient(server, timeout=TIMEOUT_SECONDS) as client:
            app.state.client = client
            yield

    app = FastAPI(title="Samples", lifespan=lifespan)
    app.include_router(router)
    app.add_exception_handler(vaeport.VaeportError, refuse)
    return app


async def client_of(request: Request) -> vaeport.AsyncClient:
    """The one that the service has opened when it started."""
    client: vaeport.AsyncClient = request.app.state.client
    return client


Client = Annotated[vaeport.AsyncClient, Depends(client_of)]


class PNG(Response):
    """A picture."""

    media_type = "image/png"


@router.get("/samples", response_class=PNG)
async def samples(
    client: Client,
    count: Annotated[int, Query(ge=1, le=MAX_COUNT)] = 16,
    seed: int | None = None,
    temperature: float = 1.0,
) -> PNG:
    """A PNG with `count` images side by side. The same seed gives the same picture; without one, each is another."""
    images = await client.sample(count, seed=seed, temperature=temperature)
    return PNG(await asyncio.to_thread(png, images))


@router.get("/healthz")
async def healthz(client: Client) -> dict[str, str]:
    """The models that can draw, and their versions."""
    return {model.name: model.version for model in (await client.info()).models}


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """What went wrong, as HTTP says it; a 503 with the seconds after which to come back.

    Callers read what is wrong with their request. The rest names our machines, and goes to our log.
    """
    status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
    if status < 500:
        return JSONResponse({"detail": str(error)}, status)
    log.warning("%s: %s", type(error).__name__, error)
    wait = getattr(error, "retry_after", None) or RETRY_SECONDS
    headers = {"Retry-After": str(math.ceil(wait))} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse({"detail": HTTPStatus(status).phrase}, status, headers)


def png(images: NDArray[np.float32]) -> bytes:
    """Images [N, C, H, W] as one PNG, about square."""
    file = io.BytesIO()
    grid(images, math.ceil(math.sqrt(len(images))), TILE).save(file, "PNG")
    return file.getvalue()
