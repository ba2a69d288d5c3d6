"""Several requests of one call at a time, in one thread: how many, in what order, and what becomes of them."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

import vaeport
from tests.vaeport.scripted_server import Scripted, answer, fail, scripted
from tests.vaeport.toy_server import described
from vaeport.base_client import IN_FLIGHT
from vaeport.wire import from_tensor

COUNT = 12


def numbered(count: int = COUNT) -> np.ndarray:
    """Images of 0, 1, 2, ..."""
    return np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((2, 2), np.uint8)


def number_of(request: Any) -> int:
    return int(from_tensor("images", request.images).flat[0])


class Gate:
    """A step that holds its calls until they are let go, by number; `inside` are those it holds."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.inside: set[int] = set()
        self.open: set[int] = set()
        self.left: set[int] = set()
        self.most = 0

    def __call__(self, script: Scripted, request: Any, context: grpc.ServicerContext) -> Any:
        number = number_of(request)
        with self.changed:
            self.inside.add(number)
            self.most = max(self.most, len(self.inside))
            if not context.add_callback(lambda: self._leave(number)):  # it has been cancelled already
                self._leave(number)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: number in self.open or number in self.left, 60)
            self.inside.discard(number)
        return answer(script, request, context)

    def _leave(self, number: int) -> None:
        with self.changed:
            self.left.add(number)
            self.inside.discard(number)
            self.changed.notify_all()

    def let_go(self, *numbers: int) -> None:
        with self.changed:
            self.open.update(numbers)
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 60)


def test_a_few_requests_are_under_way_and_results_are_in_order() -> None:
    gate = Gate()
    with scripted(gate) as (address, server), vaeport.Client(address) as client, ThreadPoolExecutor(1) as pool:
        server.info = described("1", max_rows=1)
        call = pool.submit(client.encode, numbered())
        gate.until(lambda: gate.inside == {0, 1, 2, 3})
        gate.let_go(3, 2, 1)  # in another order
        gate.until(lambda: gate.inside == {0})
        gate.let_go(*range(COUNT))
        assert call.result(60).mean[:, 0].tolist() == list(range(COUNT))
        assert gate.most == IN_FLIGHT


def test_the_error_is_that_of_the_first_request_that_fails_and_the_others_are_cancelled() -> None:
    gate = Gate()

    def step(script: Scripted, request: Any, context: grpc.ServicerContext) -> Any:
        number = number_of(request)
        if number == 2:
            fail(grpc.StatusCode.INTERNAL, "the third")(script, request, context)
        if number == 1:
            gate.until(lambda: 3 in gate.inside)
            fail(grpc.StatusCode.NOT_FOUND, "the second")(script, request, context)
        return gate(script, request, context)

    with scripted(step) as (address, server), vaeport.Client(address) as client:
        server.info = described("1", max_rows=1)
        gate.let_go(0)
        with pytest.raises(vaeport.NotFoundError, match="the second"):
            client.encode(numbered())
        gate.until(lambda: 3 in gate.left and not gate.inside)  # a fifth may have begun when the first was answered


def test_each_request_is_tried_again_by_itself() -> None:
    seen: dict[int, int] = {}

    def step(script: Scripted, request: Any, context: grpc.ServicerContext) -> Any:
        number = number_of(request)
        seen[number] = seen.get(number, 0) + 1
        if seen[number] <= number % 3:
            fail(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="10")(script, request, context)
        return answer(script, request, context)

    with scripted(step) as (address, server), vaeport.Client(address) as client:
        server.info = described("1", max_rows=1)
        assert client.encode(numbered()).mean[:, 0].tolist() == list(range(COUNT))
    assert seen == {number: 1 + number % 3 for number in range(COUNT)}


def test_closing_ends_all_of_them() -> None:
    gate = Gate()
    with scripted(gate) as (address, server), ThreadPoolExecutor(1) as pool:
        server.info = described("1", max_rows=1)
        client = vaeport.Client(address, timeout=600)
        call = pool.submit(client.encode, numbered())
        gate.until(lambda: len(gate.inside) == IN_FLIGHT)
        client.close()
        with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
            call.result(60)
        gate.until(lambda: not gate.inside)


def test_closing_ends_those_that_wait_for_their_next_attempt() -> None:
    later = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="100000")
    with scripted(later) as (address, server), ThreadPoolExecutor(1) as pool:
        server.info = described("1", max_rows=1)
        client = vaeport.Client(address, timeout=600)
        began = time.monotonic()
        call = pool.submit(client.encode, numbered())
        while len(server.requests) < IN_FLIGHT:
            time.sleep(0.005)
        client.close()
        with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
            call.result(60)
        assert time.monotonic() - began < 60


def test_a_stream_that_is_left_leaves_nothing_on_the_server() -> None:
    gate = Gate()
    with scripted(gate) as (address, _), vaeport.Client(address) as client, ThreadPoolExecutor(1) as pool:
        stream = client.encode_stream(numbered(), chunk_rows=1)
        first = pool.submit(next, stream)
        gate.until(lambda: gate.inside == {0, 1, 2, 3})
        gate.let_go(0)
        assert first.result(60).mean == 0
        gate.until(lambda: len(gate.inside) == IN_FLIGHT - 1)
        stream.close()  # type: ignore[attr-defined]  # as the end of a `for` does
        gate.until(lambda: not gate.inside)
        assert gate.left >= {1, 2, 3}


def test_many_threads_share_a_client_each_with_a_long_array() -> None:
    with scripted() as (address, server), vaeport.Client(address) as client, ThreadPoolExecutor(8) as pool:
        server.info = described("1", max_rows=1)
        for encoding in pool.map(lambda _: client.encode(numbered(60)), range(16)):
            assert encoding.mean[:, 0].tolist() == list(range(60))
