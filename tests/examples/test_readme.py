"""The list of examples is complete, and each says what it is."""

import ast
import re

from tests.support import ROOT

EXAMPLES = ROOT / "examples"
PROGRAMS = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("*.py") if path.name != "__init__.py"}


def test_the_list_names_every_program_and_nothing_else() -> None:
    listed = set(re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text()))
    assert listed == PROGRAMS | {"node/vae.mjs"}


def test_each_program_says_how_it_is_run() -> None:
    for name in PROGRAMS:
        text = ast.get_docstring(ast.parse((EXAMPLES / name).read_text())) or ""
        module = name.removesuffix(".py")
        assert f"examples.{module}" in text or f"make {module}" in text, name
    assert "node vae.mjs" in (EXAMPLES / "node" / "vae.mjs").read_text()
