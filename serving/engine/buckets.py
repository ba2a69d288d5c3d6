"""The batch sizes of a device: a closed set, so that memory, tuning and captured graphs are ready before the first
caller comes. A batch is padded with zeros to the next size, and the padding's results are cut off.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaeport.arrays import to_float

Rows = NDArray[Any]  # the first axis is rows


def bucket_sizes(max_rows: int) -> tuple[int, ...]:
    """The powers of two up to `max_rows`, and `max_rows` itself: so at most half of a batch is padding."""
    return (*(1 << power for power in range((max_rows - 1).bit_length())), max_rows)


def bucket_of(rows: int, sizes: Sequence[int]) -> int:
    """The smallest size that holds `rows` rows; `sizes` must ascend, and the last one must be large enough."""
    return next(size for size in sizes if size >= rows)


def fill(room: Rows, pieces: Sequence[Rows]) -> int:
    """Write the pieces into `room`, one after the other, with zeros after them; returns the number of their rows.

    Args:
        room: uint8, if all pieces are uint8; else float32, where uint8 pieces mean value / 255.
        pieces: at most as many rows as `room` has.
    """
    rows = 0
    for piece in pieces:
        part = room[rows : rows + len(piece)]
        if room.dtype == np.uint8:
            np.copyto(part, piece, casting="no")
        else:
            to_float(piece, out=part)
        rows += len(piece)
    room[rows:] = 0
    return rows


def cut(pieces: Sequence[Rows], rows: int) -> Iterator[list[Rows]]:
    """The same rows in the same order, in parts of at most `rows` rows; nothing is copied."""
    part: list[Rows] = []
    free = rows
    for piece in pieces:
        start = 0
        while start < len(piece):
            part.append(piece[start : start + free])
            start += len(part[-1])
            free -= len(part[-1])
            if not free:
                yield part
                part, free = [], rows
    if part:
        yield part
