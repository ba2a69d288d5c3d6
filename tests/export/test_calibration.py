"""What int8 is calibrated on: some images, however large they are, and few of them at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor

from export.calibration import IMAGES, PIXELS, calibration_rows
from training import VAE
from training.data import Dataset, Images
from training.data.dataset import Preprocessing


class Watched(VAE):
    """Notes how many images it encodes at a time."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes = [*getattr(self, "sizes", []), len(x)]
        return torch.zeros(len(x), 2), torch.zeros(len(x), 2)


@pytest.mark.parametrize(("side", "rows", "most"), [(8, IMAGES, 1000), (512, PIXELS // 512**2, 4)])
def test_large_images_are_fewer_and_encoded_few_at_a_time(side: int, rows: int, most: int) -> None:
    images = Images(np.broadcast_to(np.zeros((), np.uint8), (600, 1, side, side)), None)
    preprocessing = Preprocessing((side, side), 1, "none", 255.0, "none")
    dataset = Dataset("black", images, images, 255.0, "", preprocessing, None, {})
    model = Watched(4, 4, 2)
    found = calibration_rows(dataset, model)
    assert max(model.sizes) <= most
    assert (found["encoder"].shape, found["decoder"].shape) == ((rows, 1, side, side), (2 * rows, 2))
