"""Settings that cannot work refuse to start, and so does a port that somebody has."""

import dataclasses
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.pipeline import export_run
from export.sign import sign
from serving.models import load_models
from serving.repository import default_packages
from serving.settings import Settings, SettingsError
from serving.supervisor.ports import reserved_port
from tests.support import ROOT, ServerProcess, write_keys
from vaeport.errors import PackageError, SignatureError
from vaeport.graphs import choose_device


@pytest.mark.parametrize("host", ["a..b", "no.such.host.invalid"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    taken = reserved_port(host, 0)
    with pytest.raises(SettingsError, match=f"--host {host}"), taken:
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 65536}, "--port: expected 0 to 65535, got 65536"),
        ({"port": -1}, "--port"),
        ({"workers": -1}, "--workers: expected 0 or more, got -1"),
        ({"watch": -1.0}, "--watch"),
        ({"hang_seconds": 1.0}, "--hang-seconds"),
        ({"lame_duck_seconds": float("inf")}, "--lame-duck-seconds"),
        ({"threads": -1}, "--threads"),
        ({"max_batch_rows": 0}, "--max-batch-rows"),
        ({"gpu_mem_limit_mb": -1}, "--gpu-mem-limit-mb: expected 0 or more, got -1"),
        ({"batch_buckets": (0, 512)}, "--batch-buckets: expected to ascend to --max-batch-rows 512, got"),
        ({"batch_buckets": (1, 128)}, "--batch-buckets"),
        ({"batch_buckets": (16, 1, 512)}, "--batch-buckets"),
        ({"batch_buckets": (1, 512, 512)}, "--batch-buckets"),
        ({"max_queue_rows": 1023}, "--max-queue-rows: expected at least 1024"),
        ({"require_signature": Path("/no")}, "--require-signature: expected the file of a public key, got /no"),
        ({"http_port": 65536}, "--http-port: expected 0 to 65535, got 65536"),
        ({"max_queue_bytes": 0}, "--max-queue-bytes: expected at least 1, got 0"),
        ({"max_delay_ms": -1.0}, "--max-delay-ms"),
        ({"max_delay_ms": float("inf")}, "--max-delay-ms"),
        ({"canary_seconds": 0.0}, "--canary-seconds: expected more than 0 seconds, got 0.0"),
        ({"hang_seconds": float("inf")}, "--hang-seconds"),
        ({"grace": -1.0}, "--grace"),
        ({"listen": "tcp:1"}, "--listen: expected unix:PATH, got tcp:1"),
        ({"listen": "unix:"}, "--listen: expected unix:PATH"),
        ({"listen": "unix:/s", "workers": 2}, "--listen: .* cannot be shared; expected --workers 1"),
        ({"socket_mode": "999"}, "--socket-mode: expected octal permissions such as 600 or 660, got 999"),
        ({"socket_mode": "0o600"}, "--socket-mode"),
        ({"tls_cert": Path("c")}, "--tls-cert and --tls-key: expected both"),
        ({"tls_key": Path("k")}, "--tls-cert and --tls-key: expected both"),
        ({"tls_client_ca": Path("a")}, "--tls-client-ca: expected --tls-cert and --tls-key with it"),
        (
            {"insecure": True, "tls_cert": Path("c"), "tls_key": Path("k")},
            "--insecure: makes no sense together",
        ),
        ({"max_calls_per_peer": -1}, "--max-calls-per-peer: expected 0 or more, got -1"),
        ({"max_bytes_per_peer": -1}, "--max-bytes-per-peer"),
        ({"max_connections": -1}, "--max-connections: expected 0 or more, got -1"),
        ({"max_concurrent_streams": 0}, "--max-concurrent-streams: expected at least 1, got 0"),
        ({"max_connection_age_seconds": -1.0}, "--max-connection-age-seconds: expected 0 or more seconds"),
        ({"max_connection_idle_seconds": float("inf")}, "--max-connection-idle-seconds"),
        ({"keepalive_seconds": float("nan")}, "--keepalive-seconds"),
        ({"grace": float("nan")}, "--grace"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    Settings().check()
    with pytest.raises(SettingsError, match=message):
        dataclasses.replace(Settings(), **changes).check()  # type: ignore[arg-type]


def test_port_0_takes_a_free_one_and_keeps_it() -> None:
    with reserved_port("127.0.0.1", 0) as address:
        port = int(address.removeprefix("127.0.0.1:"))
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))


def test_a_port_that_another_server_shares_is_found_out() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # we could bind beside it, and must not
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(SettingsError, match=f"--port {port}: cannot listen there"),
            reserved_port("127.0.0.1", port),
        ):
            pass


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--host 192\.0\.2\.1"), reserved_port("192.0.2.1", 0):
        pass


def test_ipv6_addresses_are_bracketed() -> None:
    with reserved_port("::1", 0) as address:
        assert address.startswith("[::1]:")


def test_the_newest_version_of_each_model_is_loaded(two_models: Path, digits_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two_models, tmp_path / "models"))
    for version in (9, 10):
        export_run(digits_run, folder / "digits", version=version, formats=["onnx"])
    loaded = load_models(default_packages(folder), choose_device("cpu"), 1)
    manifests = [model.package.manifest for model in loaded]
    assert [(manifest.name, manifest.version) for manifest in manifests] == [("colour", 1), ("digits", 10)]


def test_a_host_name_stands_for_its_address() -> None:
    with reserved_port("localhost", 0) as address:
        assert address.startswith(("127.0.0.1:", "[::1]:"))


def test_a_package_under_another_name_is_refused(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "renamed" / "1")
    with pytest.raises(PackageError, match="renamed/1: holds version 1 of 'digits'; a package keeps its name"):
        load_models(default_packages(tmp_path), choose_device("cpu"), 1)


def test_every_package_that_is_loaded_must_be_signed(two_models: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two_models, tmp_path / "models"))
    private, public = keys
    sign(folder / "digits" / "1", private)
    with pytest.raises(SignatureError, match=r"colour/1\.sig: expected a signature by .*key\.pub: No such file"):
        load_models(default_packages(folder), choose_device("cpu"), 1, public_key=public)
    sign(folder / "colour" / "1", private)
    assert len(load_models(default_packages(folder), choose_device("cpu"), 1, public_key=public)) == 2


def test_a_server_that_demands_a_signature_starts_with_the_right_key_alone(
    models: Path, keys: tuple[Path, Path], tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    folder = Path(shutil.copytree(models, tmp_path / "models"))
    sign(folder / "digits" / "1", keys[0])
    settings = ["--models", str(folder), "--port", "0", "--require-signature"]
    server = start_server(*settings, str(keys[1]))
    assert f"digits/1: signed by {keys[1]}" in server.read_log()
    _, stranger = write_keys(tmp_path / "stranger")
    command = [sys.executable, "-m", "serving", *settings, str(stranger)]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (refused.returncode, refused.stdout) == (1, "")
    last = refused.stderr.splitlines()[-1]
    assert last.startswith(f"serving: error: {folder}/digits/1.sig: expected a signature of {folder}/digits/1 by")
    assert "Key mismatch" in last
