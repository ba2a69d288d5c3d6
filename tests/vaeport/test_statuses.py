"""What a failed call means to the caller."""

import copy
import pickle
from typing import Any

import grpc
import numpy as np
import pytest

import vaeport
from tests.vaeport.scripted_server import answer, fail, scripted
from vaeport import errors
from vaeport.statuses import ERROR_OF, error_of

IMAGE = np.full((1, 2, 2), 255, np.uint8)


class FakeCall(grpc.RpcError):
    """A failed call, as grpc raises it."""

    def __init__(self, code: grpc.StatusCode, trailing_metadata: tuple[tuple[str, str], ...] | None = ()) -> None:
        self._code, self._metadata = code, trailing_metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "the details"

    def trailing_metadata(self) -> Any:
        return self._metadata


FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", FAILURES)
def test_every_status_becomes_an_error_of_the_tree(code: grpc.StatusCode) -> None:
    error = error_of(FakeCall(code), "host:1")
    assert type(error) is ERROR_OF.get(code, errors.ServerError)
    assert "the details" in str(error)
    if type(error) is errors.ServerError:
        assert code.name in str(error)


@pytest.mark.parametrize("code", FAILURES)
def test_every_error_of_a_server_has_the_id_of_its_request(code: grpc.StatusCode) -> None:
    error = error_of(FakeCall(code), "host:1", "abc-1")
    if isinstance(error, errors.ServerError):
        assert error.request_id == "abc-1"
        assert str(error).endswith("(request abc-1)")
    else:
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)  # as without a server


def test_the_id_that_the_server_gave_goes_before_ours() -> None:
    error = error_of(FakeCall(grpc.StatusCode.INTERNAL, (("x-request-id", "theirs"),)), "host:1", "ours")
    assert isinstance(error, errors.ServerError)
    assert error.request_id == "theirs"


def test_an_error_without_an_id_shows_none() -> None:
    assert str(errors.UnavailableError("gone")) == "gone"
    assert errors.UnavailableError("gone").request_id == ""


def test_a_copy_of_an_error_keeps_its_id_and_its_hint() -> None:
    full = FakeCall(grpc.StatusCode.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", "250"),))
    error = error_of(full, "host:1", "abc-1")
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert isinstance(copied, errors.OverloadedError)
        assert (copied.request_id, copied.retry_after, str(copied)) == ("abc-1", 0.25, str(error))


@pytest.mark.parametrize(
    ("hint", "seconds"), [("250", 0.25), ("0", 0.0), ("-1", None), ("soon", None), ("", None), ("1.5", None)]
)
def test_the_hint_of_a_full_server_reaches_the_caller(hint: str, seconds: float | None) -> None:
    error = error_of(FakeCall(grpc.StatusCode.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", hint),)), "host:1")
    assert isinstance(error, errors.OverloadedError)
    assert error.retry_after == seconds


def test_a_call_without_metadata_has_no_hint() -> None:
    error = error_of(FakeCall(grpc.StatusCode.RESOURCE_EXHAUSTED, None), "host:1")
    assert isinstance(error, errors.OverloadedError)
    assert error.retry_after is None


def test_all_attempts_of_a_request_have_one_id_and_each_request_has_its_own() -> None:
    gone = fail(grpc.StatusCode.UNAVAILABLE)
    with scripted(gone, gone, answer, fail(grpc.StatusCode.INTERNAL, "id 7")) as (address, server):
        with vaeport.Client(address) as client:
            client.encode(IMAGE)
            with pytest.raises(vaeport.InternalError) as failed:
                client.encode(IMAGE)
        ids = [metadata["x-request-id"] for metadata in server.metadata]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert failed.value.request_id == ids[3]
    assert str(failed.value) == f"id 7 (request {ids[3]})"


def test_two_clients_never_use_the_same_id() -> None:
    with scripted() as (address, server):
        for _ in range(2):
            with vaeport.Client(address) as client:
                client.encode(IMAGE)
        assert len({metadata["x-request-id"] for metadata in server.metadata}) == 2
