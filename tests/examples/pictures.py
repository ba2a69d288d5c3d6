"""Pictures that the model of the tests takes: scikit-learn's digits, 8x8, where 16 is white."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

WHITE = 16
SIZE = 8

Pixels = NDArray[np.uint8]  # [N, 8, 8]


def digits(count: int) -> Pixels:
    """The first ones."""
    return np.asarray(load_digits().images[:count], np.uint8)


def noise(count: int) -> Pixels:
    """Each pixel of its own."""
    return np.random.default_rng(0).integers(0, WHITE + 1, (count, SIZE, SIZE), np.uint8)


def write(folder: Path, name: str, pixels: Pixels) -> list[Path]:
    """Each image as a PNG; it appears in the folder when it is complete."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}-{index:03}.png" for index in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path.with_name(f".{path.name}"), "PNG")
        path.with_name(f".{path.name}").rename(path)
    return paths
