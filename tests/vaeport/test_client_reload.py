"""The client when another version, or another model, takes the place of the one it knows."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import vaeport
from tests.vaeport.scripted_server import Scripted, answer, fail, scripted
from tests.vaeport.toy_server import described, encoded

SMALL = np.zeros((1, 2, 2), np.uint8)
LARGE = np.zeros((1, 4, 4), np.uint8)


@pytest.fixture
def served() -> Iterator[tuple[vaeport.Client, Scripted]]:
    with scripted() as (address, server), vaeport.Client(address) as client:
        client.encode(SMALL)
        assert server.infos == 1
        yield client, server


Served = tuple[vaeport.Client, Scripted]


def test_what_is_known_is_not_asked_for_again(served: Served) -> None:
    client, server = served
    for _ in range(3):
        client.encode(SMALL)
    assert (client.image_shape, client.latent_dim, server.infos) == ((1, 2, 2), 1, 1)


def test_an_answer_of_another_version_makes_the_client_ask_again(served: Served) -> None:
    client, server = served
    server.info = described("2", max_rows=7)
    assert client.encode(SMALL).version == "2"
    server.requests.clear()
    client.encode(np.zeros((10, 2, 2), np.uint8))
    assert [request.images.shape[0] for request in server.requests] == [7, 3]
    assert server.infos == 2


def test_images_of_a_new_shape_are_taken_once_the_server_takes_them(served: Served) -> None:
    client, server = served
    with pytest.raises(vaeport.InvalidInputError, match=r"\[rows, 1, 2, 2\]"):
        client.encode(LARGE)
    server.info = described("2", (1, 4, 4))
    assert client.encode(LARGE).version == "2"
    with pytest.raises(vaeport.InvalidInputError, match=r"\[rows, 1, 4, 4\]"):
        client.encode(SMALL)


def test_a_smaller_limit_is_kept_after_the_server_refused(served: Served) -> None:
    def refuse(script: Scripted, request: Any, context: grpc.ServicerContext) -> Any:
        if request.images.shape[0] > script.info.limits.max_request_rows:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "images: expected at most 4 rows")
        return answer(script, request, context)

    client, server = served
    server.info, server.steps = described("1", max_rows=4), [refuse]
    assert len(client.encode(np.zeros((10, 2, 2), np.uint8)).mean) == 10


def test_a_refusal_holds_if_the_model_is_still_the_same(served: Served) -> None:
    client, server = served
    server.steps = [fail(grpc.StatusCode.INVALID_ARGUMENT, "images: no")]
    server.requests.clear()
    with pytest.raises(vaeport.InvalidInputError, match="images: no"):
        client.encode(SMALL)
    assert len(server.requests) == 1


def test_bad_input_is_bad_input_without_a_server_too() -> None:
    with scripted() as (address, _):
        client = vaeport.Client(address, timeout=0.5, retries=0)
        client.encode(SMALL)
    with client, pytest.raises(vaeport.InvalidInputError, match="images: expected shape"):
        client.encode(LARGE)


def test_bad_input_does_not_wait_for_a_server_that_is_gone() -> None:
    with scripted() as (address, _):
        client = vaeport.Client(address, timeout=60)
        client.encode(SMALL)
    began = time.monotonic()
    with client:
        for _ in range(2):
            with pytest.raises(vaeport.InvalidInputError, match="images: expected shape"):
                client.encode(LARGE)
        assert client.image_shape == (1, 2, 2)
    assert time.monotonic() - began < 20


def test_bad_input_does_not_wait_for_a_server_that_does_not_answer() -> None:
    over = threading.Event()

    class Mute(Scripted):
        def Info(self, request: Any, context: Any) -> Any:  # noqa: N802
            if self.requests:
                over.wait(60)
            return super().Info(request, context)

    script = Mute(answer)  # type: ignore[abstract]
    with scripted(script=script) as (address, _), vaeport.Client(address, timeout=60) as client:
        client.encode(SMALL)
        began = time.monotonic()
        with pytest.raises(vaeport.InvalidInputError, match="images: expected shape"):
            client.encode(LARGE)
        assert time.monotonic() - began < 20
        over.set()


def version(number: str) -> Any:
    return lambda script, request, context: encoded(request, number)


def test_one_call_is_answered_by_one_version(served: Served) -> None:
    client, server = served
    server.info = described("1", max_rows=1)
    client.info()
    server.steps = [version("1"), version("2"), version("2")]
    server.requests.clear()
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    encoding = client.encode(images)
    assert encoding.version == "2"
    assert encoding.mean[:, 0].tolist() == [0, 1, 2]
    assert len(server.requests) == 6


def test_versions_that_never_agree_are_an_error(served: Served) -> None:
    client, server = served
    server.info = described("1", max_rows=1)
    client.info()
    server.steps = [version(number) for number in "12" * 10]
    with pytest.raises(vaeport.UnavailableError, match="the model changed during the call, 3 times"):
        client.encode(np.zeros((2, 2, 2), np.uint8))


def test_info_is_always_asked_for_and_remembered(served: Served) -> None:
    client, server = served
    server.info = described("2", (1, 4, 4))
    assert client.image_shape == (1, 2, 2)
    client.info()
    assert client.image_shape == (1, 4, 4)
    assert server.infos == 2
