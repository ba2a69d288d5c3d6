"""`vaeport encode`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vaeport.commands import flags
from vaeport.commands.inputs import image_files
from vaeport.commands.outputs import progress, replacing
from vaeport.commands.source import model_of, open_source

if TYPE_CHECKING:
    from vaeport.commands.flags import Commands
    from vaeport.commands.source import Source
    from vaeport.results import Encoding


def encode(options: argparse.Namespace) -> None:
    """Write the posterior of each image to a .npz file, and print its path.
    It holds `mean` and `log_var`, float32 [images, latent_dim], in the order of `paths`, and `model` and `version`.
    Images are prepared as in training. A few hundred of them are in memory at a time, however many there are.
    """
    import numpy as np

    paths = image_files(options.images)
    with replacing(options.output) as file, open_source(options) as source:
        encoding = _encode(source, paths)
        np.savez(
            file,
            mean=encoding.mean,
            log_var=encoding.log_var,
            paths=np.array([str(path) for path in paths]),
            model=np.array(model_of(source).name),
            version=np.array(encoding.version),
        )
    print(options.output)


def add(commands: "Commands") -> None:
    """The flags."""
    examples = [
        "vaeport encode photos -o latents.npz --server localhost:50051",
        "vaeport encode one.png two.png --package models/digits/1",
    ]
    parents = [flags.images(), flags.source()]
    command = flags.add_command(commands, encode, "the latents of images", examples, parents)
    default = Path("latents.npz")
    command.add_argument("-o", "--output", type=Path, default=default, metavar="PATH", help="(%(default)s)")


def _encode(source: "Source", paths: list[Path]) -> "Encoding":
    from vaeport.chunks import join

    encodings = []
    with progress(len(paths)) as advance:
        for encoding in source.encode_stream(iter(paths)):
            encodings.append(encoding)
            advance(len(encoding.mean))
    return join(encodings)
