"""The unit: what systemd itself says of it, and what it and the server must agree about."""

import ctypes
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import vaeport
from tests.deploy.flags import known, names, value
from tests.support import ROOT, ServerProcess

UNIT = ROOT / "deploy/systemd/vaeport.service"
MAX_EXPOSURE = 2.5  # of 10, as systemd-analyze counts; an ordinary unit has 9.6
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # prctl(2), since Linux 6.3


def entries(section: str) -> dict[str, str]:
    """What a section sets; configparser would take the `%` and `$` of systemd for its own."""
    found: dict[str, str] = {}
    inside = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            inside = line.strip("[]")
        elif inside == section and line and not line.startswith("#"):
            name, _, text = line.partition("=")
            assert name not in found, f"{name} twice"
            found[name] = text
    return found


SERVICE = entries("Service")
COMMAND = SERVICE["ExecStart"].split()


@pytest.fixture
def runnable(tmp_path: Path) -> Path:
    """The unit with paths that are there."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/vaeport/.venv/bin/python", sys.executable))
    return copy


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong_with_it(runnable: Path) -> None:
    done = analyze("verify", str(runnable))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_it_hardly_exposed(runnable: Path) -> None:
    done = analyze("security", "--offline=yes", f"--threshold={MAX_EXPOSURE * 10:.0f}", str(runnable))
    assert done.returncode == 0, done.stdout[-2000:]


def test_every_flag_is_a_setting() -> None:
    assert COMMAND[1:3] == ["-m", "serving"]
    assert names(COMMAND)
    assert set(names(COMMAND)) <= known()


def test_the_first_signal_reaches_the_supervisor_alone() -> None:
    assert SERVICE["KillMode"] == "mixed"
    assert SERVICE["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert (SERVICE["Type"], SERVICE["NotifyAccess"]) == ("notify", "main")


def test_there_is_more_time_to_stop_than_the_server_takes() -> None:
    needed = float(value(COMMAND, "--lame-duck-seconds")) + float(value(COMMAND, "--grace"))
    assert float(SERVICE["TimeoutStopSec"]) > needed


def test_wrong_usage_is_not_tried_again() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--port", "none"], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert str(done.returncode) in SERVICE["RestartPreventExitStatus"].split()


def test_the_server_computes_without_memory_that_is_both_written_and_executed(
    start_server: Callable[..., ServerProcess], models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As MemoryDenyWriteExecute= has it; the kernel's own switch, which children inherit."""
    assert SERVICE["MemoryDenyWriteExecute"] == "yes"
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes\n"
        f"assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) == 0\n"
        "import mmap\n"
        "try:\n"
        "    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "except PermissionError:\n"
        f"    open({str(tmp_path / 'refused')!r}, 'a').close()\n"
    )
    if ctypes.CDLL(None).prctl(PR_SET_MDWE + 1, 0, 0, 0, 0) < 0:  # PR_GET_MDWE
        pytest.skip("needs Linux 6.3 or newer")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    server = start_server("--models", str(models))
    assert (tmp_path / "refused").exists()
    with vaeport.Client(server.address) as client:
        assert client.reconstruct(client.sample(300, seed=7)).shape == (300, 1, 8, 8)
    assert server.terminate() == 0


def system_calls(group: str) -> set[str]:
    """What a group of SystemCallFilter= lets through, those within it included."""
    lines = [line.strip() for line in analyze("syscall-filter", group).stdout.splitlines()[1:]]
    found = [line for line in lines if line and not line.startswith("#")]
    inner = [system_calls(line) for line in found if line.startswith("@")]
    return {line for line in found if not line.startswith("@")}.union(*inner)


@pytest.mark.soak
def test_the_server_makes_no_system_call_that_the_unit_forbids(models: Path, tmp_path: Path) -> None:
    """From start over calls and a reload to the end, all processes."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    allowed = system_calls(SERVICE["SystemCallFilter"])
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-e", "signal=none", "-o", str(trace), sys.executable, "-m", "serving"]
    with subprocess.Popen(
        [*command, "--models", str(models), "--port", "0", "--workers", "2", "--max-connection-age-seconds", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as traced:
        assert traced.stdout is not None
        assert traced.stderr is not None
        address = traced.stdout.readline().split()[1]
        (supervisor,) = psutil.Process(traced.pid).children()
        with vaeport.Client(address, timeout=60.0) as client:
            client.reconstruct(client.sample(300, seed=7))
            supervisor.send_signal(signal.SIGHUP)
            assert any("reload done" in line for line in traced.stderr)
            client.encode(client.sample(3, seed=7))
        supervisor.terminate()
        traced.communicate(timeout=60)
    assert traced.returncode == 0
    made = set(re.findall(r"^\d+\s+(\w+)\(", trace.read_text(), re.MULTILINE))
    assert "accept4" in made
    assert made - allowed == set()
