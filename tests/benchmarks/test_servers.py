"""The servers that benchmarks compare are asked in the same words."""

from pathlib import Path

import grpc
import numpy as np
import pytest

from benchmarks.serving.load import ENCODE
from benchmarks.serving.servers import running
from vaeport.v1 import vae_pb2
from vaeport.wire import from_tensor, to_tensor


@pytest.mark.parametrize("kind", ["ours", "empty", "plain", "tuned"])
def test_each_answers_an_encode(kind: str, models: Path) -> None:
    request = vae_pb2.EncodeRequest(images=to_tensor(np.zeros((1, 1, 8, 8), np.uint8)))
    with running(kind, models, None) as server, grpc.insecure_channel(server.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[vae_pb2.EncodeRequest, vae_pb2.EncodeResponse] = channel.unary_unary(
            ENCODE, vae_pb2.EncodeRequest.SerializeToString, vae_pb2.EncodeResponse.FromString
        )
        response = call(request, timeout=30)
    assert len(from_tensor("mean", response.mean)) == 1
