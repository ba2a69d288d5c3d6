"""The client when servers fail: real ones, in threads with a script, and in processes that are killed and stopped."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import grpc
import numpy as np
import pytest
from grpc_health.v1.health import HealthServicer

import vaeport
from tests.vaeport.scripted_server import Scripted, Step, answer, fail, scripted
from tests.vaeport.toy_server import ToyProcess

CALLERS = 8
IMAGE = np.full((1, 2, 2), 255, np.uint8)
FULL = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", grpc_retry_pushback_ms="20")
GONE = fail(grpc.StatusCode.UNAVAILABLE, "draining")


def encode(client: vaeport.Client) -> float:
    return float(client.encode(IMAGE).mean[0, 0])


class Load:
    """Callers who never pause; `errors` is what went wrong, and `answers` how often it did not."""

    def __init__(self, client: vaeport.Client) -> None:
        self._client, self._stop = client, threading.Event()
        self.answers, self.errors = 0, list[Exception]()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a call hangs"

    def wait_for_answers(self, count: int = 200) -> None:
        """Until there are so many more."""
        enough, end = self.answers + count, time.monotonic() + 60
        while self.answers < enough and not self.errors:
            assert time.monotonic() < end
            time.sleep(0.005)

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                assert encode(self._client) == 255
                self.answers += 1
            except Exception as error:
                self.errors.append(error)


@pytest.fixture
def start() -> Iterator[Callable[..., ToyProcess]]:
    """Start toy servers; they are killed with the test."""
    started: list[ToyProcess] = []

    def start(address: str = "127.0.0.1:0", *, seconds: float = 0.0) -> ToyProcess:
        started.append(ToyProcess(address, seconds=seconds))
        return started[-1]

    yield start
    for toy in started:
        toy.kill()


Start = Callable[..., ToyProcess]


@pytest.mark.parametrize("cycles", [4, pytest.param(30, marks=pytest.mark.soak)])
@pytest.mark.parametrize("end", [ToyProcess.kill, ToyProcess.stop], ids=["kill", "stop"])
def test_workers_that_share_a_port_are_replaced_under_load_and_no_call_fails(
    start: Start, end: Callable[[ToyProcess], None], cycles: int
) -> None:
    workers = [start(seconds=0.001)]
    workers.append(start(workers[0].address, seconds=0.001))
    with vaeport.Client(workers[0].address) as client, Load(client) as load:
        for _ in range(cycles):
            load.wait_for_answers()
            workers.append(start(workers[0].address, seconds=0.001))
            end(workers[-3])
        load.wait_for_answers()
    assert load.errors == []


def test_one_of_two_servers_is_restarted_under_load_and_no_call_fails(start: Start) -> None:
    servers = [start(), start()]
    with vaeport.Client([server.address for server in servers]) as client, Load(client) as load:
        for end in (ToyProcess.kill, ToyProcess.stop, ToyProcess.kill):
            load.wait_for_answers()
            old = servers.pop(0)
            end(old)
            load.wait_for_answers()
            servers.append(start(old.address))
        load.wait_for_answers()
    assert load.errors == []


def test_a_server_that_says_it_is_not_ready_gets_no_calls_while_another_is(start: Start) -> None:
    one, two = HealthServicer(), HealthServicer()
    with (
        scripted(health=one) as (first, draining),
        scripted(health=two) as (second, serving),
        vaeport.Client([first, second]) as client,
    ):
        while not (draining.requests and serving.requests):
            encode(client)
        one.enter_graceful_shutdown()
        calls, end = -1, time.monotonic() + 60
        while calls != len(draining.requests):  # until word is around
            assert time.monotonic() < end
            calls = len(draining.requests)
            for _ in range(20):
                encode(client)
        assert serving.requests


def test_the_only_server_is_gone_for_a_while_and_no_call_fails(start: Start) -> None:
    server = start()
    with vaeport.Client(server.address, connect_timeout=0.5) as client, Load(client) as load:
        load.wait_for_answers()
        server.kill()
        time.sleep(1)  # more than the time to connect, which is for addresses that may be wrong
        start(server.address)
        load.wait_for_answers()
    assert load.errors == []


def test_a_server_that_does_not_come_back_is_unavailable_at_the_deadline(start: Start) -> None:
    server = start()
    with vaeport.Client(server.address, timeout=2, connect_timeout=0.5) as client:
        assert encode(client) == 255
        server.kill()
        began = time.monotonic()
        with pytest.raises(vaeport.UnavailableError, match="Connection refused"):
            encode(client)
        assert 1 < time.monotonic() - began < 15


def test_a_server_that_starts_after_the_call_is_waited_for() -> None:
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{reserved.getsockname()[1]}"
        client = stack.enter_context(vaeport.Client(address, connect_timeout=30, timeout=60))
        call = pool.submit(encode, client)
        time.sleep(0.3)
        assert not call.done()
        stack.enter_context(scripted(address=address))
        assert call.result(60) == 255


def test_an_address_where_nobody_is_says_so_when_the_time_to_connect_is_over() -> None:
    began = time.monotonic()
    with (
        vaeport.Client("127.0.0.1:1", connect_timeout=0.3, timeout=60) as client,
        pytest.raises(vaeport.UnavailableError, match=r"127\.0\.0\.1:1: .*Connection refused"),
    ):
        client.info()
    assert 0.3 <= time.monotonic() - began < 20


def test_without_retries_it_says_so_at_once() -> None:
    began = time.monotonic()
    with (
        vaeport.Client("127.0.0.1:1", connect_timeout=30, timeout=60, retries=0) as client,
        pytest.raises(vaeport.UnavailableError, match="Connection refused"),
    ):
        client.info()
    assert time.monotonic() - began < 20


def test_a_host_that_does_not_answer_is_given_up_when_the_time_to_connect_is_over() -> None:
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(3):  # the backlog is full: what comes now is dropped
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(hole.getsockname())
        address = f"127.0.0.1:{hole.getsockname()[1]}"
        client = stack.enter_context(vaeport.Client(address, connect_timeout=0.3, timeout=60))
        began = time.monotonic()
        with pytest.raises(vaeport.UnavailableError, match=address):
            client.info()
        assert time.monotonic() - began < 20


def test_one_that_accepts_and_never_says_a_word_is_given_up_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            vaeport.Client(address, connect_timeout=0.3, timeout=60) as client,
            pytest.raises(vaeport.UnavailableError, match=address),
        ):
            client.info()


@pytest.mark.parametrize(
    "failure",
    [
        GONE,
        FULL,
        fail(grpc.StatusCode.CANCELLED),  # as a server that stops ends its calls
        fail(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="0"),
    ],
)
def test_what_passes_is_tried_again_until_it_has(failure: Step) -> None:
    with scripted(failure, failure, failure, answer) as (address, server), vaeport.Client(address) as client:
        assert encode(client) == 255
        assert len(server.requests) == 4
        assert all(request == server.requests[0] for request in server.requests)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (fail(grpc.StatusCode.RESOURCE_EXHAUSTED), vaeport.OverloadedError),
        (fail(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="-1"), vaeport.OverloadedError),
        (fail(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="soon"), vaeport.OverloadedError),
        (fail(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="90000"), vaeport.OverloadedError),
        (fail(grpc.StatusCode.DEADLINE_EXCEEDED), vaeport.DeadlineExceededError),
        (fail(grpc.StatusCode.INTERNAL), vaeport.InternalError),
        (fail(grpc.StatusCode.UNKNOWN), vaeport.ServerError),
        (fail(grpc.StatusCode.ABORTED), vaeport.ServerError),
        (fail(grpc.StatusCode.UNAUTHENTICATED), vaeport.UnauthenticatedError),
        (fail(grpc.StatusCode.NOT_FOUND), vaeport.NotFoundError),
    ],
)
def test_what_stays_is_asked_once(failure: Step, error: type[Exception]) -> None:
    with scripted(failure) as (address, server), vaeport.Client(address) as client:
        with pytest.raises(error, match="why"):
            encode(client)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("failure", "error"), [(GONE, vaeport.UnavailableError), (FULL, vaeport.OverloadedError)])
def test_the_last_failure_is_the_one_that_is_raised(failure: Step, error: type[Exception]) -> None:
    with scripted(failure) as (address, server), vaeport.Client(address, retries=2) as client:
        with pytest.raises(error):
            encode(client)
        assert len(server.requests) == 3


@pytest.mark.parametrize("failure", [GONE, FULL])
def test_all_attempts_share_the_timeout(failure: Step) -> None:
    with scripted(failure) as (address, server), vaeport.Client(address, retries=10**6, timeout=2) as client:
        client.info()
        began = time.monotonic()
        with pytest.raises(vaeport.ServerError):
            encode(client)
        assert time.monotonic() - began < 10
        assert server.seconds_left[-1] < 1.5 < server.seconds_left[0]  # a delay is a second at most


def test_a_late_answer_of_a_second_attempt_is_a_timeout_that_names_the_first() -> None:
    def slow(script: Scripted, request: Any, context: grpc.ServicerContext) -> Any:
        over.wait(60)
        return answer(script, request, context)

    over = threading.Event()
    with scripted(GONE, slow) as (address, _), vaeport.Client(address, timeout=1) as client:
        client.info()
        with pytest.raises(vaeport.DeadlineExceededError, match=r"before that, .*draining"):
            encode(client)
        over.set()


def test_a_sample_without_a_seed_is_asked_for_again_with_the_same_one() -> None:
    with scripted() as (address, server), vaeport.Client(address, retries=2) as client:
        with pytest.raises(vaeport.UnavailableError):
            client.sample(3)
        assert len({request.seed for request in server.requests}) == 1
        assert len(server.requests) == 3


def closed_during(client: vaeport.Client, reached: Callable[[], bool]) -> "Future[float]":
    """A call that is under way when its client is closed, once it has reached some point."""
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(encode, client)
        end = time.monotonic() + 30
        while not reached():
            assert time.monotonic() < end
            time.sleep(0.005)
        client.close()
    return call


def test_closing_ends_a_call_that_waits_for_its_next_attempt() -> None:
    later = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="100000")
    with scripted(later) as (address, server):
        began = time.monotonic()
        call = closed_during(vaeport.Client(address, timeout=600), lambda: len(server.requests) == 1)
        with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
            call.result(0)
        assert time.monotonic() - began < 30


def test_closing_ends_a_call_that_is_being_answered() -> None:
    over = threading.Event()
    with scripted(lambda *_: over.wait(60)) as (address, server):
        call = closed_during(vaeport.Client(address, timeout=600), lambda: len(server.requests) == 1)
        over.set()
        with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
            call.result(0)


def test_closing_ends_a_call_that_waits_for_a_connection(start: Start) -> None:
    server = start()
    client = vaeport.Client(server.address, timeout=600)
    assert encode(client) == 255
    server.kill()
    began = time.monotonic()
    call = closed_during(client, lambda: time.monotonic() > began + 0.5)
    with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
        call.result(0)
    assert time.monotonic() - began < 30
