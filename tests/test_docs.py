"""The pages are true as far as a machine can tell: links lead somewhere, names are where they should be, code runs.

The convention: a link whose text is code names something in the file it leads to, as in [`Objective`](objective.py).
"""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from export import parity
from export.graphs import roles, to_onnx
from export.ladder import climb
from tests.export.test_parity import subject_of
from training import VAE
from training.networks import NetworkError, NetworkSpec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[tuple[str, str]]:
    """Text and target of every relative link, outside fenced code."""
    found = [match.group("text", "target") for match in LINK.finditer(FENCE.sub("", page.read_text()))]
    return [(text, target) for text, target in found if not target.startswith(("https://", "http://", "mailto:", "#"))]


def names_in(file: Path) -> set[str]:
    """Everything that a Python file defines or assigns, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def is_named(text: str, file: Path) -> bool:
    """Whether a file has what the text of a link, such as `Objective` or `--free-bits`, names."""
    name = text.strip("`").lstrip("-").replace("-", "_") if text.startswith("`--") else text.strip("`")
    return name in names_in(file) if file.suffix == ".py" else name in file.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_what_they_name(page: Path) -> None:
    wrong = []
    for text, target in links(page):
        file = page.parent / target.partition("#")[0]
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif text.startswith("`") and text.endswith("`") and file.is_file() and not is_named(text, file):
            wrong.append(f"{target}: has no {text}")
    assert not wrong, "\n".join(wrong)


def test_a_wrong_link_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def there() -> None:\n    found = 1  # not_there\n")
    (tmp_path / "a.md").write_text("[`there`](a.py) [`found`](a.py) [`not_there`](a.py) [x](b.py) [y](https://z)\n")
    assert links(tmp_path / "a.md") == [
        ("`there`", "a.py"),
        ("`found`", "a.py"),
        ("`not_there`", "a.py"),
        ("x", "b.py"),
    ]
    with pytest.raises(AssertionError, match=r"(?s)has no `not_there`.*b\.py: no such file"):
        test_links_lead_to_what_they_name(tmp_path / "a.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_formulas_are_closed(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    for paragraph in text.split("\n\n"):
        assert paragraph.count("$") % 2 == 0, paragraph


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What the code of docs/networks.md defines, once it has run."""
    (code,) = [m["code"] for m in FENCE.finditer((ROOT / "docs/networks.md").read_text()) if m["language"] == "python"]
    namespace: dict[str, Any] = {"__name__": "docs.networks"}
    exec(compile(code, "docs/networks.md", "exec"), namespace)  # noqa: S102 - our own page
    return namespace


def test_the_network_of_the_page_runs_and_exports(example: dict[str, Any]) -> None:
    assert isinstance(example["model"], VAE)
    torch.manual_seed(0)
    networks = example["residual"](NetworkSpec((1, 4, 4), latent_dim=3, hidden_dims=(8, 8, 8)))
    for role in roles(VAE(16, latent_dim=3, networks=networks).eval(), (1, 4, 4)):
        parity.require(climb(subject_of(role, to_onnx(role)), None), "it is not to be written")


def test_the_network_of_the_page_refuses_two_widths(example: dict[str, Any]) -> None:
    with pytest.raises(NetworkError, match=r"expected --hidden-dims of one width, got \[8, 9\]"):
        example["residual"](NetworkSpec((1, 4, 4), latent_dim=3, hidden_dims=(8, 9)))
