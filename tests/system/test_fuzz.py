"""Random bytes, and good messages with bytes changed, to every method of the typed service, of health and reflection.

test_oip_fuzz.py does the same to the Open Inference Protocol.
"""

import contextlib
from collections.abc import Iterator
from random import Random

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import vaeport
from tests.support import ServerProcess
from vaeport.v1 import vae_pb2
from vaeport.wire import to_tensor

EACH = 25  # messages for each method and kind
DEADLINE_SECONDS = 10.0
MOST_ANSWERS = 3  # of a stream; a changed byte may ask for four billion samples

IMAGES = to_tensor(np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), np.uint8))
LATENTS = to_tensor(np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32))
VAE = "/vaeport.v1.VaeService/"
GOOD: dict[str, Message] = {
    f"{VAE}Info": vae_pb2.InfoRequest(model="digits", version="1"),
    f"{VAE}Encode": vae_pb2.EncodeRequest(model="digits", images=IMAGES, seed=1, first_row=2),
    f"{VAE}Decode": vae_pb2.DecodeRequest(latents=LATENTS, dtype=vae_pb2.DTYPE_UINT8),
    f"{VAE}Sample": vae_pb2.SampleRequest(count=2, seed=1, temperature=0.5, return_latents=True),
    f"{VAE}SampleStream": vae_pb2.SampleStreamRequest(count=6, seed=1, chunk_rows=2, temperature=0.5),
    f"{VAE}Reconstruct": vae_pb2.ReconstructRequest(images=IMAGES),
    f"{VAE}Score": vae_pb2.ScoreRequest(images=IMAGES, importance_samples=2, seed=1),
    f"{VAE}EncodeStream": vae_pb2.EncodeStreamRequest(images=IMAGES, seed=1),
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(service="vaeport.v1.VaeService"),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(
        file_containing_symbol="vaeport.v1.VaeService"
    ),
}
NOBODY_MAY = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def status(channel: grpc.Channel, method: str, messages: list[bytes]) -> grpc.StatusCode:
    """Of a call with these bytes; every method may be called as a stream of either kind."""
    ask: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    call = ask(iter(messages), timeout=DEADLINE_SECONDS)
    with contextlib.suppress(grpc.RpcError):
        for number, _ in enumerate(call):
            if number == MOST_ANSWERS:
                call.cancel()
    return call.code()


def changed(data: bytes, chance: Random) -> bytes:
    """Some bytes of it replaced, cut out or doubled."""
    spoilt = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(spoilt) + 1)
        kind = chance.randrange(3)
        if kind == 0:
            spoilt[place : place + 1] = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))])
        elif kind == 1:
            del spoilt[place : place + chance.randint(1, 8)]
        else:
            spoilt[place:place] = spoilt[place : place + 8]
    return bytes(spoilt)


@pytest.mark.parametrize("method", GOOD)
def test_whatever_comes_is_answered_with_a_status_of_its_caller(
    channel: grpc.Channel, server: ServerProcess, method: str
) -> None:
    chance, good = Random(method), GOOD[method].SerializeToString()
    assert status(channel, method, [good]) is grpc.StatusCode.OK or method.endswith("SampleStream")
    for _ in range(EACH):
        mutation, noise = changed(good, chance), chance.randbytes(chance.randrange(200))
        assert status(channel, method, [mutation]) not in NOBODY_MAY, mutation.hex()
        assert status(channel, method, [noise]) not in NOBODY_MAY, noise.hex()
    with vaeport.Client(server.address) as client:
        assert client.sample(1, seed=1).shape == (1, 1, 8, 8)
    assert "Traceback" not in server.read_log()
