"""`python -m serving doctor`, as it is typed."""

import importlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.doctor.command import check_settings, doctor
from serving.settings import Settings
from tests.support import ROOT


def ask(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its exit status, and the findings by name."""
    command = [sys.executable, "-W", "error", "-m", "serving", "doctor", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    value = json.loads(done.stdout)
    assert value["ok"] is (done.returncode == 0)
    return done.returncode, {each["name"]: each for each in value["findings"]}


def test_a_set_up_that_would_start_is_well(models: Path) -> None:
    status, findings = ask("--models", str(models), "--port", "0", "--workers", "1")
    assert status == 0
    assert {"versions", "runtime", "device", "settings", "cores", "memory", "open files", "clock", "port"} <= set(
        findings
    )
    assert findings["model digits"]["level"] == "ok"


def test_a_socket_in_the_file_system_has_one_worker_as_in_the_server(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.import_module("serving.supervisor.launch"), "usable_cores", lambda: 8)
    settings = Settings(models=models, listen=f"unix:{tmp_path}/socket", device="cpu")
    with pytest.raises(SystemExit) as ended:
        doctor(settings, json=True)
    assert not ended.value.code, capsys.readouterr().out


def test_what_would_fail_is_all_told_at_once(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, findings = ask("--models", f"{models}/none", "--port", port, "--max-batch-rows", "0")
    assert status == 1
    assert {name for name, each in findings.items() if each["level"] == "fail"} == {"port", "models", "settings"}


def test_settings_that_contradict_are_told_as_the_server_does() -> None:
    assert check_settings(Settings()).level == "ok"
    assert check_settings(Settings(port=-1)).text == "--port: expected 0 to 65535, got -1"
