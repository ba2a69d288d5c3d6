"""`vaeport reconstruct`."""

import argparse
import sys
from typing import TYPE_CHECKING

from vaeport.commands import flags
from vaeport.commands.inputs import image_files
from vaeport.commands.outputs import check_images, save_images
from vaeport.commands.source import model_of, open_source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaeport.commands.flags import Commands

COLUMNS = 8
LIMIT = 64  # images that a person looks at


def reconstruct(options: argparse.Namespace) -> None:
    """Encode and decode images, and write a picture: rows of images as the model sees them, each above the row of their
    reconstructions. A .npy or .npz gets only the reconstructions.
    """
    from vaeport.arrays import as_pixels, to_float
    from vaeport.inputs import read_images

    check_images(options.output)
    paths = image_files(options.images)
    if len(paths) > options.limit:
        print(f"vaeport: the first {options.limit} of {len(paths)} images; --limit takes more", file=sys.stderr)
    with open_source(options) as source:
        images = to_float(as_pixels(read_images(paths[: options.limit], model_of(source))))
        again = source.reconstruct(images)
    columns = min(COLUMNS, len(images))
    save_images(again, options.output, columns, picture=in_pairs(images, again, columns))


def add(commands: "Commands") -> None:
    """The flags."""
    examples = ["vaeport reconstruct photos -o grid.png --package models/digits/1"]
    parents = [flags.images(), flags.source()]
    command = flags.add_command(commands, reconstruct, "images, and what the model keeps of them", examples, parents)
    command.add_argument(
        "--limit", type=flags.positive, default=LIMIT, metavar="N", help="the first N images (%(default)s)"
    )
    flags.add_picture(command, "grid.png")


def in_pairs(above: "NDArray[np.float32]", below: "NDArray[np.float32]", columns: int) -> "NDArray[np.float32]":
    """Rows of `above`, each followed by the same row of `below`; gaps in the last are white: [N, C, H, W]."""
    import numpy as np

    missing = -len(above) % columns
    white = np.ones((missing, *above.shape[1:]), np.float32)
    rows = [np.concatenate([each, white]).reshape(-1, 1, columns, *above.shape[1:]) for each in (above, below)]
    return np.concatenate(rows, axis=1).reshape(-1, *above.shape[1:])
