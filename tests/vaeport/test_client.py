"""The client against a real server: the methods, results and errors of the model in-process."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vaeport
from tests.support import BAD_SCORE_NUMBERS, ServerProcess
from tests.vaeport.scripted_server import scripted
from vaeport import errors, scoring


@pytest.fixture
def client(server: ServerProcess) -> vaeport.Client:
    return vaeport.Client(server.address)


@pytest.fixture(scope="module")
def model(package: Path) -> vaeport.Model:
    return vaeport.load(package)


def test_it_knows_the_model(client: vaeport.Client, model: vaeport.Model) -> None:
    with client:
        assert client.info().models == model.info().models
        assert (client.image_shape, client.latent_dim) == (model.image_shape, model.latent_dim)


def test_the_methods_are_those_of_the_model() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(vaeport.Client) - public(vaeport.Model) == {"close"}
    assert public(vaeport.Model) <= public(vaeport.Client)


def test_the_results_are_those_of_the_model(client: vaeport.Client, model: vaeport.Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8)
    with client:
        encoding, expected = client.encode(images), model.encode(images)
        assert np.array_equal(encoding.mean, expected.mean)
        assert np.array_equal(encoding.log_var, expected.log_var)
        assert encoding.version == expected.version
        assert np.array_equal(client.decode(expected.mean), model.decode(expected.mean))
        assert np.array_equal(client.reconstruct(images), model.reconstruct(images))
        assert np.array_equal(
            client.sample(5, seed=3, temperature=0.7, first_row=2),
            model.sample(5, seed=3, temperature=0.7, first_row=2),
        )


def test_scores_are_those_of_the_model(client: vaeport.Client, model: vaeport.Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1030, 8, 8), np.uint8)  # more than a request has
    with client:
        found, expected = (it.score(images, importance_samples=2, seed=3, first_row=5) for it in (client, model))
        for name in ("reconstruction", "kl", "elbo", "log_likelihood", "percentile"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, err_msg=name)
        assert (found.setting, found.seed, found.version) == ("grey", 3, "1")


def test_scores_of_wide_latents_are_asked_for_in_pieces(
    client: vaeport.Client, model: vaeport.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8)
    asked: list[Any] = []
    with client:
        call = client._calls._call

        def listen(rpc: str, request: Any) -> Any:
            asked.append(request)
            return call(rpc, request)

        monkeypatch.setattr(client._calls, "_call", listen)
        assert client.latent_dim == 5
        asked.clear()
        monkeypatch.setattr(scoring, "MAX_NORMALS", 44)  # two images of four draws of five numbers
        found, expected = (it.score(images, importance_samples=4, seed=3) for it in (client, model))
    assert [request.images.shape[0] for request in asked] == [2, 2, 2, 2, 1]
    np.testing.assert_allclose(found.elbo, expected.elbo, rtol=1e-5)


def test_results_can_be_written_to(client: vaeport.Client) -> None:
    with client:
        client.sample(2)[:] = 0


def test_a_long_array_is_sent_in_pieces_with_the_same_result(client: vaeport.Client, model: vaeport.Model) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2500, 8, 8), np.uint8)
    with client:
        assert np.array_equal(client.encode(images).mean, model.encode(images).mean)
        assert np.array_equal(client.sample(2500, seed=9), model.sample(2500, seed=9))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.encode(np.zeros((2, 7, 8), np.uint8)), r"images: expected shape \[rows, 1, 8, 8\]"),
        (lambda c: c.encode(np.full((2, 8, 8), 2.0)), r"images: expected values in \[0, 1\], got 2.0"),
        (lambda c: c.decode(np.zeros((2, 4))), r"latents: expected shape \[rows, 5\]"),
        (lambda c: c.sample(0), "count: expected at least 1 row"),
        (lambda c: c.sample(1, seed=-1), r"seed: expected 0 <= seed < 2\^64, got -1"),
        (lambda c: c.sample(1, first_row=-1), "first_row"),
        (lambda c: c.sample(1, temperature=float("nan")), "temperature"),
        *(
            (lambda c, numbers=numbers: c.score(np.zeros((8, 8), np.uint8), **numbers), message)
            for numbers, message in BAD_SCORE_NUMBERS
        ),
    ],
)
def test_bad_input_is_refused_as_in_process(client: vaeport.Client, model: vaeport.Model, call, message: str) -> None:  # type: ignore[no-untyped-def]
    texts = []
    with client:
        for source in (client, model):
            with pytest.raises(errors.InvalidInputError, match=message) as refused:
                call(source)
            texts.append(str(refused.value))
    assert texts[0] == texts[1]


def test_an_unknown_model_names_what_there_is(server: ServerProcess) -> None:
    with vaeport.Client(server.address, model="mnist") as client:
        with pytest.raises(errors.NotFoundError, match="no model 'mnist' here; there is digits"):
            client.info()
        with pytest.raises(errors.NotFoundError):
            client.sample(1)


def test_an_unknown_version_names_what_there_is(server: ServerProcess) -> None:
    with (
        vaeport.Client(server.address, model="digits", version="7") as client,
        pytest.raises(errors.NotFoundError, match="no version '7' of model 'digits' here; there is 1"),
    ):
        client.sample(1)


def test_a_version_without_a_model_is_that_of_the_default_model(server: ServerProcess) -> None:
    with vaeport.Client(server.address, version="1") as client:
        assert client.sample(1).shape == (1, 1, 8, 8)
    with vaeport.Client(server.address, version="7") as client, pytest.raises(errors.NotFoundError):
        client.info()


def test_a_closed_client_says_so(server: ServerProcess) -> None:
    client = vaeport.Client(server.address)
    client.close()
    client.close()
    with pytest.raises(errors.UnavailableError, match="the client is closed"):
        client.info()


@pytest.mark.parametrize("name", ["timeout", "connect_timeout"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_timeout_is_positive_and_finite(name: str, seconds: float) -> None:
    with pytest.raises(errors.InvalidInputError, match=f"^{name}: expected a positive number of seconds"):
        vaeport.Client("127.0.0.1:1", **{name: seconds})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["{}", "dns:///{}", "localhost:{port}", ["{}"], ["{}", "127.0.0.1:1"]])
def test_this_machine_is_reached_without_a_proxy(
    form: str | list[str], server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    port = server.address.rpartition(":")[2]
    forms = [text.format(server.address, port=port) for text in ([form] if isinstance(form, str) else form)]
    with vaeport.Client(forms[0] if isinstance(form, str) else forms) as client:
        assert client.info().models


def test_a_socket_file_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with scripted(address=f"unix:{tmp_path}/s") as (address, _), vaeport.Client(address, token="t") as client:  # noqa: S106
        assert client.info().models


def test_calls_go_to_all_addresses_in_turn() -> None:
    with scripted() as (one, first), scripted() as (two, second), vaeport.Client([one, two]) as client:
        while not (first.requests and second.requests):
            client.encode(np.zeros((2, 2), np.uint8))
        before = len(first.requests), len(second.requests)
        for _ in range(10):
            client.encode(np.zeros((2, 2), np.uint8))
        assert (len(first.requests), len(second.requests)) == (before[0] + 5, before[1] + 5)


def test_a_very_long_time_to_connect_is_one_too() -> None:
    with scripted() as (address, _), vaeport.Client(address, connect_timeout=1e9) as client:
        assert client.info().models


def test_nobody_there_is_unavailable() -> None:
    with (
        vaeport.Client("127.0.0.1:1", timeout=5) as client,
        pytest.raises(errors.UnavailableError, match=r"127\.0\.0\.1:1"),
    ):
        client.sample(1)


def test_no_answer_in_time_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and never says a word
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with vaeport.Client(address, timeout=0.3) as client, pytest.raises(TimeoutError, match=address) as late:
            client.sample(1)
    assert isinstance(late.value, errors.DeadlineExceededError)
