"""What several test modules need and no library has."""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

ROOT = Path(__file__).parents[1]

BAD_SCORE_NUMBERS: list[tuple[Any, str]] = [
    ({"importance_samples": "5"}, "importance_samples: expected an integer, got '5'"),
    ({"importance_samples": None}, "importance_samples: expected an integer, got None"),
    ({"importance_samples": 2.5}, r"importance_samples: expected an integer, got 2\.5"),
    ({"first_row": "a"}, "first_row: expected an integer, got 'a'"),
    ({"first_row": 1.5}, r"first_row: expected an integer, got 1\.5"),
    ({"first_row": -1}, "first_row: expected 0 <= first_row <= .*, got -1$"),
    ({"first_row": 2**63, "importance_samples": 2}, f"first_row: expected 0 <= .*, got {2**63}$"),
    ({"seed": 2**64}, "seed: expected 0 <= seed"),
    ({"seed": "a"}, "seed: expected an integer, got 'a'"),
]
"""Arguments of `score` that are refused, and how, by the model, the client and the core alike."""


def write_keys(folder: Path, key: PrivateKeyTypes | None = None) -> tuple[Path, Path]:
    """A key pair in PEM, private and public, in files of a new folder; on P-256 unless a key is given."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    folder.mkdir(parents=True)
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, kind, serialization.NoEncryption()))
    public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public)
    return folder / "key.pem", folder / "key.pub"


@dataclass
class ServerProcess:
    """`python -m serving` in a process of its own, on a free port."""

    process: subprocess.Popen[str]
    address: str
    log: IO[bytes]

    @classmethod
    def start(cls, *arguments: str) -> Self:
        """Start and wait until it says that it is ready."""
        log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        quick = ["--host", "127.0.0.1", "--port", "0", "--workers", "1", "--lame-duck-seconds", "0"]
        command = [sys.executable, "-W", "error", "-m", "serving", *quick, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        word, _, address = process.stdout.readline().strip().partition(" ")
        server = cls(process, address, log)
        assert word == "ready", server.read_log()
        return server

    def read_log(self) -> str:
        """Everything it has written to standard error. Without a seek: the offset is that of its writes, too."""
        descriptor = self.log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def workers(self) -> list[psutil.Process]:
        """Its worker processes, without multiprocessing's own helper."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if _is_worker(child)]

    def serving_workers(self) -> list[psutil.Process]:
        """Those that listen on its port."""
        port = int(self.address.rpartition(":")[2])
        return [worker for worker in self.workers() if _listens(worker, port)]

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it whatever it does; workers end with their parent."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any("spawn_main" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)
