"""`vaeport interpolate`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vaeport.commands import flags
from vaeport.commands.outputs import check_images, save_images
from vaeport.commands.source import open_source

if TYPE_CHECKING:
    from vaeport.commands.flags import Commands


def interpolate(options: argparse.Namespace) -> None:
    """Write the images on the way from A to B in latent space as a strip, with the reconstructions at both ends."""
    check_images(options.output)
    with open_source(options) as source:
        images = source.interpolate(options.a, options.b, options.steps, spherical=options.spherical)
    save_images(images, options.output, columns=options.steps)


def add(commands: "Commands") -> None:
    """The flags."""
    examples = ["vaeport interpolate one.png two.png --steps 12 --spherical -o strip.png --package models/digits/1"]
    command = flags.add_command(commands, interpolate, "the way between two images", examples, [flags.source()])
    command.add_argument("a", type=Path, metavar="A", help="an image file")
    command.add_argument("b", type=Path, metavar="B", help="another")
    command.add_argument("--steps", type=int, default=8, metavar="N", help="images in all, at least 2 (%(default)s)")
    command.add_argument("--spherical", action="store_true", help="along a great circle rather than straight")
    flags.add_picture(command, "strip.png")
