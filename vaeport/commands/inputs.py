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
    """Files as they are named, and for a folder, sorted, those below it that training would read.

    Raises:
        InvalidInputError: a folder without any.
        OSError: nothing is there, or it may not be looked at.
    """
    found: list[Path] = []
    for path in paths:
        path.stat()  # what is missing is said at once, not after an hour
        found += _below(path) if path.is_dir() else [path]
    return found


def shown(path: Path) -> str:
    """A path as it can be printed, whatever bytes it is made of."""
    return os.fsencode(path).decode(errors="replace")


def _below(folder: Path) -> list[Path]:
    files = sorted(_walk(folder))
    if not files:
        raise InvalidInputError(f"{shown(folder)}: no image files here or below ({', '.join(sorted(SUFFIXES))})")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    """Through links, too, but not to hidden files, which file managers leave behind."""
    entered: set[Path] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        resolved = Path(parent).resolve()
        if resolved in entered:  # a link that leads back
            folders.clear()
            continue
        entered.add(resolved)
        folders[:] = [name for name in folders if name[0] != "." and name != "__MACOSX"]
        yield from (Path(parent, n) for n in names if n[0] != "." and Path(n).suffix.lower() in SUFFIXES)
