"""Images come in batches whose memory is bounded, whatever their size."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.batches import evaluation_rows, ordered, shuffled
from training.data import Dataset, Images
from training.data.dataset import Preprocessing
from training.data.images import Pixels

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


@pytest.mark.parametrize("most", [1, 7 * 64, 2**26])  # bytes: a batch, seven images, all of them
def test_what_is_gathered_at_a_time_is_bounded_and_changes_no_batch(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    images = Images(np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8), None)
    order = torch.randperm(40)
    gathered: list[int] = []
    rows = Images.rows

    def spy(self: Images, index: NDArray[np.int64]) -> Pixels:
        gathered.append(len(index))
        return rows(self, index)

    monkeypatch.setattr("training.batches.GATHERED_BYTES", most)
    monkeypatch.setattr(Images, "rows", spy)
    batches = list(shuffled(images, None, order, 3))
    assert [len(batch) for batch in batches] == [3] * 13 + [1]
    assert torch.equal(torch.cat(batches), torch.from_numpy(images.pixels)[order])
    assert max(gathered) == {1: 3, 7 * 64: 6, 2**26: 40}[most]


def test_no_image_is_left_of_an_epoch_whose_steps_are_taken() -> None:
    images = dataset_of(4, 8).train
    assert list(shuffled(images, torch.from_numpy(images.pixels), torch.empty(0, dtype=torch.long), 3)) == []
