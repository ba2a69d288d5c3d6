"""What each minor version promised on the wire is kept in release/protos/<minor>/, and nothing of it may break.

Additions are free. That a field, its number, name, type or cardinality, an enum's value, a message, a method or its
streams changes or goes is for `vaeport.v2`. `buf breaking` finds it, by its rules of category FILE, the strictest.
"""

import re
import shutil
import sys
from pathlib import Path

from release.commands import run

ROOT = Path(__file__).parents[1]
PROTOS = ROOT / "protos"
KEPT = ROOT / "release" / "protos"
CHANGELOG = ROOT / "CHANGELOG.md"

_RULES = '{"version": "v2", "breaking": {"use": ["FILE"]}}'
_RELEASED = re.compile(r"^## \[?(\d+)\.(\d+)\.\d+\]?", re.MULTILINE)


def check_unbroken(promised: Path, protos: Path = PROTOS) -> None:
    """Raise ReleaseError, naming each change, if `protos` breaks what a folder of .proto files has promised."""
    buf = Path(sys.executable).parent / "buf"
    run(buf, "breaking", ".", "--against", promised.resolve(), "--config", _RULES, cwd=protos)


def minor(version: str) -> str:
    """`0.1.2` belongs to `0.1`."""
    return ".".join(version.split(".")[:2])


def released_minors(changelog: str) -> set[str]:
    """The minor versions that have a heading such as `## [0.1.0] - 2027-01-31` in a changelog."""
    return {f"{major}.{number}" for major, number in _RELEASED.findall(changelog)}


def keep(version: str, protos: Path = PROTOS, kept: Path = KEPT, changelog: Path = CHANGELOG) -> Path:
    """Make the contract of today that of this version's minor; its folder.

    Raises:
        ReleaseError: it was released, and today's contract breaks it.
    """
    folder = kept / minor(version)
    if folder.exists():
        if minor(version) in released_minors(changelog.read_text()):
            check_unbroken(folder, protos)
        shutil.rmtree(folder)
    shutil.copytree(protos, folder)
    return folder
