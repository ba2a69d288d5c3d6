"""An alarm on a stream of images: it goes up when too many of the last ones are unlike what the model was trained on.

    camera | python -m examples.anomaly_alarm --package models/parts          # a path a line on standard input
    python -m examples.anomaly_alarm --package models/parts --folder INBOX    # images as they appear in a folder
    python -m examples.anomaly_alarm --server localhost:50051 --folder INBOX

Each image gets its percentile among held-out images of the training: the share that the model explains less well, by
the ELBO. Of images like those, one in a hundred is below percentile 1 by definition, so a single one below it says
little, and no knowledge of nats is needed to say how much several do. The rule: the alarm goes up when RAISE_AT of the
last WINDOW images are below ODD_BELOW, and down when none is (the gap between the two keeps it from flapping). With
3 of 20 below percentile 1, one window in a thousand of ordinary images raises it (`chance_of_false_alarm`).

It prints a line for each image and one for each change of the alarm. For your own use: change the three numbers, and
what `watch` does when the alarm changes. The percentile is as good as the held-out images are many: below
percentile 100 / N nothing is known. And light or lenses that change are anomalies too, until the model has seen them.
"""

import argparse
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import vaeport

ODD_BELOW = 1.0  # percentile
WINDOW = 20  # images
RAISE_AT = 3  # odd ones among them
SEED = 0  # of the draws, one for each image: the same stream gives the same figures
LOOK_SECONDS = 0.5  # between two looks at the folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and watch until the stream ends, or Ctrl-C."""
    options = parser().parse_args(arguments)
    paths = arrivals(options.folder) if options.folder else (Path(line.rstrip("\n")) for line in sys.stdin)
    try:
        with nullcontext(vaeport.load(options.package)) if options.package else vaeport.Client(options.server) as model:
            watch(paths, model)
    except (vaeport.VaeportError, OSError) as error:
        print(f"anomaly_alarm: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser("anomaly_alarm", description="An alarm on a stream of images.")
    source = result.add_mutually_exclusive_group(required=True)
    source.add_argument("--package", type=Path, help="compute here, with models/<name> or one version of it")
    source.add_argument("--server", help="ask a server: host:port")
    result.add_argument("--folder", type=Path, help="watch it, instead of reading paths from standard input")
    return result


def is_up_after(was_up: bool, odd: int) -> bool:
    """Whether the alarm is up once `odd` images of the window are odd: RAISE_AT raise it, the last one keeps it up."""
    return odd > 0 if was_up else odd >= RAISE_AT


def chance_of_false_alarm(window: int = WINDOW, raise_at: int = RAISE_AT, percentile: float = ODD_BELOW) -> float:
    """That a window of ordinary images raises the alarm: a binomial tail, since each is odd with chance p."""
    p = percentile / 100
    return 1.0 - sum(math.comb(window, odd) * p**odd * (1 - p) ** (window - odd) for odd in range(raise_at))


def watch(paths: Iterable[Path], model: vaeport.Model | vaeport.Client) -> None:
    """Print the percentile of each image, and the alarm when it changes."""
    last: deque[bool] = deque(maxlen=WINDOW)
    is_up = False
    for row, path in enumerate(paths):
        try:
            percentile = percentile_of(path, model, row)
        except vaeport.ServerError:  # some of which are OSErrors
            raise
        except (vaeport.InvalidInputError, OSError) as error:  # a file that is no picture does not end the watch
            print(f"anomaly_alarm: left out: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{percentile:6.2f}  {path}", flush=True)
        last.append(not percentile >= ODD_BELOW)  # NaN too, of an image that compares with none
        was_up, is_up = is_up, is_up_after(is_up, sum(last))
        if is_up != was_up:
            print("alarm up" if is_up else "alarm down", flush=True)


def percentile_of(path: Path, model: vaeport.Model | vaeport.Client, row: int) -> float:
    """The share of the held-out images that the model explains less well than this one, 0 to 100.

    The ELBO is estimated from one draw, as it was of the held-out images; with more, fewer images would look odd.
    """
    percentile = model.score(path, seed=SEED, first_row=row).percentile
    if percentile is None:
        raise vaeport.PackageError("the package has no figures of held-out images; export its run again")
    return float(percentile[0])


def arrivals(folder: Path) -> Iterator[Path]:
    """The files of a folder as they appear, for ever; those that one look finds, by name.

    The writer of the folder must write elsewhere and rename, or half a picture is seen. A leading dot hides a file.
    """
    seen: set[Path] = set()
    while True:
        there = {path for path in folder.iterdir() if not path.name.startswith(".")}
        yield from sorted(there - seen)
        seen = there  # what has been taken away is forgotten
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
