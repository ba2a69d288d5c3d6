"""Node asks a real server with the .proto alone, and gets the bytes that our client gets."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import vaeport
from tests.support import ROOT, ServerProcess

PROTO = ROOT / "protos" / "vaeport" / "v1" / "vae.proto"
NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ETIMEDOUT", "ENOTCACHED")
INSTALL = ["npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries", "1"]

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, as the lock names them, in a folder of its own."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "vae.mjs"):
        shutil.copy(ROOT / "examples" / "node" / name, folder)
    installed = subprocess.run(INSTALL, cwd=folder, capture_output=True, text=True, timeout=120)
    if installed.returncode and any(code in installed.stderr for code in NO_NETWORK):
        pytest.skip("needs the npm registry")
    assert installed.returncode == 0, installed.stderr
    return folder / "vae.mjs"


def run(program: Path, address: str) -> subprocess.CompletedProcess[str]:
    command = ["node", str(program), address, str(PROTO)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def described(array: np.ndarray) -> str:
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return f"[{','.join(map(str, array.shape))}] from {array.flat[0]:.6f} on, sha256 {digest}"


def test_node_gets_what_our_client_gets(program: Path, server: ServerProcess) -> None:
    finished = run(program, server.address)
    assert finished.returncode == 0, finished.stderr
    with vaeport.Client(server.address) as client:
        encoding = client.encode(np.full((8, 8), 128, np.uint8))
        samples = client.sample(4, seed=2**64 - 1)
    assert finished.stdout.splitlines() == [
        "digits version 1: images [1,8,8], 5 latent dimensions",
        f"mean {described(encoding.mean)}",
        f"log_var {described(encoding.log_var)}",
        f"samples {described(samples)} of seed {2**64 - 1}",
    ]


def test_an_error_is_one_line_and_status_1(program: Path) -> None:
    finished = run(program, "127.0.0.1:1")
    assert finished.returncode == 1
    assert finished.stderr.startswith("vae: error: ")
    assert finished.stderr.count("\n") == 1
