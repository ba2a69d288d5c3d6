"""Images that come one by one, gathered into chunks, and the chunks' encodings put together again."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaeport.arrays import check_images, check_rows
from vaeport.errors import InvalidInputError
from vaeport.inputs import Pixels, join_images, read_images
from vaeport.prior import as_integer
from vaeport.results import Encoding, ModelInfo

CHUNK_ROWS = 256  # of a stream, unless the caller says otherwise; 0.2 MB of 28x28 bytes
MAX_CHUNK_ROWS = 2**32 - 1  # what a message has room for


class Chunker:
    """Gathers images, or small chunks of them, into chunks that are worth a request.

    Args:
        model: the model that takes them.
        rows: rows of a chunk.
    """

    def __init__(self, model: ModelInfo, rows: int) -> None:
        self._shape, self._rows = model.image_shape, rows
        self._items: list[Any] = []
        self._waiting = 0  # rows

    def add(self, item: Any) -> Iterator[list[Any]]:
        """Take one more item, and yield the chunks that are full: lists for `read_chunk`."""
        for part, rows in self._parts(item):
            # Whoever gives one may write the next into the same array.
            self._items.append(part.copy() if isinstance(part, np.ndarray) else part)
            self._waiting += rows
            if self._waiting >= self._rows:
                yield from self.flush()

    def flush(self) -> Iterator[list[Any]]:
        """What has been gathered so far, if anything."""
        if self._items:
            items, self._items, self._waiting = self._items, [], 0
            yield items

    def _parts(self, item: Any) -> Iterator[tuple[Any, int]]:
        """The parts of the item, cut where a chunk is full, and the rows of each part."""
        if not isinstance(item, np.ndarray) or item.shape == self._shape or item.ndim < 3:
            yield item, len(item) if isinstance(item, list | tuple) else 1
            return
        start = 0
        while start < len(item) or not start:  # also an item without rows, which will be refused
            part = item[start : start + max(1, self._rows - self._waiting)]
            start += max(1, len(part))
            yield part, len(part)


def read_chunk(items: Sequence[Any], model: ModelInfo) -> Pixels:
    """Read what was gathered, as `read_images` does."""
    first = items[0]
    if len(items) == 1:
        return read_images(first, model)
    if _are_alike(items) and _is_one_image(first, model):
        return check_images(np.stack(items), model.image_shape)  # all at once is a hundred times as fast
    return join_images([read_images(item, model) for item in items])


def chunks_of(images: Iterable[Any], chunker: Chunker) -> Iterator[list[Any]]:
    """The images in chunks. An error of `images` is raised after the chunks of what came before it."""
    try:
        for item in images:
            yield from chunker.add(item)
    except Exception:
        yield from chunker.flush()
        raise
    yield from chunker.flush()


def join(encodings: Sequence[Encoding]) -> Encoding:
    """Join encodings of one version.

    Raises:
        InvalidInputError: there is none, because there was no image.
    """
    check_rows("images", len(encodings))
    if len(encodings) == 1:
        return encodings[0]
    mean, log_var = (np.concatenate([getattr(each, name) for each in encodings]) for name in ("mean", "log_var"))
    return Encoding(mean, log_var, encodings[-1].version)


def check_chunk_rows(rows: int) -> int:
    """Raise InvalidInputError unless a chunk may have `rows` rows."""
    rows = as_integer("chunk_rows", rows)
    if not 1 <= rows <= MAX_CHUNK_ROWS:
        raise InvalidInputError.of("chunk_rows", expected=f"1 to {MAX_CHUNK_ROWS}", got=rows)
    return rows


def _is_one_image(item: NDArray[Any], model: ModelInfo) -> bool:
    """Three [H, W] together would have the shape of one image of three channels, and mean something else."""
    channels, *size = model.image_shape
    return item.shape == model.image_shape or (channels == 1 and item.shape == tuple(size))


def _are_alike(items: Sequence[Any]) -> bool:
    """Whether all items are arrays of one shape and dtype."""
    first = items[0]
    return isinstance(first, np.ndarray) and all(
        isinstance(item, np.ndarray) and item.shape == first.shape and item.dtype == first.dtype for item in items
    )
