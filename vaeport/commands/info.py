"""`vaeport info`."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from vaeport.commands import flags
from vaeport.commands.source import open_source
from vaeport.errors import bounded

if TYPE_CHECKING:
    from vaeport.commands.flags import Commands
    from vaeport.results import ModelInfo


def info(options: argparse.Namespace) -> None:
    """Print the models that can be asked, one a line."""
    with open_source(options) as source:
        there = source.info()
    if options.json:
        print(json.dumps(asdict(there), indent=2))
    else:
        for model in there.models:
            print(bounded(_line(model)))  # the names are a server's


def add(commands: "Commands") -> None:
    """The flags."""
    examples = ["vaeport info --server localhost:50051", "vaeport info --package models/digits/1 --json"]
    command = flags.add_command(commands, info, "what there is to ask", examples, [flags.source()])
    command.add_argument("--json", action="store_true", help="for machines, with how pictures are prepared")


def _line(model: "ModelInfo") -> str:
    channels, height, width = model.image_shape
    return (
        f"{model.name} version {model.version}: images {channels}x{height}x{width}, "
        f"{model.latent_dim} latent dimensions, {model.likelihood}, {' '.join(model.providers)}, {model.digest}"
    )
