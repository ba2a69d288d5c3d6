"""Health and logs of real servers: who watches, a device that falls ill, and what a log must never hold."""

import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.serving.test_edge import free_address
from tests.serving.toy_graphs import GOOD, HANGS, WRONG
from tests.support import ROOT, ServerProcess
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import REQUEST_ID_KEY, to_tensor

Start = Callable[..., ServerProcess]

NOT_SERVING, SERVING = health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING
MODEL = "vaeport.v1.VaeService/digits"


def watch(channel: grpc.Channel, service: str = "") -> Any:
    """What the server says, one status after the other."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)


def check(channel: grpc.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status
    return status


def ended_with(watcher: Any) -> grpc.StatusCode:
    """The status of a watch that has nothing more to say."""
    with pytest.raises(grpc.RpcError):
        next(watcher)
    code: grpc.StatusCode = watcher.code()
    return code


def test_watchers_of_a_server_survive_one_of_them_and_see_its_end(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models))
    with contextlib.ExitStack() as stack:
        # A connection each: gRPC would share one.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(server.address, options)) for _ in range(3)]
        watchers = [watch(channel, name) for channel, name in zip(channels, ("", "", MODEL), strict=True)]
        assert [next(watcher).status for watcher in watchers] == [SERVING] * 3
        channels[0].close()
        assert [check(channel) for channel in channels[1:]] == [SERVING] * 2
        server.process.send_signal(signal.SIGTERM)
        assert [next(watcher).status for watcher in watchers[1:]] == [NOT_SERVING] * 2
        assert [ended_with(watcher) for watcher in watchers[1:]] == [grpc.StatusCode.UNAVAILABLE] * 2
        assert server.process.wait(30) == 0
    assert "Traceback" not in server.read_log()


@contextlib.contextmanager
def sick_server(models: Path) -> Iterator[tuple[Popen[str], str, Callable[[str], None]]]:
    """A server whose device is as the function says that comes with it."""
    address = free_address()
    command = [sys.executable, "-m", "tests.serving.sick_device", str(models), address]
    with Popen(command, cwd=ROOT, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        stdin: IO[str] = process.stdin

        def becomes(mood: str) -> None:
            stdin.write(f"{mood}\n")
            stdin.flush()

        try:
            assert process.stdout.readline() == "ready\n"
            yield process, address, becomes
        finally:
            process.kill()


def test_health_follows_the_device_and_is_answered_whatever_the_engine_does(models: Path) -> None:
    request = vae_pb2.EncodeRequest(images=to_tensor(np.zeros((512, 8, 8), np.float32)))
    with sick_server(models) as (process, address, becomes), grpc.insecure_channel(address) as channel:
        encode = vae_pb2_grpc.VaeServiceStub(channel).Encode
        watchers = [watch(channel), watch(channel, MODEL)]
        for mood, status in ((None, SERVING), (WRONG, NOT_SERVING), (GOOD, SERVING), (HANGS, NOT_SERVING)):
            if mood is not None:
                becomes(mood)
            assert [next(watcher).status for watcher in watchers] == [status] * 2
            assert check(channel) == status
        calls = [encode.future(request) for _ in range(4)]
        full = encode.future(vae_pb2.EncodeRequest(images=to_tensor(np.zeros((1024, 8, 8), np.float32))))
        assert full.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert check(channel, MODEL) == NOT_SERVING
        becomes(GOOD)
        assert [next(watcher).status for watcher in watchers] == [SERVING] * 2
        answered = [call for call in calls if call.exception(timeout=20) is None]
        assert len(answered) >= 2  # the others found no room
        process.send_signal(signal.SIGTERM)
        assert [next(watcher).status for watcher in watchers] == [NOT_SERVING] * 2
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    lines = [line.partition(" serving.health: ")[2] for line in log.splitlines() if " serving.health: " in line]
    assert [line.partition(":")[0] for line in lines] == ["digits is not ready", "digits is ready again"] * 2


TOKEN = "sesame-opens-7391"  # noqa: S105 - of nobody
FLOAT = np.float32(0.7391825)  # in [0, 1]: a good pixel


def secrets() -> list[tuple[str, np.ndarray, Any]]:
    """Calls with what nobody may read in a log, good and bad, and the array of each."""
    images = np.full((2, 8, 8), FLOAT, np.float32)
    wild = np.full((2, 8, 8), 73.91825, np.float32)
    latents = np.full((2, 5), 0.7391825, np.float32)
    pixels = np.frombuffer(b"secret-pixels-7391" * 8, np.uint8)[:128].reshape(2, 8, 8)
    strange = np.full((2, 5), np.float32(7391825.0), np.float32)
    strange[0, 0] = np.nan
    return [
        ("Encode", images, vae_pb2.EncodeRequest(images=to_tensor(images))),
        ("Encode", pixels, vae_pb2.EncodeRequest(images=to_tensor(pixels))),
        ("Encode", wild, vae_pb2.EncodeRequest(images=to_tensor(wild))),
        ("Decode", latents, vae_pb2.DecodeRequest(latents=to_tensor(latents))),
        ("Decode", strange, vae_pb2.DecodeRequest(latents=to_tensor(strange))),
        ("Reconstruct", pixels, vae_pb2.ReconstructRequest(images=to_tensor(pixels))),
        ("Score", images, vae_pb2.ScoreRequest(images=to_tensor(images), importance_samples=5)),
        ("EncodeStream", pixels, vae_pb2.EncodeRequest(images=to_tensor(pixels))),
    ]


def send(channel: grpc.Channel, method: str, request: Any) -> grpc.StatusCode:
    metadata = (("authorization", f"Bearer {TOKEN}"), (REQUEST_ID_KEY, "id-7"))
    untyped: Any = channel
    path = f"/vaeport.v1.VaeService/{method}"
    if method == "EncodeStream":
        stream = untyped.stream_stream(path)(iter([request, request]), metadata=metadata, timeout=30)
        with contextlib.suppress(grpc.RpcError):
            list(stream)
        call = stream
    else:
        call = untyped.unary_unary(path).future(request, metadata=metadata, timeout=30)
    code: grpc.StatusCode = call.code()
    return code


def test_no_payload_latent_or_token_is_ever_logged(
    start_server: Start, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("GRPC_VERBOSITY", "debug"), ("PYTHONASYNCIODEBUG", "1")):
        monkeypatch.setenv(name, value)  # the most that anybody can ask for
    server = start_server("--models", str(models), "--log-format", "json", "--log-calls", "all")
    # Whole numbers, more digits than a duration or a time of the log has: none of those can look like them.
    hidden = [TOKEN, base64.b64encode(TOKEN.encode()).decode()[:-2], "7391825", "73.91825"]
    codes = []
    with grpc.insecure_channel(server.address) as channel:
        for method, array, request in secrets():
            data = request.SerializeToString()
            codes += [send(channel, method, data), send(channel, method, data[:-3])]  # the second does not parse
            raw = array.tobytes()[:16]
            hidden += [raw.decode("latin-1"), raw.hex(), base64.b64encode(raw[:15]).decode(), repr(raw)[2:-1]]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
    assert server.terminate() == 0
    log = server.read_log()
    for secret in hidden:
        assert secret not in log
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    calls = [event for event in events if event["logger"] == "serving.edge.call_log"]
    assert [event["status"] for event in calls] == [code.name for code in codes]
    assert {event["request_id"] for event in calls} == {"id-7"}


def test_the_log_of_a_server_is_json_from_start_to_end(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models), "--log-format", "json", "--workers", "2")
    with grpc.insecure_channel(server.address) as channel:
        assert check(channel) == SERVING
    assert server.terminate() == 0
    events = [json.loads(line) for line in server.read_log().splitlines()]
    assert {event.get("worker") for event in events if event["logger"] == "serving.worker"} == {0, 1}
    assert any("loaded digits version 1" in event["message"] for event in events)


def test_a_server_that_cannot_start_says_why_in_the_format_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving", "--port", "0", "--models", str(tmp_path), "--log-format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert last["level"] == "CRITICAL"
    assert f"{tmp_path}: no models here" in last["message"]
