"""`vaeport score`."""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaeport.commands import flags
from vaeport.commands.inputs import image_files, shown
from vaeport.commands.outputs import progress
from vaeport.commands.source import model_of, open_source
from vaeport.errors import UnavailableError, bounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaeport.commands.flags import Commands
    from vaeport.commands.source import Source
    from vaeport.results import Scores

COLUMNS = ("reconstruction", "kl", "elbo", "log_likelihood", "percentile")
IMPORTANCE_SAMPLES = 16  # with one, an image's percentile moves by tens from seed to seed
SEED = 0
PIXELS = {"binary": "binary pixels", "grey": "pixels between 0 and 1", "gaussian": "Gaussian pixels"}


def score(options: argparse.Namespace) -> None:
    """Print how well the model explains each image, in nats.
    reconstruction, a mean over the draws of z, and kl add up to -elbo.
    log_likelihood is the importance-weighted bound, tighter with more draws. It is left out (null in JSON, empty in
    CSV) for one draw, which may lie below the elbo, and for pixels between 0 and 1 under a Bernoulli likelihood, where
    it is no likelihood of anything.
    percentile is the share of held-out images that the model explains less well: near 0 is an anomaly.
    """
    paths = image_files(options.images)
    with open_source(options) as source:
        name = model_of(source).name
        scores = _score(source, paths, options.importance_samples, options.seed)
    rows = list(_rows(paths, scores, with_bound=scores.setting != "grey" and options.importance_samples > 1))
    if options.json:
        _print_json(rows, name, scores, options.importance_samples)
    elif options.csv:
        _print_csv(rows)
    else:
        print(f"{bounded(name)} version {bounded(scores.version)}, {PIXELS[scores.setting]}, ", end="")
        print(f"importance samples: {options.importance_samples}, seed: {scores.seed}; in nats")
        _print_table(rows)


def add(commands: "Commands") -> None:
    """The flags."""
    examples = [
        "vaeport score photos --importance-samples 100 --seed 7 --csv --server localhost:50051",
        "vaeport score one.png two.png --package models/digits/1",
    ]
    parents = [flags.images(), flags.source()]
    command = flags.add_command(commands, score, "how well the model explains images", examples, parents)
    command.add_argument(
        "--importance-samples",
        type=int,
        default=IMPORTANCE_SAMPLES,
        metavar="K",
        help="draws of z for each image (%(default)s); more make every number steadier, and take longer",
    )
    command.add_argument("--seed", type=int, default=SEED, help="of the draws: same seed, same numbers (%(default)s)")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object, with everything")
    form.add_argument("--csv", action="store_true", help="a line for each image, with a header")


def _score(source: "Source", paths: list[Path], importance_samples: int, seed: int) -> "Scores":
    """The scores of all images, a chunk in memory at a time; counting rows on gives the same numbers as one call."""
    from vaeport.chunks import CHUNK_ROWS
    from vaeport.scoring import join

    parts: list[Scores] = []
    with progress(len(paths)) as advance:
        for start in range(0, len(paths), CHUNK_ROWS):
            chunk = paths[start : start + CHUNK_ROWS]
            part = source.score(chunk, importance_samples=importance_samples, seed=seed, first_row=start)
            if parts and part.version != parts[0].version:
                raise UnavailableError(f"the model changed from version {parts[0].version} to {part.version}")
            parts.append(part)
            advance(len(chunk))
    return join(parts)


def _rows(paths: list[Path], scores: "Scores", *, with_bound: bool) -> "Iterator[dict[str, Any]]":
    """The path and the numbers of each image, in as many digits as tell float32 apart; None where there is none."""
    import numpy as np

    for index, path in enumerate(paths):
        row: dict[str, Any] = {"path": shown(path)}
        for name in COLUMNS:
            column = getattr(scores, name) if with_bound or name != "log_likelihood" else None
            row[name] = None if column is None or np.isnan(column[index]) else float(str(column[index]))
        yield row


def _print_json(rows: list[dict[str, Any]], name: str, scores: "Scores", importance_samples: int) -> None:
    about = {"model": name, "version": scores.version, "setting": scores.setting, "seed": scores.seed}
    print(json.dumps({**about, "importance_samples": importance_samples, "images": rows}, indent=2))


def _print_csv(rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, ["path", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print a table, without the columns that have no number."""
    columns = [name for name in COLUMNS if any(row[name] is not None for row in rows)]
    print("".join(f"{name:>16}" for name in columns), " path")
    for row in rows:
        numbers = ("-" if row[name] is None else f"{row[name]:.2f}" for name in columns)
        print("".join(f"{number:>16}" for number in numbers), "", row["path"])
