"""What the supervisor says of itself and of its workers."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from serving.metrics import catalogue
from serving.metrics.status import Status
from serving.metrics.supervisor import SupervisorMetrics
from tests.serving.metrics.reading import Samples, samples, value
from vaeport._version import __version__


class Supervisor:
    """One that can be told what it knows."""

    def __init__(self, folder: Path) -> None:
        self.status = Status("starting", {})
        self.metrics = SupervisorMetrics(folder, lambda: self.status)

    def scrape(self) -> Samples:
        body, content_type = self.metrics.scrape("")
        assert content_type.startswith("text/plain; version=")
        return samples(body.decode())


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    return Supervisor(tmp_path)


def test_events_are_counted_and_unknown_words_make_no_label(supervisor: Supervisor) -> None:
    before = supervisor.scrape()
    for reason in ("start", "start", "crash", "a new reason"):
        supervisor.metrics.worker_started(reason)
    supervisor.metrics.worker_exited(77, "crash")
    supervisor.metrics.worker_exited(78, "a new cause")
    supervisor.metrics.reloaded("failed")
    found = supervisor.scrape()
    starts = {dict(key)["reason"]: count for key, count in found["vaeport_worker_starts_total"].items() if count}
    assert starts == {"start": 2, "crash": 1, "other": 1}
    assert value(found, "vaeport_worker_exits_total", cause="crash") == 1
    assert value(found, "vaeport_worker_exits_total", cause="other") == 1
    assert value(found, "vaeport_reloads_total", result="failed") == 1
    assert value(found, "vaeport_reloads_total", result="done") == 0
    assert {name: set(found[name]) for name in found} == {name: set(before[name]) for name in before}


def test_readiness_and_workers_are_what_they_are_now(supervisor: Supervisor) -> None:
    assert value(supervisor.scrape(), "vaeport_ready") == 0
    supervisor.status = Status("", {os.getpid(): "ready", 2**22 + 1: "starting", 2**22 + 2: "odd"})
    found = supervisor.scrape()
    assert value(found, "vaeport_ready") == 1
    states = {dict(key)["state"]: count for key, count in found["vaeport_workers"].items()}
    assert states == {"starting": 1, "ready": 1, "unready": 0, "draining": 0, "other": 1}


def test_the_build_is_a_gauge_with_labels(supervisor: Supervisor) -> None:
    (labels,) = supervisor.scrape()["vaeport_build_info"]
    assert dict(labels)["version"] == __version__
    assert all(dict(labels).values())


def test_memory_and_cpu_are_those_of_the_processes(supervisor: Supervisor) -> None:
    code = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint(); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        supervisor.status = Status("", {worker.pid: "ready"})
        running, process = supervisor.scrape(), psutil.Process(worker.pid)
        memory = value(running, "vaeport_resident_memory_bytes", process="workers")
        assert memory == pytest.approx(process.memory_info().rss, rel=0.1)
        cpu = value(running, "vaeport_cpu_seconds_total", process="workers")
        assert cpu >= 0.2
        worker.communicate(b"\n")
    ended = supervisor.scrape()
    assert value(ended, "vaeport_cpu_seconds_total", process="workers") >= cpu
    assert value(ended, "vaeport_resident_memory_bytes", process="workers") == 0
    assert value(ended, "vaeport_resident_memory_bytes", process="supervisor") > 1e6
    assert value(ended, "vaeport_cpu_seconds_total", process="supervisor") > 0


def test_openmetrics_is_given_to_who_asks_for_it(supervisor: Supervisor) -> None:
    body, content_type = supervisor.metrics.scrape("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in text_string_to_metric_families(body.decode())}  # type: ignore[no-untyped-call]
    assert "vaeport_reloads" in names


def test_the_catalogue_names_what_the_supervisor_exposes_and_no_more(supervisor: Supervisor) -> None:
    supervisor.status = Status("", {})
    expected = {spec.name: set(spec.labels) for spec in catalogue.CATALOGUE if spec.source == "supervisor"}
    del expected[catalogue.DEVICE_MEMORY.name]
    found = supervisor.scrape()
    assert {name: {label for key in found[name] for label, _ in key} for name in found} == expected
