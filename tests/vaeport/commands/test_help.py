"""What --help says is true, and shells complete it."""

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import ROOT, ServerProcess
from tests.test_architecture import modules_after
from training.data.folder import IMAGE_SUFFIXES
from vaeport import base_client, cli
from vaeport.cli import COMMANDS, main, make_parser
from vaeport.commands import flags
from vaeport.commands.inputs import SUFFIXES


def name_of(command: ModuleType) -> str:
    return command.__name__.rpartition(".")[2]


def parser_of(name: str) -> argparse.ArgumentParser:
    (commands,) = [each for each in make_parser()._actions if isinstance(each.choices, dict)]
    assert isinstance(commands.choices, dict)
    found = commands.choices[name]
    assert isinstance(found, argparse.ArgumentParser)
    return found


def examples() -> list[list[str]]:
    """The words of every example, without what a shell does with the output."""
    lines = [line for command in COMMANDS for line in (parser_of(name_of(command)).epilog or "").splitlines()[1:]]
    return [shlex.split(line.partition(">")[0], comments=True) for line in lines]


@pytest.mark.parametrize("words", examples(), ids=" ".join)
def test_an_example_works(
    words: list[str],
    server: ServerProcess,
    models: Path,
    photos: Path,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "models").symlink_to(models)
    shutil.copy(files[0], tmp_path / "one.png")
    shutil.copy(files[1], tmp_path / "two.png")
    monkeypatch.chdir(tmp_path)
    program, *arguments = [server.address if word == "localhost:50051" else word for word in words]
    assert program == "vaeport"
    if "--seconds" in arguments:
        arguments[arguments.index("--seconds") + 1] = "0.1"
    assert main(arguments) == 0


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_every_command_has_an_example_and_a_help_for_each_flag(command: ModuleType) -> None:
    parser = parser_of(name_of(command))
    assert f"vaeport {name_of(command)}" in (parser.epilog or "")
    assert len(parser.description or "") > 30
    for action in parser._actions:
        assert action.help or action.choices, action
    assert max(map(len, (parser.description or "").splitlines())) < 120


def test_the_exit_statuses_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    for status in (cli.OK, cli.ERROR, 2, cli.INTERRUPTED, cli.NO_READER):
        assert f"\n  {status} " in said


def test_help_waits_for_nothing_heavy() -> None:
    assert not modules_after("import vaeport.cli") & {"grpc", "google", "onnx", "onnxruntime", "PIL", "shtab"}


def test_what_the_command_repeats_is_what_others_say() -> None:
    assert flags.DEFAULT_TIMEOUT == base_client.DEFAULT_TIMEOUT_SECONDS
    assert SUFFIXES == IMAGE_SUFFIXES


def completed(*words: str) -> set[str]:
    """What bash offers after these words."""
    script = subprocess.run(
        [sys.executable, "-m", "vaeport.cli", "completion", "bash"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    line = shlex.join(words)
    ask = f'COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_vaeport; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_bash_completes_commands_and_flags() -> None:
    assert completed("vaeport", "in") == {"info", "interpolate"}
    assert completed("vaeport", "score", "--pa") == {"--package"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_its_script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    for command in COMMANDS:
        assert name_of(command) in script.read_text()
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell} here to read it")
    subprocess.run([program, "-n", str(script)], check=True)


def test_without_shtab_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err == "vaeport: error: completion needs shtab: pip install 'vaeport[completion]'\n"
