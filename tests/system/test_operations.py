"""What an operator does to a server, and what befalls it, while callers go on: none of them may notice."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import psutil
import pytest

import vaeport
from export.sign import sign
from serving.repository import pin, unpin, withdraw
from tests.support import ServerProcess
from tests.system.load import load, wait_until
from tests.vaeport.mutations import put
from tests.vaeport.test_golden import edit

Start = Callable[..., ServerProcess]
BRIEF = ("--max-connection-age-seconds", "0.5")  # so that workers leave soon


@pytest.fixture
def versions(models: Path, digits_run: Path, tmp_path: Path) -> Path:
    """A folder with `digits` in versions 1 and 2."""
    from export.pipeline import export_run

    folder = Path(shutil.copytree(models, tmp_path / "models"))
    export_run(digits_run, folder / "digits", formats=["onnx"])
    return folder


def reload(server: ServerProcess, result: str = "reload done") -> None:
    """SIGHUP, and wait until the log says how it went."""
    before = server.read_log().count(result)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.read_log().count(result) > before)


def kill_worker(server: ServerProcess, number: int) -> None:
    """Kill -9 one, and wait until another is there."""
    before = len(server.workers())
    victim = server.workers()[number % before]
    victim.kill()
    wait_until(lambda: victim not in server.workers() and len(server.serving_workers()) >= before)


def test_no_call_fails_while_workers_are_killed(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models), "--workers", "2")
    with load(lambda: vaeport.Client(server.address)) as seen:
        for number in range(2):
            kill_worker(server, number)
            seen.go_on()
    assert seen.errors == []
    assert server.terminate() == 0


def test_no_call_fails_during_reloads_and_none_goes_back_to_an_older_version(
    start_server: Start, versions: Path
) -> None:
    pin(versions / "digits", 1)
    server = start_server("--models", str(versions), "--workers", "2", *BRIEF)
    with load(lambda: vaeport.Client(server.address)) as seen:
        unpin(versions / "digits")
        reload(server)
        after = {caller: len(found) for caller, found in seen.versions.items()}
        seen.go_on(500)
        assert all(len(found) <= after[caller] + 1 for caller, found in seen.versions.items())
        assert all(found[-1] == "2" for found in seen.versions.values())
        withdraw(versions / "digits", 2)
        reload(server)
        seen.go_on(500)
    assert seen.errors == []
    assert all(found[-1] == "1" for found in seen.versions.values())


@pytest.mark.soak
def test_no_call_fails_in_ten_kills_and_twenty_reloads(start_server: Start, versions: Path) -> None:
    server = start_server("--models", str(versions), "--workers", "2", *BRIEF)
    with load(lambda: vaeport.Client(server.address)) as seen:
        for number in range(10):
            kill_worker(server, number)
        for number in range(20):
            if number % 2:
                unpin(versions / "digits")
            else:
                pin(versions / "digits", 1)
            reload(server)
    assert seen.errors == []
    assert seen.calls > 1000
    assert server.terminate() == 0


@pytest.mark.soak
def test_a_reload_without_aged_connections_fails_no_call_of_our_client_either(
    start_server: Start, models: Path
) -> None:
    server = start_server("--models", str(models), "--workers", "2", "--max-connection-age-seconds", "0")
    with load(lambda: vaeport.Client(server.address)) as seen:
        for _ in range(10):
            reload(server)
    assert seen.errors == []


def test_one_of_two_servers_may_be_restarted(start_server: Start, models: Path) -> None:
    flags = ("--models", str(models), "--lame-duck-seconds", "0.5")
    servers = [start_server(*flags) for _ in range(2)]
    addresses = [server.address for server in servers]
    with load(lambda: vaeport.Client(addresses)) as seen:
        for number in range(2):
            assert servers[number].terminate() == 0
            seen.go_on()
            servers[number] = start_server(*flags, "--port", addresses[number].rpartition(":")[2])
            seen.go_on()
    assert seen.errors == []


def spoil_digest(package: Path) -> None:
    with (package / "encoder.onnx").open("ab") as file:
        file.write(b"!")


def spoil_manifest(package: Path) -> None:
    (package / "manifest.json").write_text("{")


def lose_a_file(package: Path) -> None:
    (package / "decoder.onnx").unlink()


def add_a_file(package: Path) -> None:
    (package / "stranger").write_text("")


def change_the_truth(package: Path) -> None:
    edit(package, lambda tensors: tensors["decoder/image/truth"].__iadd__(0.1))


def add_an_operator(package: Path) -> None:
    """Whose digest is right: only the rules of graphs forbid it."""
    graph = onnx.load(package / "encoder.onnx")
    graph.graph.node.append(onnx.helper.make_node("RandomNormal", [], ["noise"], shape=[1]))
    put(package, "encoder.onnx", graph.SerializeToString())


def cut_a_graph_off(package: Path) -> None:
    put(package, "decoder.onnx", (package / "decoder.onnx").read_bytes()[:-100])


def rename(package: Path) -> None:
    """Its manifest says another version."""
    package.rename(package.with_name("3"))


SPOILERS = {
    spoil_digest: r"digits/2/encoder\.onnx: expected .* bytes, got",
    spoil_manifest: r"digits/2/manifest\.json",
    lose_a_file: r"in the manifest, but not here: decoder\.onnx",
    add_a_file: r"not in the manifest: stranger",
    change_the_truth: r"digits/2: decoder\.image",
    add_an_operator: r"encoder\.onnx: .*RandomNormal",
    cut_a_graph_off: r"decoder\.onnx",
    rename: r"digits/3: holds version 2 of 'digits'",
}


def test_a_broken_new_version_never_takes_a_call(start_server: Start, versions: Path) -> None:
    whole = shutil.copytree(versions / "digits" / "2", versions.parent / "whole")
    shutil.rmtree(versions / "digits" / "2")
    server = start_server("--models", str(versions))
    with load(lambda: vaeport.Client(server.address)) as seen:
        for spoil, said in SPOILERS.items():
            package = Path(shutil.copytree(whole, versions / "digits" / "2"))
            spoil(package)
            reload(server, "reload refused")
            assert re.search(f"reload refused, still serving digits 1: .*{said}", server.read_log())
            for path in versions.glob("digits/[23]"):
                shutil.rmtree(path)
    assert seen.errors == []
    assert all(found == ["1"] for found in seen.versions.values())


def test_an_unsigned_new_version_never_takes_a_call(
    start_server: Start, versions: Path, keys: tuple[Path, Path]
) -> None:
    sign(versions / "digits" / "1", keys[0])
    pin(versions / "digits", 1)
    server = start_server("--models", str(versions), "--require-signature", str(keys[1]))
    unpin(versions / "digits")
    reload(server, "reload refused")
    assert re.search(r"still serving digits 1: .*digits/2\.sig: expected a signature", server.read_log())
    with vaeport.Client(server.address) as client:
        assert client.info().models[0].version == "1"


def test_what_a_stopping_server_has_accepted_is_answered_and_the_rest_is_unavailable(
    start_server: Start, models: Path
) -> None:
    server = start_server("--models", str(models), "--workers", "2", "--lame-duck-seconds", "0.3")
    with load(lambda: vaeport.Client(server.address, retries=0, timeout=20), callers=4) as seen:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    assert seen.errors
    assert {type(error) for error in seen.errors} == {vaeport.UnavailableError}


@pytest.mark.soak
def test_a_supervisor_needs_next_to_nothing_while_workers_die(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models), "--workers", "2")
    supervisor = psutil.Process(server.process.pid)
    with load(lambda: vaeport.Client(server.address)) as seen:
        began, before = time.monotonic(), supervisor.cpu_times()
        for number in range(6):
            time.sleep(5.0)
            kill_worker(server, number)
        used, took = supervisor.cpu_times(), time.monotonic() - began
    assert seen.errors == []
    share = (used.user + used.system - before.user - before.system) / took
    assert share < 0.02, f"{share:.1%} of a core"


def test_a_server_that_reloads_goes_on_when_its_terminal_is_closed(start_server: Start, models: Path) -> None:
    """SIGHUP reaches the whole process group then: workers must not end of it."""
    server = start_server("--models", str(models), "--workers", "1", *BRIEF)
    for worker in server.workers():
        worker.send_signal(signal.SIGHUP)
    reload(server)
    with vaeport.Client(server.address) as client:
        assert client.sample(1, seed=1).shape == (1, 1, 8, 8)


def test_ctrl_c_ends_no_worker_by_itself(start_server: Start, models: Path) -> None:
    """It reaches the whole process group, and the supervisor lets them drain."""
    server = start_server("--models", str(models), "--workers", "2")
    for worker in server.workers():
        worker.send_signal(signal.SIGINT)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0
    assert "KeyboardInterrupt" not in server.read_log()


def test_a_stop_while_old_workers_leave_is_in_order(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models))
    with vaeport.Client(server.address) as client:
        client.info()
        reload(server, "ending: leave")  # which takes as long as this connection lives
        assert server.terminate() == 0
    assert server.read_log().count("ending: stop") == 2


def test_a_stop_while_old_workers_end_is_in_order(start_server: Start, models: Path) -> None:
    server = start_server("--models", str(models))
    reload(server, "serving.worker: ended")
    assert server.terminate() == 0


def test_a_version_that_is_pinned_on_the_command_line_is_served_with_watch(start_server: Start, versions: Path) -> None:
    server = start_server("--models", str(versions), "--watch", "0.1", *BRIEF)
    with vaeport.Client(server.address) as client:
        assert client.info().models[0].version == "2"
        command = [sys.executable, "-m", "serving", "pin", "digits", "1", "--models", str(versions)]
        subprocess.run(command, check=True, capture_output=True)
        wait_until(lambda: "reload done: digits 1" in server.read_log())
        assert client.info().models[0].version == "1"
