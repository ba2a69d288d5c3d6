"""`vaeport sample`."""

import argparse
from typing import TYPE_CHECKING

from vaeport.commands import flags
from vaeport.commands.outputs import ARRAYS, check_images, save_images
from vaeport.commands.source import open_source
from vaeport.errors import InvalidInputError

if TYPE_CHECKING:
    from vaeport.commands.flags import Commands

PICTURE_LIMIT = 1024  # images of a picture that a person looks at


def sample(options: argparse.Namespace) -> None:
    """Draw images from the prior, write them as one picture, and print its path. More than 1024 go into a .npy or .npz.
    A seed gives the same images from every server and package of the model, and as vaeport.Client gives them.
    """
    check_images(options.output)
    if options.n > PICTURE_LIMIT and options.output.suffix not in ARRAYS:
        expected = f"at most {PICTURE_LIMIT} in a picture; -o X.npy or X.npz takes more"
        raise InvalidInputError.of("-n", expected=expected, got=options.n)
    with open_source(options) as source:
        images = source.sample(options.n, seed=options.seed, temperature=options.temperature)
    save_images(images, options.output)


def add(commands: "Commands") -> None:
    """The flags."""
    examples = [
        "vaeport sample --server localhost:50051 -n 64 --seed 7 -o grid.png",
        "vaeport sample --package models/digits -n 1000 --seed 7 -o samples.npy",
    ]
    command = flags.add_command(commands, sample, "draw images", examples, [flags.source()])
    command.add_argument("-n", type=int, default=64, help="how many (%(default)s)")
    command.add_argument("--seed", type=int, help="same seed, same images; drawn if absent")
    command.add_argument("--temperature", type=float, default=1.0, help="spread of the latents (%(default)s)")
    flags.add_picture(command, "grid.png")
