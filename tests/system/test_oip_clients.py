"""Other clients of the Open Inference Protocol, where they are: KServe's, and NVIDIA's perf_analyzer."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import vaeport
from tests.support import ROOT, ServerProcess

KSERVE = sys.executable if find_spec("kserve") else os.environ.get("VAEPORT_KSERVE_PYTHON")


@pytest.mark.skipif(
    KSERVE is None,
    reason="kserve pins a psutil below ours, so it needs an environment of its own: VAEPORT_KSERVE_PYTHON=its python",
)
def test_kserves_client_gets_the_numbers_that_the_package_gives_here(
    server: ServerProcess, package: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    np.save(tmp_path / "images.npy", images)
    script = ROOT / "tests" / "system" / "kserve_client.py"
    command = [str(KSERVE), str(script), server.address, str(tmp_path / "images.npy"), str(tmp_path / "answers.npz")]
    subprocess.run(command, check=True, timeout=120)
    expected = vaeport.load(package).encode(images)
    with np.load(tmp_path / "answers.npz") as answers:
        for way in ("raw", "typed"):
            assert np.array_equal(answers[f"{way}_mean"], expected.mean)
            assert np.array_equal(answers[f"{way}_log_var"], expected.log_var)


@pytest.mark.skipif(shutil.which("perf_analyzer") is None, reason="needs NVIDIA's perf_analyzer on PATH")
@pytest.mark.parametrize("flags", [["-b", "4"], ["--streaming"]])
def test_perf_analyzer_measures_the_server_and_reads_its_statistics(server: ServerProcess, flags: list[str]) -> None:
    command = ["perf_analyzer", "-m", "digits_encoder", "-u", server.address, "-i", "grpc", "--request-count", "100"]
    ran = subprocess.run([*command, "--input-data", "zero", *flags], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"Successful request count: 100\b", ran.stdout), ran.stdout
