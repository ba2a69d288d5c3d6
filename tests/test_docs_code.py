"""The code in README and docs runs: Python in this process, commands with a real server and package."""

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import promql_parser
import pytest
import yaml
from PIL import Image

from export.pipeline import export_run
from tests.certificates import Authority
from tests.export.test_verify import edit_manifest
from tests.pages import PAGES, Block, blocks
from tests.shell import SERVER, Shell
from tests.support import ROOT, ServerProcess

BLOCKS = [block for page in PAGES for block in blocks(page)]


def of_language(language: str) -> list[Path]:
    """The pages with blocks in a language that are run."""
    return [page for page in PAGES if any(b.language == language and not b.not_run for b in blocks(page))]


def lines(block: Block) -> list[list[str]]:
    """The words of each command of a block, without comments."""
    return [words for line in block.code.splitlines() if (words := shlex.split(line, comments=True))]


def test_every_block_names_a_language_that_is_run_or_read() -> None:
    wrong = [b.place for b in BLOCKS if b.language not in {"python", "sh", "text", "yaml", "promql"}]
    assert not wrong, f"fence these, name the language, and run them or say `<!-- not run: why -->`: {wrong}"
    assert not [b.place for b in BLOCKS if b.not_run and b.language not in {"python", "sh"}]


def test_blocks_and_reasons_are_found(tmp_path: Path) -> None:
    text = "```sh\na\n```\n<!-- not run: hours -->\n```sh\nb\n```\n\n<!-- else -->\n\n```\nc\n```\n\n    d\n"
    text += "\n* e\n\n  ```sh\n  f\n  ```\n"
    (tmp_path / "page.md").write_text(text)
    assert [(b.language, b.code, b.not_run) for b in blocks(tmp_path / "page.md")] == [
        ("sh", "a\n", ""),
        ("sh", "b\n", "hours"),
        ("", "c\n", ""),
        ("", "d\n", ""),
        ("sh", "f\n", ""),
    ]


def test_commands_are_written_as_they_are_typed_after_activation() -> None:
    wrong = [b.place for b in BLOCKS if b.language == "sh" and re.search(r"(?<![\w-])\.venv/bin/", b.code)]
    assert not wrong, f"the README says to activate .venv; these say its path: {wrong}"


def test_data_and_queries_parse() -> None:
    for block in BLOCKS:
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code), dict), block.place
        if block.language == "promql":
            promql_parser.parse(block.code)


@pytest.mark.parametrize("page", of_language("python"), ids=lambda page: page.name)
def test_python_runs(
    page: Path, package: Path, server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Path(shutil.copytree(package, tmp_path / "models/mine/1"))
    edit_manifest(mine, lambda manifest: manifest.update(name="mine"))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("photo.png", "photos/1.png", "photos/2.png"):
        Image.fromarray(np.full((8, 8), 16, np.uint8)).save(name)
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python" and not block.not_run:
            exec(compile(SERVER.sub(server.address, block.code), block.place, "exec"), namespace)  # noqa: S102
    if "main" in namespace:
        asyncio.run(namespace["main"]())


def test_make_has_every_target_that_a_page_names() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (word, block.place)
        for block in BLOCKS
        for words in (lines(block) if block.language == "sh" else [])
        if words[0] == "make"
        for word in words[1:]
        if "=" not in word
    }
    assert {word for word, _ in named} >= {"demo", "test", "train", "serve"}
    assert not {(word, place) for word, place in named if word not in targets}


def commands_not_run() -> Iterator[tuple[str, list[str]]]:
    """Place and words of each `python -m ...` with flags that no test runs."""
    for block in BLOCKS:
        for words in lines(block) if block.language == "sh" and block.not_run else []:
            if "-m" in words and any(word.startswith("--") for word in words[words.index("-m") :]):
                yield block.place, words[words.index("-m") + 1 :]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("place", "words"), list(commands_not_run()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_flags_of_commands_that_are_not_run_exist(place: str, words: list[str]) -> None:
    module, *arguments = [word for word in words if word != "--"]
    subcommand = [word for word in arguments[:1] if word in {"evaluate", "verify", "sign", "doctor"}]
    command = [sys.executable, "-m", module, *subcommand, "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    for flag in [word for word in arguments if word.startswith("--")]:
        assert re.search(rf"{flag}\b", said), f"{place}: {module} has no {flag}"


@pytest.fixture(scope="module")
def exported(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models that pages name."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ("mnist", "mine"):
        export_run(digits_run, folder / name)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, exported: Path, request: pytest.FixtureRequest) -> Path:
    """A folder as somebody has it who reads that page: the models that it names, and a certificate."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    text = request.getfixturevalue("page").read_text()
    for name in set(re.findall(r"models/(mnist|mine)/1", text)) or {"mnist"}:
        shutil.copytree(exported / name, tmp_path / "models" / name)
    Authority.new(tmp_path).server()
    return tmp_path


@pytest.mark.soak
@pytest.mark.parametrize("page", of_language("sh"), ids=lambda page: page.name)
def test_commands_run(page: Path, checkout: Path) -> None:
    shell = Shell(checkout)
    try:
        for block in blocks(page):
            for line in block.code.splitlines() if block.language == "sh" and not block.not_run else []:
                shell.run(line)
    finally:
        shell.close()
