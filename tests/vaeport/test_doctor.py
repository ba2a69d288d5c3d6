"""What each check says where all is well and where it is not, and what the command makes of it."""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from tests.support import ServerProcess
from tests.vaeport.certificates import Authority
from tests.vaeport.toy_server import described
from vaeport import doctor
from vaeport.cli import main
from vaeport.credentials import TLS
from vaeport.findings import Finding, as_json, as_table, fail, failed, ok, warn
from vaeport.machine import Limits
from vaeport.v1 import vae_pb2, vae_pb2_grpc

COMPLETE = {"numpy": "2.4", "grpcio": "1.81", "protobuf": "6.33", "pillow": "13", "onnxruntime": "1.31"}


def install(folder: Path, **distributions: str) -> Path:
    """Metadata as pip leaves it."""
    for name, version in distributions.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def test_two_builds_of_onnx_runtime_are_found_by_their_metadata(tmp_path: Path) -> None:
    folder = install(tmp_path, onnxruntime="1.31.0", **{"onnxruntime-gpu": "1.31.1", "numpy": "2.4.6"})
    finding = doctor.runtime_builds(doctor.installed_distributions([str(folder)]))
    assert finding.level == "fail"
    assert "onnxruntime and onnxruntime-gpu" in finding.text
    assert "pip uninstall onnxruntime onnxruntime-gpu" in finding.advice


def test_one_build_is_well_and_none_is_for_clients_alone() -> None:
    assert doctor.runtime_builds(COMPLETE) == ok("runtime", "onnxruntime 1.31, the only build")
    assert doctor.runtime_builds({}).level == "warn"
    assert doctor.runtime_builds({}, needed=True).level == "fail"


def test_versions_name_what_is_missing() -> None:
    assert doctor.versions(COMPLETE).level == "ok"
    assert "numpy 2.4, grpcio 1.81" in doctor.versions(COMPLETE).text
    without = doctor.versions({name: version for name, version in COMPLETE.items() if name != "grpcio"})
    assert (without.level, without.advice) == ("fail", "pip install grpcio")


@pytest.mark.parametrize(
    ("quota", "threads", "level"),
    [(None, 0, "ok"), (None, 4, "ok"), (None, 5, "warn"), (1.5, 2, "ok"), (1.5, 3, "warn"), (0.5, 1, "warn")],
)
def test_threads_are_held_against_affinity_and_quota(quota: float | None, threads: int, level: str) -> None:
    assert doctor.cores(Limits(quota, None), affinity=4, threads=threads).level == level


@pytest.mark.parametrize(
    ("limit", "machine", "level", "whose"),
    [
        (None, 4 << 30, "ok", "the machine's"),
        (4 << 30, 8 << 30, "ok", "the cgroup's limit"),
        (1100 << 20, 8 << 30, "warn", "the cgroup's limit"),
        (900 << 20, 8 << 30, "fail", "the cgroup's limit"),
        (8 << 30, 900 << 20, "fail", "the machine's"),
    ],
)
def test_memory_is_held_against_the_smaller_of_limit_and_machine(
    limit: int | None, machine: int, level: str, whose: str
) -> None:
    finding = doctor.memory(Limits(None, limit), machine, needed=1000 << 20)
    assert finding.level == level
    assert whose in finding.text


def test_memory_that_is_not_known_is_said_to_be_unknown() -> None:
    assert doctor.memory(Limits(None, None), None).text.startswith("unknown on this system")
    assert doctor.memory(Limits(None, 1 << 20), None).level == "fail"


def test_what_an_uninstallation_has_left_behind_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "numpy-1.0.dist-info").mkdir()
    assert doctor.installed_distributions([str(tmp_path)]) == {}


def test_a_device_that_was_asked_for_and_cannot_compute_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from vaeport import cuda

    monkeypatch.setattr(
        cuda, "missing_for_cuda", lambda _: cuda.Missing("no libcudnn.so.9", "pip install it", gpu=True)
    )
    assert doctor.device("cpu").level == "ok"
    assert doctor.device("auto") == warn(
        "device", "CPU, although a GPU seems to be here: no libcudnn.so.9", "pip install it"
    )
    assert doctor.device("cuda") == fail("device", "CUDA cannot compute here: no libcudnn.so.9", "pip install it")
    monkeypatch.setattr(cuda, "missing_for_cuda", lambda _: cuda.Missing("no GPU", "buy one"))
    assert doctor.device("auto") == ok("device", "CPU; no CUDA: no GPU")
    monkeypatch.setattr(cuda, "missing_for_cuda", lambda _: None)
    assert doctor.device("cuda").text.startswith("CUDA")


def test_a_package_computes_what_was_proven(package: Path) -> None:
    finding = doctor.self_test(package)
    assert finding.level == "ok"
    assert "digits version 1 computes what was proven, sha256:" in finding.text
    assert doctor.self_test(package.parent).level == "ok"  # its default version


def test_a_package_with_another_weight_fails(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    graph = bytearray((copy / "encoder.onnx").read_bytes())
    graph[-100] ^= 1
    (copy / "encoder.onnx").write_bytes(graph)
    finding = doctor.self_test(copy)
    assert finding.level == "fail"
    assert "encoder.onnx" in finding.text
    assert finding.advice


@pytest.mark.parametrize("missing", ["onnxruntime", "onnx"])
def test_a_package_is_not_to_blame_for_a_runtime_that_is_not_there(
    missing: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    finding = doctor.self_test(package)
    assert (finding.level, finding.advice) == ("fail", "pip install 'vaeport[cpu]'")
    assert f"its files are as they should be, but {missing} is missing" in finding.text
    assert "no such folder" in doctor.self_test(Path("/nowhere")).text


def test_a_server_says_its_health_and_its_models(server: ServerProcess) -> None:
    health, info = doctor.answers(server.address)
    assert (health.level, info.level) == ("ok", "ok")
    assert health.text.startswith("SERVING, in ")
    assert "digits version 1, in " in info.text


def test_a_server_that_is_not_there_fails_in_its_time() -> None:
    findings = list(doctor.answers("127.0.0.1:1", timeout=2.0))
    assert [finding.level for finding in findings] == ["fail", "fail"]
    assert all("127.0.0.1:1: failed to connect" in finding.text for finding in findings)


class Answers(vae_pb2_grpc.VaeServiceServicer):
    """A server that knows one token."""

    def Info(self, request: vae_pb2.InfoRequest, context: grpc.ServicerContext) -> vae_pb2.InfoResponse:  # noqa: N802
        if ("authorization", "Bearer right") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return described("3")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[str, TLS]]:
    """A server with TLS that is not ready, and how to connect to it."""
    authority = Authority(tmp_path)
    signed = authority.sign("localhost", "127.0.0.1")
    pair = (signed.key.read_bytes(), signed.cert.read_bytes())
    server = grpc.server(ThreadPoolExecutor(1))
    vae_pb2_grpc.add_VaeServiceServicer_to_server(Answers(), server)  # type: ignore[abstract]
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield f"127.0.0.1:{port}", TLS(ca=authority.ca)
    server.stop(None).wait()


def test_a_server_with_tls_and_tokens_is_asked_with_them(locked: tuple[str, TLS]) -> None:
    address, tls = locked
    health, info = doctor.answers(address, tls, "right")
    assert (health.level, info.level) == ("fail", "ok")
    assert health.text == f"{address}: says NOT_SERVING"
    assert "toy version 3" in info.text
    _, refused = doctor.answers(address, tls, "wrong")
    assert "no token" in refused.text
    assert "wrong" not in refused.text
    plain = list(doctor.answers(address, timeout=2.0))
    assert [finding.level for finding in plain] == ["fail", "fail"]


ROWS = [ok("one", "all is well"), warn("second", "perhaps", "look"), fail("x", "no", "do")]


def test_a_table_has_a_line_for_each_finding_and_its_advice_below() -> None:
    assert as_table(ROWS).splitlines() == [
        "ok    one     all is well",
        "warn  second  perhaps",
        "              -> look",
        "fail  x       no",
        "              -> do",
    ]


def test_json_gives_back_the_findings() -> None:
    value = json.loads(as_json(ROWS))
    assert value["ok"] is False
    assert [Finding(**each) for each in value["findings"]] == ROWS


def test_warnings_are_no_failures() -> None:
    assert not failed(ROWS[:2])
    assert failed(ROWS)


def test_the_command_succeeds_with_a_package_and_a_server(
    package: Path, server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--package", str(package), "--server", server.address]) == 0
    out = capsys.readouterr().out
    assert f"numpy {np.__version__}" in out
    assert "computes what was proven" in out
    assert "SERVING" in out
    assert "fail" not in out


def test_a_precision_that_the_package_has_not_is_a_failure(package: Path) -> None:
    finding = doctor.self_test(package, "int8")
    assert finding.level == "fail"
    assert "precision: expected what digits version 1 has: fp32, got int8" in finding.text


def test_the_command_exits_with_1_if_something_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--package", "/nowhere"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert [each["text"] for each in value["findings"] if each["level"] == "fail"] == ["/nowhere: no such folder"]
