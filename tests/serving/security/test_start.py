"""What a server refuses to start with, and what it says when it does start; in real processes."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import vaeport
from serving.security.tokens import line_of, new_secret
from tests.certificates import DAY, Authority
from tests.support import ROOT, ServerProcess

PLAIN = ["--host", "0.0.0.0"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path)


def serve_and_fail(*arguments: str) -> str:
    """The one line on standard error of a server that does not start."""
    command = [sys.executable, "-m", "serving", "--models", "/no/models", "--port", "0", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("serving: error: ")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_plain_text_beyond_this_machine_is_refused() -> None:
    text = serve_and_fail(*PLAIN)
    assert "--host 0.0.0.0: other machines can reach it" in text
    assert "--tls-cert" in text
    assert "--insecure" in text


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_certificate_that_cannot_be_used_is_one_clear_message(authority: Authority, workers: str) -> None:
    expired = authority.server(begins=-3 * DAY, ends=-DAY)
    assert "valid from" in serve_and_fail(*PLAIN, *expired.flags(), "--workers", workers)


def test_tokens_that_cannot_be_used_are_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("bob infer\n")
    assert "tokens, line 1: expected name, scopes, digest" in serve_and_fail("--tokens", str(tmp_path / "tokens"))


def test_insecure_starts_and_says_aloud_what_is_open(start_server: Callable[..., ServerProcess], models: Path) -> None:
    server = start_server("--models", str(models), *PLAIN, "--insecure")
    log = server.read_log()
    assert "WARNING serving.security.start: 0.0.0.0 is open to other machines in plain text (--insecure)" in log
    assert "anyone who reaches 0.0.0.0 may call all but the admin calls" in log


def test_a_server_on_a_unix_socket_leaves_nothing_behind(
    start_server: Callable[..., ServerProcess], models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "vaeport.sock"
    settings = ["--models", str(models), "--listen", f"unix:{path}"]
    first = start_server(*settings)
    assert first.address == f"unix:{path}"
    with vaeport.Client(first.address) as client:
        assert client.sample(2).shape == (2, 1, 8, 8)
    assert f"unix:{path}: somebody listens there" in serve_and_fail("--listen", f"unix:{path}")
    first.process.kill()
    first.process.wait()
    second = start_server(*settings)  # what a killed server has left is no obstacle
    with vaeport.Client(second.address) as client:
        assert client.sample(2).shape == (2, 1, 8, 8)
    assert second.terminate() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_server_takes_as_many_files_as_it_may(start_server: Callable[..., ServerProcess], models: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = start_server("--models", str(models))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)


def test_the_log_of_a_server_holds_no_token(
    start_server: Callable[..., ServerProcess], models: Path, tmp_path: Path
) -> None:
    import grpc

    from serving.security.access import Scope
    from vaeport.v1 import vae_pb2, vae_pb2_grpc

    good, bad = new_secret(), new_secret()
    (tmp_path / "tokens").write_text(line_of("bob", [Scope.INFER], good))
    server = start_server("--models", str(models), "--tokens", str(tmp_path / "tokens"))
    codes = []
    with grpc.insecure_channel(server.address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        for secret in (good, bad):
            call = stub.Info.future(vae_pb2.InfoRequest(), metadata=(("authorization", f"Bearer {secret}"),))
            codes.append(call.code())
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED]
    assert server.terminate() == 0
    log = server.read_log()
    assert good not in log
    assert bad not in log
