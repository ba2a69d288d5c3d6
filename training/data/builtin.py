"""The data set that needs no download: scikit-learn's `digits`, 1,797 real handwritten digits (UCI, 1998)."""

import numpy as np

from training.data.images import Images, Source

DIGITS_SCALE = 16.0  # the pixels count the ink in 4x4 blocks: 0 to 16
DIGIT_CLASSES = tuple("0123456789")


def digits() -> Source:
    """Pixels [1797, 1, 8, 8] of 0 to 16, labels [1797]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = data.images.astype(np.uint8)[:, np.newaxis]
    return Source(Images(pixels, data.target.astype(np.int64)), DIGITS_SCALE, DIGIT_CLASSES)
