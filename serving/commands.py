"""The commands beside the server's own, such as `python -m serving pin mnist 3`: functions that tyro calls."""

import importlib
import sys
from pathlib import Path

from serving import repository
from vaeport.errors import InvalidInputError
from vaeport.versions import default_version

COMMANDS = {  # each is imported when it is asked for
    "pin": ("serving.commands", "pin"),
    "unpin": ("serving.commands", "unpin"),
    "withdraw": ("serving.commands", "withdraw"),
    "prune": ("serving.commands", "prune"),
    "token": ("serving.security.token_command", "token"),
    "doctor": ("serving.doctor", "doctor"),
}


def run_command(name: str, arguments: list[str]) -> None:
    """Call the command `name` with the rest of the command line."""
    import tyro

    module, function = COMMANDS[name]
    tyro.cli(getattr(importlib.import_module(module), function), prog=f"python -m serving {name}", args=arguments)


def pin(name: str, version: int, /, models: Path = Path("models")) -> None:
    """Serve a version of a model even if there are newer ones, from the next reload on.

    Args:
        name: the model.
        version: its version.
        models: folder of packages, MODELS/<name>/<version>.
    """
    repository.pin(models / name, version)
    _report(models / name)


def unpin(name: str, /, models: Path = Path("models")) -> None:
    """Serve the newest version of a model again, from the next reload on.

    Args:
        name: the model.
        models: folder of packages, MODELS/<name>/<version>.
    """
    repository.unpin(models / name)
    _report(models / name)


def withdraw(name: str, version: int, /, models: Path = Path("models"), undo: bool = False) -> None:
    """Never serve a version of a model again by default, from the next reload on. The package stays where it is.

    Args:
        name: the model.
        version: its version.
        models: folder of packages, MODELS/<name>/<version>.
        undo: let it be served again.
    """
    repository.withdraw(models / name, version, undo=undo)
    _report(models / name)


def prune(name: str, /, models: Path = Path("models"), keep: int = 3) -> None:
    """Delete the old versions of a model.

    Args:
        name: the model.
        models: folder of packages, MODELS/<name>/<version>.
        keep: how many of the newest versions stay; the default one stays, too.
    """
    if keep < 1:
        raise InvalidInputError.of("--keep", expected="at least 1", got=keep)
    doomed = repository.prune(models / name, keep)
    print(f"deleted {', '.join(map(str, doomed)) or 'nothing'}", file=sys.stderr)
    _report(models / name)


def _report(folder: Path) -> None:
    version = default_version(folder)
    print(f"{folder.name}: " + (f"version {version} is the default" if version else "every version is withdrawn"))
