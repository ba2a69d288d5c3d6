"""Load on a server, from processes of its own: a closed loop by h2load where it is installed, an open loop by Python.

closed loop   a fixed number of calls in flight; each answer starts the next. Measures what a server can do at most.
open loop     calls arrive as they would in earnest, whether earlier ones are answered or not. A latency counts from
              the moment the call should have been sent, so that a stall is felt by all that arrive in it.
"""

import argparse
import asyncio
import gc
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import numpy as np
from grpc import aio

from benchmarks.serving.servers import Server
from vaeport.v1 import vae_pb2
from vaeport.wire import to_tensor

ENCODE = "/vaeport.v1.VaeService/Encode"
CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Closed:
    """What a closed loop measured, without its warm-up.

    Attributes:
        per_second: answered calls.
        cpu_seconds: of the server, per call.
    """

    per_second: float
    cpu_seconds: float


@dataclass(slots=True)
class Open:
    """What an open loop measured, in seconds from the moment each call was due.

    Attributes:
        seconds: from the first arrival to the last answer.
        answered: the calls that were, in time.
        refused: those that ended with RESOURCE_EXHAUSTED.
        late: those that ended with DEADLINE_EXCEEDED, be it at once or at their deadline.
        lag: how late each call was sent. It is in the other figures, though it is not the server's doing.
        failed: calls that ended otherwise.
    """

    seconds: float
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def unanswered(self) -> list[float]:
        """Seconds of the calls that were refused, on arrival or later."""
        return self.refused + self.late


def encode_request(rows: int, dtype: str) -> bytes:
    """An Encode of random images 28x28."""
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 1, 28, 28), np.uint8)
    images = pixels if dtype == "uint8" else (pixels / np.float32(255)).astype(np.float32)
    return vae_pb2.EncodeRequest(images=to_tensor(images)).SerializeToString()


def closed_loop(server: Server, body: bytes, in_flight: int, seconds: float, core: int | None) -> Closed:
    """Keep `in_flight` calls going from another core."""
    _probe(server, body)  # h2load does not look at a call's status
    before = server.cpu_seconds()
    done = (_h2load if shutil.which("h2load") else python_closed)(server.address, body, in_flight, seconds, core)
    return Closed(done / seconds, (server.cpu_seconds() - before) / done)


def _probe(server: Server, body: bytes) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ENCODE)
        call(body, timeout=30)


def _h2load(address: str, body: bytes, in_flight: int, seconds: float, core: int | None) -> int:
    connections = min(CONNECTIONS, in_flight)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\0" + len(body).to_bytes(4, "big") + body)  # gRPC's framing
        file.flush()
        streams = ["-c", str(connections), "-m", str(in_flight // connections)]
        command = ["h2load", f"--duration={math.ceil(seconds)}", *streams]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        windows = ["-w", "24", "-W", "26"]  # not to measure flow control
        output = subprocess.run(
            [*_on(core), *command, *windows, *headers, "-d", file.name, f"http://{address}{ENCODE}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", output)
    assert found is not None, output
    if int(found[3]):
        raise RuntimeError(f"h2load: {found[0]}")
    return int(found[1])


def python_closed(address: str, body: bytes, in_flight: int, seconds: float, core: int | None) -> int:
    """Calls that the generator in Python gets answered."""
    arguments = [f"--in-flight={in_flight}", f"--seconds={seconds}"]
    return int(json.loads(_generator("closed", address, body, core, *arguments)))


def open_loop(
    address: str, body: bytes, rate: float, seconds: float, timeout: float, core: int | None, *, burst: int = 1
) -> Open:
    """Poisson arrivals of `burst` calls at a time, `rate` calls a second on average, each with a deadline."""
    arguments = [f"--rate={rate}", f"--seconds={seconds}", f"--timeout={timeout}", f"--burst={burst}"]
    return Open(**json.loads(_generator("open", address, body, core, *arguments)))


def _generator(kind: str, address: str, body: bytes, core: int | None, *arguments: str) -> str:
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.serving.load", kind, address, file.name, *arguments]
        return subprocess.run([*_on(core), *command], capture_output=True, text=True, check=True).stdout


def _on(core: int | None) -> list[str]:
    return [] if core is None else ["taskset", "-c", str(core)]


async def _run_closed(address: str, body: bytes, in_flight: int, seconds: float) -> int:
    done = 0
    end = time.perf_counter() + seconds

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(body, timeout=30)
            done += 1

    async with aio.insecure_channel(address) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ENCODE)
        await asyncio.gather(*(worker() for _ in range(in_flight)))
    return done


async def _run_open(address: str, body: bytes, rate: float, seconds: float, patience: float, burst: int) -> Open:
    random = np.random.default_rng(os.getpid())
    moments = np.cumsum(random.exponential(burst / rate, int(2 * rate * seconds / burst) + 100))
    result, calls = Open(0.0), set[asyncio.Task[None]]()
    async with aio.insecure_channel(address) as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ENCODE)
        await call(body, timeout=30)
        start = time.perf_counter()
        for moment in moments[moments < seconds]:
            due = start + moment
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            for _ in range(burst):
                calls.add(task := asyncio.create_task(_one(call, body, due, patience, result)))
                task.add_done_callback(calls.discard)
        await asyncio.gather(*calls)
        result.seconds = time.perf_counter() - start
    return result


async def _one(
    call: "aio.UnaryUnaryMultiCallable[bytes, bytes]", body: bytes, due: float, patience: float, result: Open
) -> None:
    result.lag.append(lag := time.perf_counter() - due)
    try:
        await call(body, timeout=max(0.0, patience - lag))
        result.answered.append(time.perf_counter() - due)
    except aio.AioRpcError as error:
        elapsed = time.perf_counter() - due
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            result.refused.append(elapsed)
        elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            result.late.append(elapsed)
        else:
            result.failed += 1


def main() -> None:
    """Generate load; one line of JSON."""
    gc.disable()  # a collection among ten thousand calls would be felt as if the server had stalled
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("closed", "open"))
    parser.add_argument("address")
    parser.add_argument("body", type=Path)
    parser.add_argument("--in-flight", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--burst", type=int)
    parser.add_argument("--timeout", type=float)
    parser.add_argument("--seconds", type=float)
    o = parser.parse_args()
    body = o.body.read_bytes()
    if o.kind == "closed":
        print(json.dumps(asyncio.run(_run_closed(o.address, body, o.in_flight, o.seconds))))
    else:
        result = asyncio.run(_run_open(o.address, body, o.rate, o.seconds, o.timeout, o.burst))
        print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
