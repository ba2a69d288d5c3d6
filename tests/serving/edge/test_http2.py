"""What is told to gRPC, as a connection sees it."""

import asyncio
import struct
from typing import Any

import grpc
import pytest
from grpc import aio

from serving.edge.http2 import server_options
from serving.settings import Settings
from tests.http2 import ACK, FRAME_HEAD, GOAWAY, PREFACE, SETTINGS, Connection, frame
from tests.serving.edge.conftest import StartEdge
from vaeport.v1 import vae_pb2, vae_pb2_grpc

MAX_CONCURRENT_STREAMS = 3  # in the frame of settings
UNSHARED = [("grpc.use_local_subchannel_pool", 1)]


def first_settings(address: str) -> dict[int, int]:
    """The settings that a server tells to a new connection."""
    with Connection(address) as connection:
        connection.send(PREFACE + frame(SETTINGS))
        head = connection.socket.recv(9, 0x100)  # MSG_WAITALL
        assert head[3] == SETTINGS
        payload = connection.socket.recv(int.from_bytes(head[:3], "big"), 0x100)
    return dict(struct.iter_unpack(">HI", payload))


async def test_a_connection_is_told_how_many_calls_it_may_have(start_edge: StartEdge) -> None:
    address = await start_edge(Settings(max_concurrent_streams=77))
    told = await asyncio.to_thread(first_settings, address)
    assert told[MAX_CONCURRENT_STREAMS] == 77


async def test_calls_beyond_that_wait_at_the_client_and_are_answered(start_edge: StartEdge) -> None:
    """gRPC by itself refuses some, as long as those that have ended are being put away."""
    address = await start_edge(Settings(max_concurrent_streams=100))
    async with aio.insecure_channel(address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        answers: list[Any] = await asyncio.gather(*(stub.Info(vae_pb2.InfoRequest(), timeout=20) for _ in range(1000)))
    assert {answer.default_model for answer in answers} == {"toy"}


async def test_connections_beyond_their_number_are_closed_and_others_stay(start_edge: StartEdge) -> None:
    address = await start_edge(Settings(max_connections=1))
    async with (
        aio.insecure_channel(address, options=UNSHARED) as first,
        aio.insecure_channel(address, options=UNSHARED) as second,
    ):
        for _ in range(2):
            await vae_pb2_grpc.VaeServiceStub(first).Info(vae_pb2.InfoRequest(), timeout=10)
            with pytest.raises(aio.AioRpcError) as refused:
                await vae_pb2_grpc.VaeServiceStub(second).Info(vae_pb2.InfoRequest(), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def last_words(address: str) -> bytes:
    """Why a server ends a connection, by the text of its GOAWAY frames, up to when it closes it."""
    with Connection.opened(address) as connection:
        connection.send(frame(SETTINGS, ACK))
        received, texts = connection.until_end(), []
        while len(received) >= FRAME_HEAD:
            length = int.from_bytes(received[:3], "big")
            if received[3] == GOAWAY:
                texts.append(received[FRAME_HEAD + 8 : FRAME_HEAD + length])  # after the last stream and the error code
            received = received[FRAME_HEAD + length :]
    return b" ".join(texts)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("max_connection_age_seconds", b"max_age"), ("max_connection_idle_seconds", b"connection idle")],
)
async def test_a_connection_of_age_or_idle_is_ended_for_that_and_the_next_call_is_answered(
    start_edge: StartEdge, setting: str, reason: bytes
) -> None:
    address = await start_edge(Settings(**{setting: 0.1}))  # type: ignore[arg-type]
    assert reason in await asyncio.to_thread(last_words, address)
    async with aio.insecure_channel(address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        for _ in range(3):
            await stub.Info(vae_pb2.InfoRequest(), timeout=10)
            async with asyncio.timeout(10):
                while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)


def test_zero_leaves_out_what_would_be_a_limit_of_nothing() -> None:
    off = dict(server_options(Settings(keepalive_seconds=0, max_connection_age_seconds=0), 1000))
    assert off["grpc.max_receive_message_length"] == 1000
    limits = {"keepalive_seconds": "grpc.keepalive_time_ms", "max_connections": "grpc.max_allowed_incoming_connections"}
    limits["max_connection_age_seconds"] = "grpc.max_connection_age_ms"
    limits["max_connection_idle_seconds"] = "grpc.max_connection_idle_ms"
    assert not off.keys() & limits.values()
    for name, option in limits.items():
        assert dict(server_options(Settings(**{name: 7}), 1))[option] in {7, 7000}  # type: ignore[arg-type]
    assert dict(server_options(Settings(max_connection_age_seconds=1e-9), 1))["grpc.max_connection_age_ms"] == 1
    assert dict(server_options(Settings(keepalive_seconds=1e9), 1))["grpc.keepalive_time_ms"] == 2**31 - 1
