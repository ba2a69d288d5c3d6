"""What callers may pass for images: arrays, pictures, paths, lists of these, and many of them one after the other."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport.arrays import check_images, to_float
from vaeport.errors import InvalidInputError
from vaeport.preparation import prepare, prepare_file
from vaeport.results import ModelInfo

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = "Image.Image | str | os.PathLike[str]"
Images: TypeAlias = Union[ArrayLike, Picture, "Sequence[ArrayLike | Picture]"]
Pixels = NDArray[Any]  # [N, C, H, W], uint8 or any float dtype

CHUNK_ROWS = 256  # of a stream, unless the caller says otherwise; 0.2 MB of 28x28 bytes


def read_images(images: Any, model: ModelInfo) -> Pixels:
    """Images as `check_images` has them, whatever they came as.

    Args:
        images: an array, a Pillow image, a path, or a list of these, each of which is one image or several.
        model: which takes them.

    Raises:
        InvalidInputError: another shape, dtype or range, or a picture that cannot be prepared.
        OSError: a file cannot be opened.
    """
    if is_picture(images):
        return _read_one(images, model)
    if has_pictures(images):
        return _join([_read_one(each, model) for each in images])
    if isinstance(images, Iterator):  # which numpy would take for one object
        expected = "images; a generator goes to encode or encode_stream"
        raise InvalidInputError.of("images", expected=expected, got=type(images).__name__)
    return check_images(images, model.image_shape)


def is_picture(value: object) -> bool:
    """Whether it is a Pillow image or a path. Nobody has the former before Pillow is loaded, so nothing is imported."""
    module = sys.modules.get("PIL.Image")
    return isinstance(value, str | os.PathLike) or (module is not None and isinstance(value, module.Image))


def has_pictures(images: object) -> bool:
    """Whether Pillow has to work on them, which takes a while."""
    return is_picture(images) or (isinstance(images, list | tuple) and any(map(is_picture, images)))


class Gathering:
    """Gathers what comes one by one, images or chunks of them, to chunks that are worth a request.

    Args:
        model: which takes them.
        rows: of a chunk.
    """

    def __init__(self, model: ModelInfo, rows: int) -> None:
        self._shape, self._rows = model.image_shape, rows
        self._items: list[Any] = []
        self._waiting = 0  # rows

    def add(self, item: Any) -> Iterator[list[Any]]:
        """Take one more, and yield the chunks that are full: lists for `read_chunk`."""
        for part, rows in self._parts(item):
            self._items.append(part)
            self._waiting += rows
            if self._waiting >= self._rows:
                yield from self.rest()

    def rest(self) -> Iterator[list[Any]]:
        """What has been gathered so far, if anything."""
        if self._items:
            items, self._items, self._waiting = self._items, [], 0
            yield items

    def _parts(self, item: Any) -> Iterator[tuple[Any, int]]:
        """The item, cut where a chunk is full, and the rows of each part."""
        if not isinstance(item, np.ndarray) or item.shape == self._shape or item.ndim < 3:
            yield item, len(item) if isinstance(item, list | tuple) else 1
            return
        start = 0
        while start < len(item) or not start:  # one without rows, too, for it to be refused
            part = item[start : start + max(1, self._rows - self._waiting)]
            start += max(1, len(part))
            yield part, len(part)


def read_chunk(items: Sequence[Any], model: ModelInfo) -> Pixels:
    """What was gathered, as `read_images` does."""
    first = items[0]
    if len(items) == 1:
        return read_images(first, model)
    if _are_alike(items) and first.shape in (model.image_shape, model.image_shape[1:]):
        return check_images(np.stack(items), model.image_shape)  # all at once: a hundred times as fast
    return _join([read_images(item, model) for item in items])


def _are_alike(items: Sequence[Any]) -> bool:
    """Arrays of one shape and dtype."""
    first = items[0]
    return isinstance(first, np.ndarray) and all(
        isinstance(item, np.ndarray) and item.shape == first.shape and item.dtype == first.dtype for item in items
    )


def _read_one(image: Any, model: ModelInfo) -> Pixels:
    if not is_picture(image):
        return check_images(image, model.image_shape)
    if model.preprocessing is None:
        text = f"images: the server does not say how {model.name} wants its pictures prepared; pass arrays"
        raise InvalidInputError(text)
    if isinstance(image, str | os.PathLike):
        prepared = prepare_file(image, model.preprocessing)
    else:
        prepared = prepare(image, model.preprocessing)
    return check_images(prepared, model.image_shape)


def _join(parts: Sequence[Pixels]) -> Pixels:
    """One array; floats if any part has some."""
    if len({part.dtype for part in parts}) == 1:
        return np.concatenate(parts)
    return np.concatenate([to_float(part) for part in parts])
