"""Metrics of a real server with two workers, scraped over HTTP."""

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import vaeport
from serving.metrics import catalogue
from serving.metrics.room import KINDS
from tests.serving.metrics.reading import Samples, families, histogram, samples, value
from tests.support import ServerProcess
from vaeport.v1 import vae_pb2

SERVICE = "vaeport.v1.VaeService"
ONE = vae_pb2.Tensor(dtype=vae_pb2.DTYPE_UINT8, shape=[1, 1, 8, 8], data=bytes(64))
UNKNOWN_MODEL = vae_pb2.EncodeRequest(model="no", images=ONE).SerializeToString()


def http_of(server: ServerProcess) -> str:
    found = re.search(r"metrics and probes on (http://\S+)", server.read_log())
    assert found is not None
    return found[1]


def scrape(server: ServerProcess) -> str:
    return get(server, "/metrics")


def get(server: ServerProcess, path: str) -> str:
    """A page that is answered with 200; any other status is an error."""
    with urllib.request.urlopen(f"{http_of(server)}{path}", timeout=10) as response:  # noqa: S310 - http alone
        return str(response.read().decode())


def until(server: ServerProcess, seen: Callable[[Samples], bool]) -> Samples:
    """What is scraped once that is seen: workers write twice a second."""
    end = time.monotonic() + 20
    while True:
        found = samples(scrape(server))
        if seen(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.1)


@pytest.fixture(scope="module")
def observed(models: Path) -> Iterator[ServerProcess]:
    server = ServerProcess.start("--models", str(models), "--workers", "2", "--http-port", "0")
    yield server
    server.kill()


def test_what_callers_did_is_what_is_scraped(observed: ServerProcess) -> None:
    before = samples(scrape(observed))
    images = np.zeros((3, 1, 8, 8), np.float32)
    for _ in range(6):  # each on a connection of its own, so maybe with another worker
        with vaeport.Client(observed.address) as client:
            client.encode(images)
    with vaeport.Client(observed.address) as client:
        client.score(images)
    with grpc.insecure_channel(observed.address) as channel:
        for method, request in ((f"/{SERVICE}/Encode", UNKNOWN_MODEL), ("/stranger.Service/Anything", b"")):
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError):
                call(request, timeout=10)

    def calls(found: Samples) -> float:
        return value(found, "vaeport_calls_total", method=f"{SERVICE}/Encode")

    found = until(observed, lambda found: calls(found) - calls(before) == 7)
    assert value(found, "vaeport_calls_total", method=f"{SERVICE}/Encode", code="NOT_FOUND") == 1
    assert sum(histogram(found, "vaeport_call_seconds", method=f"{SERVICE}/Encode").values()) == 7
    labels = {"model": "digits", "graph": "encoder"}
    assert value(found, "vaeport_batch_rows_sum", **labels) == 7 * 3
    assert value(found, "vaeport_batches_total", **labels) == sum(
        histogram(found, "vaeport_batch_rows", **labels).values()
    )
    scored = value(found, "vaeport_score_percentile_ratio_count") + value(found, "vaeport_scores_unranked_total")
    assert scored == 3
    assert value(found, "vaeport_workers", state="ready") == 2
    assert value(found, "vaeport_queue_limit_rows", **labels) == 2 * 4096
    assert value(found, "vaeport_package_info", model="digits", version="1", precision="fp32") == 1
    assert value(found, "vaeport_ready") == 1
    assert value(found, "vaeport_resident_memory_bytes", process="workers") > 50e6


def test_the_labels_are_those_of_the_catalogue_and_strangers_make_none(observed: ServerProcess) -> None:
    text = scrape(observed)
    assert "stranger" not in text
    specs = {spec.name.removesuffix("_total"): spec for spec in catalogue.CATALOGUE}
    for family in families(text):
        spec = specs.pop(family.name)
        assert (family.type, family.documentation) == (spec.kind, spec.help)
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(spec.labels), sample
    assert specs.keys() == {catalogue.CERTIFICATE.name, catalogue.DEVICE_MEMORY.name}


def test_probes_answer(observed: ServerProcess) -> None:
    assert get(observed, "/healthz").startswith("the supervisor was awake")
    assert get(observed, "/readyz") == "ready\n"


def test_no_count_is_lost_when_workers_are_killed_or_replaced(
    models: Path, start_server: Callable[..., ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ages = ["--max-connection-age-seconds", "0.5", "--lame-duck-seconds", "0"]
    server = start_server("--models", str(models), "--workers", "2", "--http-port", "0", *ages)
    with vaeport.Client(server.address) as client:
        client.encode(np.zeros((3, 1, 8, 8), np.float32))

    def rows(found: Samples) -> float:
        return value(found, "vaeport_batch_rows_sum", model="digits", graph="encoder")

    until(server, lambda found: rows(found) == 3)
    for pid in re.findall(r"worker \d+ started, process (\d+)", server.read_log()):
        os.kill(int(pid), signal.SIGKILL)
    found = until(server, lambda found: value(found, "vaeport_workers", state="ready") == 2 and starts(found) == 4)
    assert rows(found) == 3
    assert value(found, "vaeport_worker_starts_total", reason="crash") == 2
    assert value(found, "vaeport_worker_exits_total", cause="crash") == 2
    server.process.send_signal(signal.SIGHUP)
    found = until(server, lambda found: value(found, "vaeport_worker_exits_total", cause="replaced") == 2)
    assert rows(found) == 3
    assert value(found, "vaeport_reloads_total", result="done") == 1
    assert value(found, "vaeport_worker_starts_total", reason="reload") == 2
    assert value(found, "vaeport_queue_limit_rows", model="digits", graph="encoder") == 2 * 4096
    files = [file.name for file in tmp_path.glob("vaeport-metrics-*/*")]
    assert len(files) == 2 + 2 * len(KINDS), files  # of ended workers, counters and histograms are kept


def starts(found: Samples) -> float:
    return value(found, "vaeport_worker_starts_total")


def test_the_folder_goes_with_the_server_and_nothing_is_said_of_it(
    models: Path, start_server: Callable[..., ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = start_server("--models", str(models), "--http-port", "0")
    assert len(list(tmp_path.glob("vaeport-metrics-*/counter_*.db"))) >= 1
    assert server.terminate() == 0
    assert list(tmp_path.glob("vaeport-metrics-*")) == []
    assert "Warning" not in server.read_log()
