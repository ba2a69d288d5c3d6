"""What a check found, and how findings are shown. The library's and the server's doctor are lists of findings."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from vaeport.errors import bounded

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was checked, in a word or two.
        level: "fail" for what cannot work, "warn" for what may hurt later.
        text: what was found, in one line. Never a secret.
        advice: what to do about it, in one line; "" where all is well.
    """

    name: str
    level: Level
    text: str
    advice: str = ""


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", text)


def warn(name: str, text: str, advice: str) -> Finding:
    """It works, and may hurt later."""
    return Finding(name, "warn", text, advice)


def fail(name: str, text: str, advice: str) -> Finding:
    """It cannot work."""
    return Finding(name, "fail", text, advice)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any of them is a failure."""
    return any(finding.level == "fail" for finding in findings)


def as_table(findings: Iterable[Finding]) -> str:
    """Columns for people: level, name, text; advice below its line."""
    rows = list(findings)
    width = max((len(row.name) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row.level:<4}  {row.name:<{width}}  {bounded(row.text)}")  # it may quote what a server says
        if row.advice:
            lines.append(f"{'':<4}  {'':<{width}}  -> {row.advice}")
    return "\n".join(lines)


def as_json(findings: Iterable[Finding]) -> str:
    """One JSON object for machines: {"ok": bool, "findings": [{"name", "level", "text", "advice"}]}."""
    rows = list(findings)
    return json.dumps({"ok": not failed(rows), "findings": [asdict(row) for row in rows]}, indent=2)
