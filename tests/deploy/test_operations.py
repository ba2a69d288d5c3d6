"""docs/operations.md names every setting, every status and every error, with the defaults that the code has."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from serving.edge.status import STATUS_OF
from serving.settings import Settings, SettingsError
from serving.supervisor import CrashLoopError, StartError
from tests.deploy.flags import known
from tests.support import ROOT
from vaeport import errors, package
from vaeport.errors import PackageError, ServerError, VaeportError

PAGE = (ROOT / "docs/operations.md").read_text()
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}


def rows(heading: str) -> list[list[str]]:
    """The cells of every row of the tables of a section."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


SETTINGS = {
    row[0].strip("`").removeprefix("--").replace("-", "_"): row[1] for row in rows("Settings") if row[0].startswith("`")
}


def shown(default: object) -> str:
    """A default as the table has it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if default is None or default in ("", ()):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_every_setting_is_in_the_table_once() -> None:
    flags = re.findall(r"^\| `--([a-z0-9-]+)`", PAGE, re.MULTILINE)
    assert len(flags) == len(set(flags))
    assert SETTINGS.keys() == known()


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_the_table_has_the_defaults_that_the_server_has(name: str) -> None:
    default = DEFAULTS[name]
    assert SETTINGS[name] == shown(str(default) if isinstance(default, Path) else default)


def classes(module: object, base: type[Exception]) -> set[str]:
    return {name for name, value in inspect.getmembers(module, inspect.isclass) if issubclass(value, base)}


def named(heading: str, column: int) -> list[str]:
    """The names in code in a column."""
    return [name for row in rows(heading) for name in re.findall(r"`(\w+)`", row[column])]


def test_every_status_of_the_edge_is_explained_with_its_class() -> None:
    table = {row[0]: row[1].strip("`") for row in rows("What callers see")}
    for kind, status in STATUS_OF.items():
        assert table[status.name] == kind.__name__
    assert table["INTERNAL"] == "InternalError"


def test_every_error_of_the_library_is_explained_once() -> None:
    callers, operators = named("What callers see", 1), named("What operators see", 0)
    assert classes(errors, ServerError) <= set(callers)
    assert len(operators) == len(set(operators))
    assert set(operators) >= classes(package, PackageError) | {
        kind.__name__ for kind in (SettingsError, StartError, CrashLoopError)
    }
    everything = classes(errors, VaeportError) | classes(package, VaeportError)
    assert everything - {"VaeportError"} <= {*callers, *operators}


def test_every_command_of_the_server_is_named() -> None:
    from serving.commands import COMMANDS

    assert [name for name in COMMANDS if f"python -m serving {name}" not in PAGE] == []
