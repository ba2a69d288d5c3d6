"""Hooks of mkdocs.yml: pages beside docs/ belong to the site, links are those of the site, formulas need no script.

The pages are written to be read in a checkout, where links lead to source files too. On the site those are names with
the file's path beside them.
"""

import html
import logging
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ADDED = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "examples.md": "examples/README.md",
}
"""Pages of the site that are not in docs/, and what they are made from."""

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s#]+)(?P<anchor>#[^()\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
_log = logging.getLogger("mkdocs.hooks.site")  # what is logged below it counts in strict mode


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for name, source in ADDED.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a checkout into those of the site."""
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: _relink(link, page.file.src_uri), part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn LaTeX into MathML, which browsers draw themselves."""
    return _FORMULA.sub(lambda formula: _mathml(formula, page.file.src_uri), html)


def _relink(link: re.Match[str], page: str) -> str:
    """One link, as it has to be on this page of the site."""
    target = link["target"]
    if "://" in target or target.startswith("mailto:"):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(ADDED.get(page, f"docs/{page}")), target))
    if not (ROOT / path).exists():
        _log.warning("%s: %s: no such file", page, target)
    on_site = {source: name for name, source in ADDED.items()}.get(path, path.removeprefix("docs/"))
    if on_site == path:
        return f'<span title="{path}">{link["text"]}</span>'
    relative = posixpath.relpath(on_site, posixpath.dirname(page) or ".")
    return f"{link['image']}[{link['text']}]({relative}{link['anchor'] or ''})"


def _mathml(formula: re.Match[str], page: str) -> str:
    """One formula; a command that is not known stays in it as it is, and is warned of."""
    latex = html.unescape(formula["latex"]).strip()
    made = convert(latex, display="block" if formula["tag"] == "div" else "inline")
    if "\\" in made:
        _log.warning("%s: cannot draw %s", page, latex)
    return made
