"""tritonclient against a real server gives the numbers that our own client gives."""

import numpy as np
import pytest
from tritonclient import grpc as triton

import vaeport
from examples import triton_client
from tests.support import ServerProcess


def test_it_prints_the_shapes(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert triton_client.main([server.address, "digits"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "latent: float32 [16, 5]",
        "image: float32 [16, 1, 8, 8]",
        "mean: float32 [16, 5]",
        "log_var: float32 [16, 5]",
    ]


def test_its_call_gives_what_our_client_gives(server: ServerProcess) -> None:
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    client = triton.InferenceServerClient(server.address)
    found = triton_client.infer(client, "digits_encoder", "image", images, ["mean", "log_var"])
    client.close()
    with vaeport.Client(server.address) as ours:
        expected = ours.encode(images)
    np.testing.assert_allclose(found["mean"], expected.mean, atol=1e-6)
    np.testing.assert_allclose(found["log_var"], expected.log_var, atol=1e-6)


def test_a_model_that_is_not_there_is_one_line_and_status_1(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert triton_client.main([server.address, "nothing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("triton_client: error: StatusCode.NOT_FOUND: ")
    assert error.count("\n") == 1
