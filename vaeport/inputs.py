"""What callers may pass for images: arrays, pictures, paths, and lists of these."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vaeport.arrays import check_images, to_float
from vaeport.errors import InvalidInputError
from vaeport.preparation import prepare, prepare_file, readable
from vaeport.results import ModelInfo

if TYPE_CHECKING:
    from PIL import Image

Picture: TypeAlias = "Image.Image | str | os.PathLike[str]"
# Any, since a type checker takes a list of paths and arrays for one of objects.
Images: TypeAlias = Union[ArrayLike, Picture, "Sequence[Any]"]
Pixels = NDArray[Any]  # [N, C, H, W], uint8 or any float dtype


def read_images(images: Any, model: ModelInfo) -> Pixels:
    """Images in the form that `check_images` gives, whatever their kind.

    Args:
        images: an array, a Pillow image, a path, or a list of these, each of which is one image or several.
        model: the model that takes them.

    Raises:
        InvalidInputError: a wrong shape, dtype or range, or a picture that cannot be prepared.
        OSError: a file cannot be opened.
    """
    if is_picture(images):
        return _read_one(images, model)
    if has_pictures(images):
        return join_images([_read_one(each, model) for each in images])
    if isinstance(images, Iterator):  # numpy would take it for one object
        expected = "images; a generator goes to encode or encode_stream"
        raise InvalidInputError.of("images", expected=expected, got=type(images).__name__)
    return check_images(images, model.image_shape)


def is_picture(value: object) -> bool:
    """Whether it is a Pillow image or a path. Before Pillow is loaded there can be no image, so it is not imported."""
    module = sys.modules.get("PIL.Image")
    return isinstance(value, str | os.PathLike) or (module is not None and isinstance(value, module.Image))


def has_pictures(images: object) -> bool:
    """Whether Pillow has to prepare some of them, which is slow."""
    return is_picture(images) or (isinstance(images, list | tuple) and any(map(is_picture, images)))


def join_images(parts: Sequence[Pixels]) -> Pixels:
    """One array; floats if any part has some."""
    if len({part.dtype for part in parts}) == 1:
        return np.concatenate(parts)
    return np.concatenate([to_float(part) for part in parts])


def _read_one(image: Any, model: ModelInfo) -> Pixels:
    if not is_picture(image):
        return check_images(image, model.image_shape)
    if model.preprocessing is None:
        text = f"images: the server does not say how {model.name} wants its pictures prepared; pass arrays"
        raise InvalidInputError(text)
    if isinstance(image, str | os.PathLike):
        prepared = prepare_file(image, model.preprocessing)
    else:
        with readable():  # Pillow reads a file when its pixels are first asked for
            prepared = prepare(image, model.preprocessing)
    return check_images(prepared[np.newaxis], model.image_shape)
