"""`vaeport encode`."""

import argparse
import csv
import io
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vaeport.commands import flags
from vaeport.commands.inputs import image_files, shown
from vaeport.commands.outputs import check_folder, progress, replacing
from vaeport.commands.source import model_of, open_source
from vaeport.errors import InvalidInputError

if TYPE_CHECKING:
    from vaeport.commands.flags import Commands
    from vaeport.commands.source import Source
    from vaeport.results import Encoding

SUFFIXES = (".npz", ".npy", ".csv")


def encode(options: argparse.Namespace) -> None:
    """Write the posterior of each image to a file, and print its path.
    A .npz holds `mean` and `log_var`, float32 [images, latent_dim], in the order of `paths`, and `model` and `version`;
    a .npy holds the mean alone; a .csv has a line for each image: path, mean_0, ..., log_var_0, ...
    Images are prepared as in training. Only a few hundred are in memory at a time.
    """
    import numpy as np

    if options.output.suffix not in SUFFIXES:
        raise InvalidInputError.of("-o", expected="X.npz, X.npy or X.csv", got=options.output)
    check_folder(options.output)
    paths = image_files(options.images)
    with replacing(options.output) as file, open_source(options) as source:
        encoding = _encode(source, paths)
        if options.output.suffix == ".csv":
            _write_csv(file, paths, encoding)
        elif options.output.suffix == ".npy":
            np.save(file, encoding.mean)
        else:
            np.savez(
                file,
                mean=encoding.mean,
                log_var=encoding.log_var,
                paths=np.array([str(path) for path in paths]),
                model=np.array(model_of(source).name),
                version=np.array(encoding.version),
            )
    print(shown(options.output))


def add(commands: "Commands") -> None:
    """The flags."""
    examples = [
        "vaeport encode photos -o latents.npz --server localhost:50051",
        "vaeport encode one.png two.png --package models/digits/1",
    ]
    parents = [flags.images(), flags.source()]
    command = flags.add_command(commands, encode, "the latents of images", examples, parents)
    default, text = Path("latents.npz"), "X.npz for everything (%(default)s), X.npy for the means, or X.csv"
    command.add_argument("-o", "--output", type=Path, default=default, metavar="PATH", help=text)


def _encode(source: "Source", paths: list[Path]) -> "Encoding":
    from vaeport.chunks import join

    encodings = []
    with progress(len(paths)) as advance:
        for encoding in source.encode_stream(iter(paths)):
            encodings.append(encoding)
            advance(len(encoding.mean))
    return join(encodings)


def _write_csv(file: IO[bytes], paths: list[Path], encoding: "Encoding") -> None:
    """A line for each image, with a header; as many digits as tell float32 apart."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    latents = range(encoding.mean.shape[1])
    writer.writerow(["path", *(f"mean_{i}" for i in latents), *(f"log_var_{i}" for i in latents)])
    for path, mean, log_var in zip(paths, encoding.mean, encoding.log_var, strict=True):
        writer.writerow([shown(path), *map(str, mean), *map(str, log_var)])
    text.detach()  # which writes out the rest and leaves the file open
