"""The flags of `python -m serving` that files under deploy/ use, held against its settings."""

import dataclasses
from collections.abc import Iterable

from serving.settings import Settings


def names(arguments: Iterable[str]) -> list[str]:
    """The fields that flags such as `--max-queue-bytes=7` set."""
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    return [flag.removeprefix("--").replace("-", "_") for flag in flags]


def known() -> set[str]:
    """The fields there are."""
    return {field.name for field in dataclasses.fields(Settings)}


def value(arguments: Iterable[str], flag: str) -> str:
    """What `FLAG=VALUE` or `FLAG VALUE` says."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    return words[words.index(flag) + 1]
