"""Images come in batches whose memory is bounded, whatever their size."""

import numpy as np
import pytest
import torch

from training.batches import evaluation_rows, ordered
from training.data import Dataset, Images
from training.data.dataset import Preprocessing

CPU = torch.device("cpu")


def dataset_of(count: int, side: int) -> Dataset:
    """Black images, as uint8."""
    images = Images(np.zeros((count, 1, side, side), np.uint8), None)
    preprocessing = Preprocessing((side, side), 1, "none", 255.0, "none")
    return Dataset("black", images, images, 255.0, "", preprocessing, None, {})


@pytest.mark.parametrize(("pixels", "rows"), [(1, 1000), (28 * 28, 1000), (256 * 256, 16), (3 * 1024 * 1024, 1)])
def test_images_are_evaluated_a_thousand_at_a_time_and_large_ones_by_their_pixels(pixels: int, rows: int) -> None:
    assert evaluation_rows(pixels) == rows


@pytest.mark.parametrize(("samples", "sizes"), [(1, [16, 16, 8]), (5, [3] * 13 + [1]), (50, [1] * 40)])
def test_batches_are_smaller_by_the_latents_of_an_image(samples: int, sizes: list[int]) -> None:
    dataset = dataset_of(40, 256)
    assert [len(batch) for batch in ordered(dataset.test, dataset, CPU, samples)] == sizes
