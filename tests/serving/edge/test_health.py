"""The health service on a real port: who asks, who watches, and who is told what at the end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.edge import health
from serving.edge.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, HealthServicer
from serving.edge.server import VAE_SERVICE
from tests.serving.test_edge import Served, serving
from tests.serving.toys import decode, toy_model
from tests.serving.waiting import until
from vaeport.v1 import vae_pb2

MODEL = f"{VAE_SERVICE}/toy"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(toy_model()) as one:
        yield one


def stub(served: Served) -> Any:
    return health_pb2_grpc.HealthStub(served.channel)


async def check(served: Served, service: str = "") -> int:
    status: int = (await stub(served).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status
    return status


async def watch(served: Served, service: str = "") -> Any:
    """A watcher that has been told something."""
    call = stub(served).Watch(health_pb2.HealthCheckRequest(service=service), timeout=20)
    call.first = await status_of(call)
    return call


async def status_of(call: Any) -> int:
    status: int = (await call.read()).status
    return status


async def test_the_server_its_service_and_each_model_have_a_name(served: Served) -> None:
    assert [await check(served, name) for name in ("", VAE_SERVICE, MODEL)] == [SERVING] * 3
    for other in ("toy", "other", f"{VAE_SERVICE}/other", "x" * 10_000):
        with pytest.raises(aio.AioRpcError, match="no '") as unknown:
            await check(served, other)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_one_model_that_is_not_ready_takes_the_server_with_it_and_no_other_model() -> None:
    servicer = HealthServicer("s", ["a", "b"])
    servicer.show(["a"])
    expected = {"": NOT_SERVING, "s": NOT_SERVING, "s/a": NOT_SERVING, "s/b": SERVING}
    for name, status in expected.items():
        assert (await servicer.Check(health_pb2.HealthCheckRequest(service=name), None)).status == status
    servicer.show([])
    for name in expected:
        assert (await servicer.Check(health_pb2.HealthCheckRequest(service=name), None)).status == SERVING


async def test_watchers_go_on_when_one_of_them_leaves(served: Served) -> None:
    """With the servicer of grpc_health, the two that stay would hear nothing."""
    first, second, third = [await watch(served, MODEL) for _ in range(3)]
    first.cancel()
    await until(lambda: len(served.edge.health._watchers) == 2)
    served.edge.health.show(["toy"])
    assert [await status_of(call) for call in (second, third)] == [NOT_SERVING] * 2
    served.edge.health.show([])
    assert [await status_of(call) for call in (second, third)] == [SERVING] * 2


async def test_a_watcher_of_an_unknown_service_stays(served: Served) -> None:
    call = await watch(served, "other")
    assert call.first == SERVICE_UNKNOWN
    served.edge.health.show(["toy"])
    served.edge.health.end_streams()
    assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_watcher_too_many_is_refused_until_one_has_left(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MAX_WATCHERS", 2)
    one, _two = await watch(served), await watch(served)
    refused = stub(served).Watch(health_pb2.HealthCheckRequest(), timeout=5)
    assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(await refused.trailing_metadata())["grpc-retry-pushback-ms"] == "10000"
    one.cancel()
    await until(lambda: len(served.edge.health._watchers) == 1)
    assert (await watch(served)).first == SERVING


async def test_one_who_watches_too_much_takes_no_place_from_another_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that balance take a server that does not let them watch for a bad one."""
    monkeypatch.setattr(health, "MAX_WATCHERS", 2)
    watching = [await watch(served) for _ in range(2)]
    address = f"127.0.0.1:{served.edge._port._where}"
    async with aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as another:
        stub: Any = health_pb2_grpc.HealthStub(another)
        assert await status_of(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)) == SERVING
    assert len(served.edge.health._watchers) >= len(watching)


async def test_a_name_that_would_fill_the_memory_is_refused(served: Served) -> None:
    refused = stub(served).Watch(health_pb2.HealthCheckRequest(service="x" * 257), timeout=5)
    assert await refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await refused.details() == "service: expected at most 256 characters, got 257"


async def test_a_watcher_that_does_not_read_holds_up_nobody_and_gets_the_latest_status() -> None:
    servicer = HealthServicer("s", ["a"])
    context = Mock(**{"peer.return_value": "unix:"})
    slow, quick = (servicer.Watch(health_pb2.HealthCheckRequest(service="s/a"), context) for _ in range(2))
    assert [(await anext(slow)).status, (await anext(quick)).status] == [SERVING] * 2
    for unready, expected in ((["a"], NOT_SERVING), ([], SERVING), (["a"], NOT_SERVING)):
        servicer.show(unready)  # `slow` is in its write all the time
        assert (await anext(quick)).status == expected
    assert (await anext(slow)).status == NOT_SERVING
    coming = asyncio.ensure_future(anext(slow))
    done, _ = await asyncio.wait([coming], timeout=0.05)
    assert not done  # nothing was kept for it
    coming.cancel()
    await quick.aclose()
    await asyncio.gather(coming, return_exceptions=True)
    assert not servicer._watchers
    assert not servicer._peers


async def test_a_server_that_stops_says_so_before_its_streams_end(served: Served) -> None:
    calls = [await watch(served, name) for name in ("", VAE_SERVICE, MODEL)]
    stopping = asyncio.create_task(served.edge.stop(5))
    assert [await status_of(call) for call in calls] == [NOT_SERVING] * 3
    assert [await call.code() for call in calls] == [grpc.StatusCode.UNAVAILABLE] * 3
    await asyncio.wait_for(stopping, 5)
    served.edge.health.show([])  # a canary that passes meanwhile changes nothing
    with pytest.raises(aio.AioRpcError):
        await check(served)


async def test_a_worker_that_is_replaced_never_says_that_it_is_not_serving(served: Served) -> None:
    calls = [await watch(served, name) for name in ("", MODEL)]
    served.edge.health.end_streams()
    for call in calls:
        with pytest.raises(aio.AioRpcError) as ended:
            await call.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    late = stub(served).Watch(health_pb2.HealthCheckRequest(), timeout=5)
    with pytest.raises(aio.AioRpcError, match="watch again"):
        await late.read()  # not even a status
    assert await check(served) == SERVING


async def test_the_last_status_is_seen_however_quickly_the_end_comes(served: Served) -> None:
    call = await watch(served)
    served.edge.health.show(["toy"])
    served.edge.health.show([])
    served.edge.health.enter_shutdown()
    served.edge.health.end_streams()
    assert await status_of(call) == NOT_SERVING
    assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_health_is_answered_while_the_queue_is_full() -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def held(pieces: Any) -> Any:
        began.set()
        await may_end.wait()
        return await decode(pieces)

    async with serving(toy_model(max_queue_rows=4, decode=held)) as served:
        calls = [asyncio.ensure_future(served.stub.Sample(vae_pb2.SampleRequest(count=4)))]
        await began.wait()
        calls.append(asyncio.ensure_future(served.stub.Sample(vae_pb2.SampleRequest(count=4))))
        await until(lambda: served.core._models["toy"].decoder.queued_rows == 4)
        with pytest.raises(aio.AioRpcError) as full:
            await served.stub.Sample(vae_pb2.SampleRequest(count=4))
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await check(served) == SERVING
        assert (await watch(served, MODEL)).first == SERVING
        may_end.set()
        await asyncio.gather(*calls)
