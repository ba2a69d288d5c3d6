"""What no honest client sends, sent to a real server while an honest client calls: every call of his is answered in
time, the process does not grow, and the log has no traceback."""

import contextlib
import gzip
import random
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from serving.edge.oip import grpc_service_pb2 as inference_pb2
from tests.certificates import Authority
from tests.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    frame,
    grpc_headers,
    hpack,
    message,
)
from tests.support import ROOT, ServerProcess
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import to_tensor

MAY_GROW = 160 * 2**20  # bytes, of the process; what each attack sends is a multiple of it, or asks for one
DEADLINE_SECONDS = 10.0  # of the honest client's calls, on a busy machine
SERVICE = b"/vaeport.v1.VaeService/"
CALL = grpc_headers(SERVICE + b"Sample")
OPEN = frame(HEADERS, END_HEADERS, 1, CALL)
PADDED = 0x8
LATENT_DIM = 5  # of the digits


@pytest.fixture(scope="module")
def target(models: Path) -> Iterator[ServerProcess]:
    process = ServerProcess.start("--models", str(models))
    yield process
    process.kill()


def worker_of(target: ServerProcess) -> psutil.Process:
    """The process that has the connections."""
    (worker,) = target.workers()
    return worker


@contextlib.contextmanager
def undisturbed(
    target: ServerProcess, credentials: grpc.ChannelCredentials | None = None, may_grow: int = MAY_GROW
) -> Iterator[None]:
    """An honest client calls all the while, and at least once after it."""
    process = worker_of(target)
    ended, answered, before = threading.Event(), 0, process.memory_info().rss
    log_before = len(target.read_log())
    failed: list[object] = []

    def call_on() -> None:
        nonlocal answered
        with contextlib.ExitStack() as stack:
            if credentials is None:
                channel = grpc.insecure_channel(target.address)
            else:
                channel = grpc.secure_channel(target.address, credentials)
            stub = vae_pb2_grpc.VaeServiceStub(stack.enter_context(channel))
            last = False
            while not last:
                last = ended.is_set()
                try:
                    stub.Sample(vae_pb2.SampleRequest(count=1), timeout=DEADLINE_SECONDS)
                    answered += 1
                except grpc.RpcError as error:
                    failed.append((error.code(), error.details()))
                time.sleep(0.002)

    client = threading.Thread(target=call_on)
    client.start()
    try:
        yield
    finally:
        ended.set()
        client.join()
    assert failed == []
    assert answered > 0
    assert process.memory_info().rss - before < may_grow
    log = target.read_log()[log_before:]
    assert "Traceback" not in log, log


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def answer_to(address: str, data: bytes, seconds: float = 0.2) -> bytes:
    """What comes back for some bytes until the server closes the connection, or for so long."""
    with Connection(address) as connection:
        connection.socket.settimeout(seconds)
        with contextlib.suppress(OSError):  # it may close while we send
            connection.send(data)
        return connection.until_end()


NO_FRAMES = {
    "random bytes": random.Random(0).randbytes(2000),
    "HTTP/1.1": b"POST /vaeport.v1.VaeService/Sample HTTP/1.1\r\nHost: x\r\n\r\n",
    "the hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(507),
    "half a preface": PREFACE[:12],
    "a preface and then random bytes": PREFACE + random.Random(1).randbytes(5000),
    "nothing": b"",
}
BAD_FRAMES = {
    "data without a stream": frame(DATA, 0, 0, b"x"),
    "a stream of an even number": frame(HEADERS, END_HEADERS, 2, CALL),
    "settings that are cut": frame(SETTINGS, 0, 0, b"abc"),
    "settings of a stream": frame(SETTINGS, 0, 1),
    "a window of nothing more": frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "a window beyond 2^31": 3 * frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
    "a ping that is cut": frame(PING, 0, 0, b"abc"),
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, CALL),
    "headers within headers": frame(HEADERS, 0, 1, CALL) + frame(HEADERS, END_HEADERS, 3, CALL),
    "a promise by a client": frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + CALL),
    "an index far beyond the table": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\x0f"),
    "a table of gigabytes": frame(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\xff\x7f" + CALL),
    "more padding than frame": frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + CALL),
    "a frame of 16 MB": b"\xff\xff\xff" + struct.pack(">BBI", DATA, 0, 1),
    "a kind that is none": frame(0x77, 0xFF, 1, bytes(100)),
    "no path": frame(HEADERS, END_HEADERS, 1, hpack([(b":method", b"POST")])),
    "two paths": frame(HEADERS, END_HEADERS, 1, hpack([(b":path", b"/x")]) + CALL),
    "a header with an end of line": frame(HEADERS, END_HEADERS, 1, grpc_headers(SERVICE, (b"x", b"a\0b\r\n"))),
    "a deadline that is no number": frame(HEADERS, END_HEADERS, 1, grpc_headers(SERVICE, (b"grpc-timeout", b"9999H9"))),
    "a message of 4 GB": OPEN + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff" + bytes(1000)),
    "a message that is cut": OPEN + frame(DATA, END_STREAM, 1, b"\0\0\0\0\x0aabc"),
    "a message of a flag that is none": OPEN + frame(DATA, END_STREAM, 1, b"\7\0\0\0\0"),
}


def test_bytes_that_are_no_http2_end_their_connection_alone(target: ServerProcess) -> None:
    with undisturbed(target):
        for data in NO_FRAMES.values():
            answer_to(target.address, data)


def test_frames_that_break_the_rules_end_their_connection_alone(target: ServerProcess) -> None:
    with undisturbed(target):
        for data in BAD_FRAMES.values():
            answer_to(target.address, PREFACE + frame(SETTINGS) + data, 0.05)


@pytest.mark.parametrize(
    "headers",
    [
        grpc_headers(b"/secret\xff"),
        grpc_headers(SERVICE + b"Info", (b"authorization", b"Bearer secret\xff")),
        grpc_headers(SERVICE + b"Info", (b"secret\xff", b"x")),
    ],
)
def test_text_that_is_no_text_is_answered_and_stays_out_of_the_log(target: ServerProcess, headers: bytes) -> None:
    """gRPC would repeat it there, token or not, with a traceback."""
    call = frame(HEADERS, END_HEADERS, 1, headers) + frame(DATA, END_STREAM, 1, message(b""))
    with undisturbed(target), Connection.opened(target.address) as connection:
        connection.send(call)
        received = b""
        while b"grpc-status" not in received:
            data = connection.socket.recv(65536)
            assert data, "closed without an answer"
            received += data
    assert "secret" not in target.read_log()


def test_mutations_of_a_good_call_end_their_connection_alone(target: ServerProcess) -> None:
    """The path stays text. gRPC itself would print a traceback for one that is not, if its caller has left."""
    request = vae_pb2.SampleRequest(count=1).SerializeToString()
    good = PREFACE + frame(SETTINGS) + OPEN + frame(DATA, END_STREAM, 1, message(request))
    assert b"grpc-status\x010" in answer_to(target.address, good, 1.0), "the original is answered"
    dice, path = random.Random(2), good.index(SERVICE)
    with undisturbed(target):
        for _ in range(300):
            mutated = bytearray(good)
            for _ in range(dice.randint(1, 4)):
                at = dice.randrange(len(PREFACE), len(mutated))
                mutated[at] = dice.randrange(128 if path <= at < path + 40 else 256)
            answer_to(target.address, bytes(mutated), 0.005)


def test_a_small_message_that_unpacks_to_gigabytes_is_refused(target: ServerProcess) -> None:
    """Half a megabyte of gzip holds 400 MB, of which nothing is kept beyond the limit of a message."""
    packed = gzip.compress(bytes(400 * 2**20), 9)
    body = b"\1" + struct.pack(">I", len(packed)) + packed
    headers = grpc_headers(SERVICE + b"Sample", (b"grpc-encoding", b"gzip"))
    frames = [frame(DATA, 0, 1, body[at : at + 16_000]) for at in range(0, len(body), 16_000)]
    with undisturbed(target):
        sent = PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, headers)
        answer_to(target.address, sent + b"".join(frames) + frame(DATA, END_STREAM, 1), 1.0)


def flood(address: str, make: Callable[[int], bytes], count: int, chunk: int) -> None:
    """Frames as fast as the server takes them, until there are so many or it has enough; all that it has taken is
    dealt with when this returns."""
    with Connection.opened(address, DEADLINE_SECONDS) as connection:
        answers = threading.Thread(target=connection.until_end)  # unread, they would hold up what we send
        answers.start()
        with contextlib.suppress(OSError):
            for at in range(0, count, chunk):
                connection.send(b"".join(make(number) for number in range(at, at + chunk)))
            connection.socket.shutdown(socket.SHUT_WR)
        answers.join()


FLOODS: dict[str, tuple[Callable[[int], bytes], int, int]] = {
    "pings": (lambda _: frame(PING, 0, 0, bytes(8)), 10_000, 1000),  # gRPC needs the square of their number
    "settings": (lambda _: frame(SETTINGS), 100_000, 1000),
    "empty data": (lambda n: frame(DATA, 0, 1) if n else OPEN, 100_000, 1000),
    "calls that are opened and reset": (
        lambda n: frame(HEADERS, END_HEADERS, 2 * n + 1, CALL) + frame(RST_STREAM, 0, 2 * n + 1, b"\0\0\0\x08"),
        20_000,
        100,
    ),
    "calls that stay open": (lambda n: frame(HEADERS, END_HEADERS, 2 * n + 1, CALL), 20_000, 100),
    "headers of 32 MB": (
        lambda n: frame(CONTINUATION, 0, 1, hpack([(b"x-%d" % n, bytes(1000))])) if n else frame(HEADERS, 0, 1, CALL),
        32_000,
        100,
    ),
    "headers without an end": (
        lambda n: frame(CONTINUATION, 0, 1) if n else frame(HEADERS, 0, 1, CALL),
        100_000,
        1000,
    ),
    "headers that repeat a large one": (
        lambda n: frame(
            HEADERS, END_HEADERS, 2 * n + 1, CALL + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 12_000
        ),
        50,
        10,
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_frames_drowns_its_connection_alone(target: ServerProcess, kind: str) -> None:
    with undisturbed(target):
        for _ in range(3):
            flood(target.address, *FLOODS[kind])


def test_headers_over_the_limit_are_refused_and_below_it_never(target: ServerProcess) -> None:
    """gRPC would refuse some by chance from 8 KiB on."""
    with grpc.insecure_channel(target.address, options=[("grpc.max_metadata_size", 2**20)]) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        for _ in range(20):
            stub.Info(vae_pb2.InfoRequest(), metadata=(("x", "y" * 15_000),), timeout=DEADLINE_SECONDS)
        with undisturbed(target), pytest.raises(grpc.RpcError) as refused:
            stub.Info(vae_pb2.InfoRequest(), metadata=(("x", "y" * 17_000),), timeout=DEADLINE_SECONDS)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def raise_limit_of_files(wanted: int) -> int:
    """How many connections this process may open, with some files to spare."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = hard if hard != resource.RLIM_INFINITY else wanted + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, soft - 500)


def idle(target: ServerProcess, count: int) -> None:
    """Connections that say nothing, and as many that have said hello and then nothing."""
    with contextlib.ExitStack() as stack, undisturbed(target, may_grow=MAY_GROW + 32 * 1024 * count):
        for number in range(count):
            connection = Connection.opened(target.address) if number % 2 else Connection(target.address)
            stack.enter_context(connection)
        process = worker_of(target)
        until(lambda: process.num_fds() > count // 2, "all that have said hello are served")


def test_idle_connections_cost_nobody_else(target: ServerProcess) -> None:
    idle(target, 300)


@pytest.mark.soak
def test_ten_thousand_idle_connections_cost_nobody_else(target: ServerProcess) -> None:
    count = raise_limit_of_files(10_000)
    print(f"{count} connections, as many as this machine allows up to 10000")
    idle(target, count)


@pytest.mark.soak
def test_who_never_finishes_a_handshake_is_closed(target: ServerProcess) -> None:
    with Connection(target.address, timeout=30) as silent, undisturbed(target):
        began = time.monotonic()
        silent.until_end()
        assert 5 < time.monotonic() - began < 25


@pytest.mark.soak
def test_who_is_gone_without_a_word_is_noticed(models: Path, start_server: Callable[..., ServerProcess]) -> None:
    """A peer that answers no ping is like one whose cable was cut."""
    server = start_server("--models", str(models), "--keepalive-seconds", "1")
    with Connection.opened(server.address) as gone, undisturbed(server):
        gone.socket.settimeout(60)
        began = time.monotonic()
        gone.until_end()
        assert 15 < time.monotonic() - began < 45  # gRPC alone would take 60


def test_slow_senders_hold_up_nobody(target: ServerProcess) -> None:
    """Calls whose messages never end, a byte at a time."""
    begin = frame(HEADERS, END_HEADERS, 1, grpc_headers(SERVICE + b"Encode")) + frame(DATA, 0, 1, b"\0\0\1\0\0" + b"x")
    with contextlib.ExitStack() as stack, undisturbed(target):
        slow = [stack.enter_context(Connection.opened(target.address)) for _ in range(200)]
        for connection in slow:
            connection.send(begin)
        for _ in range(5):
            for connection in slow:
                connection.send(frame(DATA, 0, 1, b"x"))


def test_slow_readers_hold_up_nobody_and_nothing_piles_up_for_them(target: ServerProcess) -> None:
    """Streams of gigabytes of which nothing is read, each with a chunk in hand and one being computed."""
    request = vae_pb2.SampleStreamRequest(count=2**31, chunk_rows=64).SerializeToString()
    begin = frame(HEADERS, END_HEADERS, 1, grpc_headers(SERVICE + b"SampleStream"))
    process = worker_of(target)
    with contextlib.ExitStack() as stack, undisturbed(target):
        for _ in range(30):
            connection = stack.enter_context(Connection.opened(target.address))
            connection.send(begin + frame(DATA, END_STREAM, 1, message(request)))

        until(lambda: rests(process), "all wait for their readers, and nothing is computed for them any more")


def rests(process: psutil.Process) -> bool:
    """Whether it spends next to no time."""
    spent = sum(process.cpu_times()[:2])
    time.sleep(0.2)
    return sum(process.cpu_times()[:2]) - spent < 0.15


def samples() -> tuple[bytes, list[bytes]]:
    """Method and messages of a stream with 262 KB a chunk."""
    request = vae_pb2.SampleStreamRequest(count=2**31, chunk_rows=1024)
    return SERVICE + b"SampleStream", [request.SerializeToString()]


def decoded() -> tuple[bytes, list[bytes]]:
    """Of one with two answers of 524 KB; the requests fit into the window that a server gives at first."""
    request = inference_pb2.ModelInferRequest(model_name="digits_decoder")
    request.inputs.add(name="latent", datatype="FP32", shape=[1024, LATENT_DIM])
    request.raw_input_contents.append(bytes(4 * 1024 * LATENT_DIM))
    return b"/inference.GRPCInferenceService/ModelStreamInfer", 2 * [request.SerializeToString()]


@pytest.mark.parametrize("stream", [samples, decoded])
def test_streams_that_nobody_reads_take_no_more_memory_than_answers_may(
    models: Path, start_server: Callable[..., ServerProcess], stream: Callable[[], tuple[bytes, list[bytes]]]
) -> None:
    """Sixty streams for each of the two would be over 60 MB."""
    server = start_server("--models", str(models), "--max-queue-bytes", str(8 * 2**20))
    process = worker_of(server)
    path, messages = stream()
    data = b"".join(message(each) for each in messages)
    frames = b"".join(frame(DATA, 0, 1, data[at : at + 16_000]) for at in range(0, len(data), 16_000))
    with grpc.insecure_channel(server.address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        stub.Decode(vae_pb2.DecodeRequest(latents=to_tensor(np.zeros((1024, LATENT_DIM), np.float32))))  # it has grown
        before = process.memory_info().rss
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                connection = stack.enter_context(Connection.opened(server.address))
                connection.send(frame(HEADERS, END_HEADERS, 1, grpc_headers(path)) + frames)
                time.sleep(0.05)  # the queue has room for all of them
            until(lambda: rests(process), "all wait for their readers")
            assert process.memory_info().rss - before < 32 * 2**20
            with pytest.raises(grpc.RpcError) as refused:
                stub.Sample(vae_pb2.SampleRequest(count=1), timeout=DEADLINE_SECONDS)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        def answered() -> bool:
            with contextlib.suppress(grpc.RpcError):
                return bool(stub.Sample(vae_pb2.SampleRequest(count=1), timeout=DEADLINE_SECONDS))
            return False

        until(answered, "those who have gone leave room")


@pytest.fixture(scope="module")
def with_tls(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Authority]]:
    authority = Authority.new(tmp_path_factory.mktemp("certificates"))
    process = ServerProcess.start("--models", str(models), *authority.server().flags())
    yield process, authority
    process.kill()


def test_a_tls_port_is_left_intact_by_plain_text_and_by_half_a_handshake(
    with_tls: tuple[ServerProcess, Authority],
) -> None:
    target, authority = with_tls
    outgoing = ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    first = outgoing.read()
    with undisturbed(target, grpc.ssl_channel_credentials(authority.pem)):
        for data in [*NO_FRAMES.values(), PREFACE + frame(SETTINGS) + OPEN, first[:50], first, first + bytes(5000)]:
            assert b"grpc" not in answer_to(target.address, data)


def test_connections_that_are_cut_in_the_middle_of_everything_leave_nothing(target: ServerProcess) -> None:
    """Reset, not closed: what is on its way in either direction is lost."""
    request = vae_pb2.SampleStreamRequest(count=10_000, chunk_rows=64).SerializeToString()
    begin = frame(HEADERS, END_HEADERS, 1, grpc_headers(SERVICE + b"SampleStream"))
    process = worker_of(target)
    before = process.num_fds()
    with undisturbed(target):
        for number in range(100):
            with Connection.opened(target.address) as connection:
                connection.send(begin + frame(DATA, END_STREAM, 1, message(request)))
                if number % 2:
                    connection.socket.recv(1000)
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: process.num_fds() <= before + 5, "no connection stays")


def test_a_certificate_is_renewed_under_load_without_a_failed_call(
    models: Path, tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    authority = Authority.new(tmp_path)
    files, renewed = authority.server("old"), authority.server("new")
    server = start_server("--models", str(models), *files.flags())
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])

    def shown() -> str:
        host, _, port = server.address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), 5) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            certificate = tls.getpeercert() or {}
        return str(certificate["subject"])

    with undisturbed(server, grpc.ssl_channel_credentials(authority.pem)):
        assert "old" in shown()
        renewed.cert.replace(files.cert)
        renewed.key.replace(files.key)
        until(lambda: "new" in shown(), "the new certificate is shown")
    assert "certificate: renewed from" in server.read_log()


def test_the_command_line_refuses_plain_text_for_others() -> None:
    command = [sys.executable, "-m", "serving", "--models", "/no", "--host", "::"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert "--insecure" in refused.stderr
