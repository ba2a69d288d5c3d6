"""The site of `make docs`: every page is in it, links and formulas are those of a site, and what is wrong stops it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import vaeport
from release import site
from tests.support import ROOT

PAGE: Any = SimpleNamespace(file=SimpleNamespace(src_uri="results/one.md"))
HOME: Any = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
NOTHING: Any = None


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    """As `make docs` does. Not with --quiet: that keeps warnings from being counted."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def pages_of(nav: Any) -> list[str]:
    """All pages named in a navigation, however deep."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(part)]


def test_every_page_is_in_the_navigation_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages_of(nav)) == sorted(pages | site.ADDED.keys())


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        (PAGE, "[how](../proof.md#limits)", "[how](../proof.md#limits)"),
        (PAGE, "[start](../../README.md)", "[start](../index.md)"),
        (PAGE, "[`VAE`](../../training/model.py)", '<span title="training/model.py">`VAE`</span>'),
        (PAGE, "[there](https://example.org/a.md)", "[there](https://example.org/a.md)"),
        (PAGE, "```\n[a](../proof.md)\n```\n", "```\n[a](../proof.md)\n```\n"),
        (HOME, "![a picture](docs/demo.png)", "![a picture](demo.png)"),
        (HOME, "[work](CONTRIBUTING.md) [r](recipes)", '[work](contributing.md) <span title="recipes">r</span>'),
    ],
)
def test_a_link_of_the_checkout_becomes_one_of_the_site(page: Any, text: str, expected: str) -> None:
    assert site.on_page_markdown(text, page, NOTHING, NOTHING) == expected


def test_a_formula_is_drawn_without_a_script_and_an_unknown_command_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = r'<span class="arithmatex">\(\sigma^2 &lt; 1\)</span>'
    made = site.on_page_content(good, PAGE, NOTHING, NOTHING)
    assert made.startswith("<math")
    assert "<msup>" in made
    assert not caplog.records
    site.on_page_content(r'<div class="arithmatex">\[\nosuchcommand{x}\]</div>', PAGE, NOTHING, NOTHING)
    assert "cannot draw \\nosuchcommand{x}" in caplog.text


@pytest.mark.soak
def test_the_site_is_built_without_a_warning_and_has_every_public_name(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    anchors = set(re.findall(r'id="(vaeport\.[^"]+)"', (tmp_path / "reference.html").read_text()))
    public = {f"vaeport.{name}" for name in vaeport.__all__ if not name.startswith("__")}
    assert public <= anchors
    assert {"vaeport.Client.encode", "vaeport.Model.encode"} <= anchors
    html = "".join(page.read_text() for page in tmp_path.rglob("*.html"))
    assert "<math" in html
    assert not re.findall(
        r'<(?:script|img)[^>]* src="(?:https?:)?//|<link[^>]* href="(?:https?:)?//[^>]*stylesheet', html
    )


@pytest.mark.soak
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[x](no-such-page.md)", "no-such-page.md"),
        ("[x](proof.md#no-such-part)", "no-such-part"),
        ("[x](../training/no_such_file.py)", "no such file"),
        ("[x][vaeport.NoSuchName]", "vaeport.NoSuchName"),
        ("::: vaeport.no_such_module", "no_such_module"),
    ],
    ids=["page", "part of a page", "file", "name", "module"],
)
def test_what_leads_nowhere_stops_it(text: str, named: str, tmp_path: Path) -> None:
    docs = shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (docs / "sampling.md").open("a") as page:
        page.write(f"\n{text}\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {docs}\nhooks: [{ROOT / 'release/site.py'}]\n")
    done = build(tmp_path / "site", config)
    assert done.returncode == 1
    assert named in done.stderr
