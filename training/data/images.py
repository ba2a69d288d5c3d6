"""Images in memory or in a mapped file, and what one source of them holds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 2**24

Pixels = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Images:
    """Images with their labels.

    Attributes:
        pixels: [N, C, H, W], uint8, or float32 for data that came as floats. Of a mapped file it is the whole file,
            whichever images these are: read those through `rows`.
        labels: [N] integers, -1 for an image without one; or None.
        order: of a mapped file, where in it these images are, [N]; None is all of them in order.
    """

    pixels: Pixels
    labels: NDArray[np.int64] | None
    order: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.pixels if self.order is None else self.order)

    @property
    def resident(self) -> bool:
        """In memory, rather than in a memory-mapped file."""
        return not isinstance(self.pixels, np.memmap)

    def take(self, index: NDArray[np.int64]) -> "Images":
        """The images at `index`, in that order; of a mapped file nothing is read."""
        labels = None if self.labels is None else self.labels[index]
        if self.resident:
            return Images(self.pixels[index], labels)
        return Images(self.pixels, labels, index if self.order is None else self.order[index])

    def some(self, most: int, seed: int) -> "Images":
        """At most `most` images, in the order drawn by the seed: the first of a folder all have the same label."""
        return self.take(np.random.default_rng(seed).permutation(len(self))[:most])

    def rows(self, index: NDArray[np.int64]) -> Pixels:
        """The pixels [n, C, H, W] of the images at `index`, in that order, in memory."""
        rows: Pixels = self.pixels[index if self.order is None else self.order[index]]
        return rows

    def chunks(self) -> Iterator[Pixels]:
        """All pixels in order, about CHUNK_BYTES at a time."""
        step = max(1, CHUNK_BYTES // self.pixels[:1].nbytes)
        for start in range(0, len(self), step):
            yield self.rows(np.arange(start, min(start + step, len(self))))


@dataclass(frozen=True, slots=True)
class Source:
    """What a name or a path stands for, before any split.

    Attributes:
        images: all of them, or the training part where there is a test part.
        scale: a pixel divided by it lies in [0, 1].
        classes: the names of the labels 0, 1, ...; None where they have none.
        test: the test part that the data come with.
        binary: every pixel is 0 or 1.
        notes: what the user should know of the loading.
    """

    images: Images
    scale: float
    classes: tuple[str, ...] | None = None
    test: Images | None = None
    binary: bool = False
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Images, ...]:
        """The images, and the test part if there is one."""
        return (self.images,) if self.test is None else (self.images, self.test)

    @property
    def kind(self) -> str:
        """Type and range of the pixels, which two sources must share to be the parts of one data set."""
        return "0 or 1" if self.binary else f"{self.images.pixels.dtype} from 0 to {self.scale:g}"
