"""`vaeport completion`: the script that makes a shell complete this command; shtab writes it from the parser."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaeport.commands import flags
from vaeport.errors import VaeportError

if TYPE_CHECKING:
    from vaeport.commands.flags import Commands

SHELLS = ("bash", "zsh", "fish")


def completion(options: argparse.Namespace) -> None:
    """Print a script that completes commands, flags and files for a shell. Needs shtab: pip install
    'vaeport[completion]'.
    """
    try:
        import shtab
    except ImportError as error:
        raise VaeportError("completion needs shtab: pip install 'vaeport[completion]'") from error
    _complete_files(options.parser, shtab.FILE)
    print(shtab.complete(options.parser, options.shell))


def add(commands: "Commands") -> None:
    """The flags."""
    examples = [
        "vaeport completion bash > ~/.local/share/bash-completion/completions/vaeport",
        "vaeport completion zsh > ~/.zfunc/_vaeport     # a folder of $fpath",
        "vaeport completion fish > ~/.config/fish/completions/vaeport.fish",
    ]
    command = flags.add_command(commands, completion, "completion for a shell", examples, [])
    command.add_argument("shell", choices=SHELLS)


def _complete_files(parser: argparse.ArgumentParser, files: Any) -> None:
    """Tell shtab which arguments are paths."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list of them
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                _complete_files(command, files)
        elif action.type is Path:
            action.complete = files  # type: ignore[attr-defined]
