"""What commands write: pictures, files that are complete or absent, and a progress line."""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vaeport.commands.inputs import shown
from vaeport.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLEAR_LINE = "\r\x1b[K"
ARRAYS = (".npy", ".npz")


def check_images(path: Path) -> None:
    """Check that `save_images` can write there, before anything is computed.

    Raises:
        InvalidInputError: there is no such folder, or the suffix is of neither an array nor a picture.
    """
    check_folder(path)
    if path.suffix not in ARRAYS:
        from vaeport.pictures import is_written

        if not is_written(path):
            raise InvalidInputError.of("-o", expected="a picture such as X.png, X.npy or X.npz", got=path)


def check_folder(path: Path) -> None:
    """Raise InvalidInputError if the folder of `path` does not exist."""
    if not path.parent.is_dir():
        raise InvalidInputError.of("-o", expected="a folder that exists", got=path.parent)


def save_images(
    images: "NDArray[np.float32]",
    path: Path,
    columns: int | None = None,
    picture: "NDArray[np.float32] | None" = None,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> None:
    """Write images as one picture, or as an array if `path` ends in .npy or .npz, and print the path.

    Args:
        images: float32 [N, C, H, W] in [0, 1]; `images` in a .npz.
        path: where to write.
        columns: images in a row of the picture; None makes it about square.
        picture: what the picture shows, if not only `images`.
        row_names, column_names: labels beside the picture's rows and above its columns.
    """
    if path.suffix in ARRAYS:
        import numpy as np

        with replacing(path) as file:
            if path.suffix == ".npz":
                np.savez(file, images=images)
            else:
                np.save(file, images)
    else:
        from vaeport.pictures import save_grid

        save_grid(images if picture is None else picture, path, columns, row_names, column_names)
    print(shown(path))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name when all went well. An unwritable one is refused at the beginning."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a device or a pipe, which must stay one
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with target.open("wb") as out:
                shutil.copyfileobj(file, out)
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A function that counts rows on standard error if that is a terminal; the line is removed in the end."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    done, start = 0, time.monotonic()

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        rate = done / max(time.monotonic() - start, 1e-9)
        print(f"{CLEAR_LINE}{done:,} of {total:,} images, {rate:,.0f} a second", end="", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
