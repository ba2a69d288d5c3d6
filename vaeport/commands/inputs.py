"""The image files that a command line names."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from vaeport.errors import InvalidInputError

# Those that `python -m training` reads from a folder.
SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
        *(".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
    )
)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named; for a folder the files below it that training would read, sorted.

    Raises:
        InvalidInputError: a folder holds none.
        OSError: a path does not exist, or may not be read.
    """
    found: list[Path] = []
    for path in paths:
        path.stat()  # a missing file is reported at once, not after an hour
        found += _below(path) if path.is_dir() else [path]
    return found


def shown(path: Path) -> str:
    """A path in a form that can be printed, whatever its bytes."""
    return os.fsencode(path).decode(errors="replace")


def _below(folder: Path) -> list[Path]:
    files = sorted(_walk(folder))
    if not files:
        raise InvalidInputError(f"{shown(folder)}: no image files here or below ({', '.join(sorted(SUFFIXES))})")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, also through links, without hidden files, which file managers leave behind."""
    entered: set[Path] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        resolved = Path(parent).resolve()
        if resolved in entered:  # a link that leads back
            folders.clear()
            continue
        entered.add(resolved)
        folders[:] = [name for name in folders if name[0] != "." and name != "__MACOSX"]
        yield from (Path(parent, n) for n in names if n[0] != "." and Path(n).suffix.lower() in SUFFIXES)
