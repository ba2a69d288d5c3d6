"""`vaeport traverse`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vaeport.commands import flags
from vaeport.commands.outputs import check_images, save_images
from vaeport.commands.source import open_source
from vaeport.errors import InvalidInputError
from vaeport.manifest import MANIFEST_NAME, Manifest
from vaeport.package import is_figure
from vaeport.versions import default_package

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaeport.commands.flags import Commands
    from vaeport.commands.source import Source


class Use(NamedTuple):
    """How much a model uses its latents: the KL of each in nats, and how many are active."""

    kl: Sequence[float]
    active: int


def traverse(options: argparse.Namespace) -> None:
    """Vary the latent dimensions, one per row, from -RANGE to RANGE, and write the decoder's images.
    The other dimensions stay at the posterior mean of IMAGE or, without one, at 0, the mean of the prior. The picture
    has the value above each column and the latent's number beside each row, with its KL in nats if --package has it:
    then the rows are the active latents, by falling KL. A server does not say which are active, so it gets a row for
    each latent.
    """
    check_images(options.output)
    _check_image(options.image)
    with open_source(options) as source:
        base = _base(source, options.image)
        use = _use(options.package, len(base)) if options.package else None
        chosen = _chosen(options.dimensions, use, len(base))
        latents = traversal(base, chosen, options.range, options.steps)
        images = source.decode(latents)
    values = latents[: options.steps, chosen[0]]
    save_images(
        images,
        options.output,
        columns=options.steps,
        row_names=[f"latent {i}, KL {use.kl[i]:.2f}" if use else f"latent {i}" for i in chosen],
        column_names=[f"{value:.3g}" for value in values],
    )


def add(commands: "Commands") -> None:
    """The flags."""
    examples = [
        "vaeport traverse -o grid.png --package models/digits/1",
        "vaeport traverse one.png --dimensions 0,3 --range 2 --server localhost:50051",
    ]
    command = flags.add_command(commands, traverse, "what each latent dimension does", examples, [flags.source()])
    command.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="an image file to start from")
    command.add_argument(
        "--dimensions",
        type=_dimensions,
        metavar="I,J,...",
        help="only these, in this order, counted from 0, with commas between",
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
        dimensions: the dimensions to vary.
        reach: values go from -reach to reach; with one step, only -reach.
        steps: values of each dimension, at equal distances.

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


def _check_image(image: Path | None) -> None:
    """Raise InvalidInputError if `image` was meant as one more of --dimensions."""
    if image is not None and image.name.isdecimal() and not image.exists():
        raise InvalidInputError.of("IMAGE", expected="a file (--dimensions takes commas, as in 0,3)", got=image)


def _use(package: Path, latent_dim: int) -> Use | None:
    """The figures that the package keeps of `python -m training evaluate`; None if it has none that fit."""
    folder = package if (package / MANIFEST_NAME).exists() else default_package(package)
    evaluation = Manifest.from_json((folder / MANIFEST_NAME).read_bytes()).training.get("evaluation") or {}
    kl, active = evaluation.get("kl_per_latent"), evaluation.get("active_units")
    if not (isinstance(kl, list) and len(kl) == latent_dim and all(map(is_figure, kl))):
        return None
    return Use(kl, active) if type(active) is int and 0 <= active <= latent_dim else None


def _chosen(dimensions: list[int] | None, use: Use | None, latent_dim: int) -> list[int]:
    """The named dimensions; else the active ones by falling KL, if they are known; else all."""
    if dimensions is not None:
        return dimensions
    if use is None or use.active == 0:
        return list(range(latent_dim))
    if use.active < latent_dim:
        print(f"vaeport: the {use.active} active of {latent_dim} latents; --dimensions takes others", file=sys.stderr)
    return sorted(range(latent_dim), key=lambda i: -use.kl[i])[: use.active]


def _dimensions(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers with commas between, as in 0,3, got {text}") from None
