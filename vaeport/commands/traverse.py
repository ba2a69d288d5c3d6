"""`vaeport traverse`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaeport.commands import flags
from vaeport.commands.outputs import save_images
from vaeport.commands.source import open_source
from vaeport.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaeport.commands.flags import Commands
    from vaeport.commands.source import Source


def traverse(options: argparse.Namespace) -> None:
    """Vary the latent dimensions, one a row, from -RANGE to RANGE, and write what the decoder makes of that.
    The other dimensions stay where IMAGE has its posterior mean; without one, at 0, the mean of the prior.
    """
    with open_source(options) as source:
        base = _base(source, options.image)
        chosen = range(len(base)) if options.dimensions is None else options.dimensions
        images = source.decode(traversal(base, chosen, options.range, options.steps))
    save_images(images, options.output, columns=options.steps)


def add(commands: "Commands") -> None:
    """The flags."""
    examples = [
        "vaeport traverse -o grid.png --package models/digits/1",
        "vaeport traverse one.png --dimensions 0,3 --range 2 --server localhost:50051",
    ]
    command = flags.add_command(commands, traverse, "what each latent dimension does", examples, [flags.source()])
    command.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="an image file to start from")
    command.add_argument(
        "--dimensions", type=_dimensions, metavar="I,J,...", help="these alone, in this order, counted from 0"
    )
    command.add_argument("--range", type=float, default=3.0, metavar="R", help="how far, in latent units (%(default)s)")
    command.add_argument("--steps", type=flags.positive, default=9, metavar="N", help="images in a row (%(default)s)")
    flags.add_picture(command, "grid.png")


def traversal(
    base: "NDArray[np.float32]", dimensions: Sequence[int], reach: float, steps: int
) -> "NDArray[np.float32]":
    """Latents that differ from `base` in one dimension each, a row of `steps` for each dimension.

    Args:
        base: float32 [latent_dim].
        dimensions: which to vary.
        reach: they go from -reach to reach; with one step, to -reach.
        steps: at equal distances.

    Returns:
        float32 [dimensions * steps, latent_dim].

    Raises:
        InvalidInputError: there is no such dimension.
    """
    import numpy as np

    for dimension in dimensions:
        if not 0 <= dimension < len(base):
            raise InvalidInputError.of("--dimensions", expected=f"0 to {len(base) - 1}", got=dimension)
    latents = np.tile(base, (len(dimensions), steps, 1))
    for row, dimension in zip(latents, dimensions, strict=True):
        row[:, dimension] = np.linspace(-reach, reach, steps)
    return latents.reshape(-1, len(base))


def _base(source: "Source", image: Path | None) -> "NDArray[np.float32]":
    import numpy as np

    if image is None:
        return np.zeros(source.latent_dim, np.float32)
    mean: NDArray[np.float32] = source.encode(image).mean[0]
    return mean


def _dimensions(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]
