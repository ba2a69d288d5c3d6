"""The code blocks of README, docs and the list of examples, and whether they are run.

The convention: every block is fenced and names its language. `python` and `sh` are run by tests/test_docs_code.py, page
by page, in order; a comment `<!-- not run: why -->` before a block says that it is not. `text` is no code.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.support import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
_NOT_RUN = re.compile(r"<!-- not run: (?P<why>.+) -->")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        place: `docs/page.md:LINE`.
        language: as the fence names it, "" if it does not or if the block is indented.
        code: its text.
        not_run: why it is not run, "" if it is.
    """

    place: str
    language: str
    code: str
    not_run: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    found, mark = [], ""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in {"fence", "code_block"}:
            assert token.map
            name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name
            found.append(Block(f"{name}:{token.map[0] + 1}", token.info.strip(), token.content, mark))
        comment = _NOT_RUN.fullmatch(token.content.strip()) if token.type == "html_block" else None
        mark = comment["why"] if comment else ""
    return found
