"""Grey pixels as probabilities of a 1: drawn for each use, drawn once, cut at a half, or left as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.test_data import load, noise
from training import data
from training.config import ConfigError
from training.data import images, memory


@pytest.mark.parametrize("binarization", ["none", "static"])
def test_what_is_left_as_it_is_costs_nothing(binarization: str) -> None:
    x = torch.rand(3, 1, 4, 4)
    assert data.binarize(x, binarization, torch.Generator()) is x


def test_the_threshold_is_above_a_half() -> None:
    x = torch.tensor([0.0, 0.5, torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)), 1.0])
    assert data.binarize(x, "threshold", None).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_dynamic_draw_is_one_with_the_pixel_as_its_probability() -> None:
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).expand(100_000, 5)
    drawn = data.binarize(x, "dynamic", torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == {0.0, 1.0}
    assert drawn.dtype == torch.float32
    means = drawn.mean(dim=0)
    assert means[[0, 4]].tolist() == [0.0, 1.0]
    assert (means - x[0]).abs().max() < 4 * 0.5 / 100_000**0.5  # four standard errors of the widest


def test_a_dynamic_draw_is_fresh_each_time_and_repeats_with_its_generator() -> None:
    x = torch.full((100, 100), 0.5)
    generator = torch.Generator().manual_seed(7)
    first, second = (data.binarize(x, "dynamic", generator) for _ in range(2))
    assert 0.4 < (first == second).float().mean() < 0.6
    assert torch.equal(data.binarize(x, "dynamic", torch.Generator().manual_seed(7)), first)


@pytest.mark.parametrize("binarization", ["dynamic", "threshold"])
def test_what_the_loop_binarises_stays_grey_in_memory(binarization: str) -> None:
    dataset, grey = load("digits", binarization=binarization), load("digits")
    assert np.array_equal(dataset.train.pixels, grey.train.pixels)
    assert (dataset.scale, dataset.preprocessing.binarization) == (16.0, binarization)


def test_a_static_draw_is_of_zeros_and_ones_with_the_pixel_as_probability() -> None:
    dataset, grey = load("digits", binarization="static"), load("digits")
    for part, grey_part in ((dataset.train, grey.train), (dataset.test, grey.test)):
        assert part.pixels.dtype == np.uint8
        assert np.unique(part.pixels).tolist() == [0, 1]
        assert part.labels is not None
        assert grey_part.labels is not None
        assert np.array_equal(part.labels, grey_part.labels)
    for value in range(17):
        chosen = dataset.train.pixels[grey.train.pixels == value]
        assert abs(chosen.mean() - value / 16) < 4 * 0.5 / len(chosen) ** 0.5
    assert dataset.train.pixels[grey.train.pixels == 16].all()
    assert not dataset.train.pixels[grey.train.pixels == 0].any()


def test_a_static_draw_leaves_the_scale_of_a_file_to_the_manifest() -> None:
    dataset = load("digits", binarization="static")
    assert (dataset.scale, dataset.preprocessing.scale, dataset.preprocessing.binarization) == (1.0, 16.0, "static")
    assert dataset.digest == load("digits").digest


def test_a_static_draw_follows_the_seed_of_the_split_alone() -> None:
    one, same, other = (
        load("digits", binarization="static", seed=seed, split_seed=split) for seed, split in ((0, 0), (1, 0), (0, 1))
    )
    assert np.array_equal(one.train.pixels, same.train.pixels)
    assert not np.array_equal(one.train.pixels, other.train.pixels)


def test_float_images_are_drawn_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(20, 6, 4) / 255)
    dataset = load(tmp_path / "a.npy", binarization="static")
    assert dataset.train.pixels.dtype == np.uint8
    assert np.unique(dataset.train.pixels).tolist() == [0, 1]


def test_a_static_draw_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load("digits", binarization="static")
    monkeypatch.setattr(images, "CHUNK_BYTES", 1000)
    assert np.array_equal(load("digits", binarization="static").test.pixels, whole.test.pixels)


@pytest.mark.parametrize("binarization", ["none", "static"])
def test_binary_data_are_static_from_the_start(tmp_path: Path, binarization: str) -> None:
    np.save(tmp_path / "a.npy", noise(20, 6, 4) > 99)
    dataset = load(tmp_path / "a.npy", binarization=binarization)
    assert np.array_equal(dataset.train.pixels, load(tmp_path / "a.npy").train.pixels)
    assert (dataset.scale, dataset.preprocessing.scale, dataset.preprocessing.binarization) == (1.0, 1.0, "static")


@pytest.mark.parametrize("binarization", ["dynamic", "threshold"])
def test_binary_data_are_not_binarised_again(tmp_path: Path, binarization: str) -> None:
    np.save(tmp_path / "a.npy", noise(20, 6, 4) > 99)
    with pytest.raises(
        ConfigError, match=rf"--binarization {binarization}: the pixels of .*a\.npy are 0 and 1 already"
    ):
        load(tmp_path / "a.npy", binarization=binarization)


def test_a_file_on_the_disk_has_no_static_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", noise(20, 6, 4))
    monkeypatch.setattr(memory, "available", lambda: 100)
    with pytest.raises(ConfigError, match=r"--binarization static: .*a\.npy is too large for the memory"):
        load(tmp_path / "a.npy", binarization="static")
