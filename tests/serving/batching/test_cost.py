"""The measured cost of a batch: a line, whatever the noise, and never more than what is known."""

import random

import pytest

from serving.batching.cost import CostModel


def line(rows: int) -> float:
    return 0.004 + 0.0001 * rows


def test_nothing_costs_anything_before_the_first_batch() -> None:
    assert CostModel(256).seconds(10_000) == 0.0


def test_two_sizes_give_the_line() -> None:
    cost = CostModel(256)
    for rows in (1, 256):
        cost.measured(rows, line(rows))
    for rows in (1, 10, 100, 256):
        assert cost.seconds(rows) == pytest.approx(line(rows))


def test_more_rows_than_a_batch_take_several() -> None:
    cost = CostModel(256)
    for rows in (1, 256):
        cost.measured(rows, line(rows))
    assert cost.seconds(1024) == pytest.approx(4 * line(256))
    assert cost.seconds(600) == pytest.approx(2 * line(256) + line(88))


def test_a_single_size_is_taken_for_the_least_it_can_mean_for_others() -> None:
    cost = CostModel(256)
    for _ in range(3):
        cost.measured(32, 0.032)
    assert cost.seconds(8) == pytest.approx(0.008)
    assert cost.seconds(32) == pytest.approx(0.032)
    assert cost.seconds(256) == pytest.approx(0.032)  # at least as much as fewer rows


def test_sizes_close_to_each_other_say_little_about_others() -> None:
    cost, noise = CostModel(256), random.Random(0)
    for rows in [30, 31, 32, 33] * 10:
        cost.measured(rows, line(rows) * noise.uniform(0.9, 1.1))
    assert cost.seconds(256) <= 1.2 * line(33)
    assert 0.0 < cost.seconds(1) <= 1.1 * line(32)


def test_outliers_change_nothing() -> None:
    cost, noise = CostModel(256), random.Random(1)
    for i in range(400):
        rows = noise.randint(1, 256)
        stall = 100.0 if i % 9 == 0 else 1.0
        cost.measured(rows, line(rows) * noise.uniform(0.95, 1.05) * stall)
    for rows in (1, 16, 256):
        assert cost.seconds(rows) == pytest.approx(line(rows), rel=0.15)


def test_single_rows_are_as_well_known_as_whole_batches_whatever_the_noise() -> None:
    cost, noise = CostModel(256), random.Random(2)
    for _ in range(400):
        rows = noise.choice([1, 2, 64, 200, 256])
        cost.measured(rows, (0.0005 + 0.001 * rows) * noise.uniform(0.8, 1.2))
    assert cost.seconds(1) == pytest.approx(0.0015, rel=0.25)
    assert cost.seconds(256) == pytest.approx(0.2565, rel=0.25)


def test_a_lasting_change_is_believed_after_a_few_batches() -> None:
    cost = CostModel(256)
    for rows in (1, 16, 256) * 20:
        cost.measured(rows, line(rows))
    for rows in (1, 16, 256) * 4:
        cost.measured(rows, 5 * line(rows))
    for rows in (1, 16, 256):
        assert cost.seconds(rows) == pytest.approx(5 * line(rows))


def test_the_slow_first_batch_is_forgotten_with_the_second() -> None:
    cost = CostModel(256)
    cost.measured(4, 2.0)
    cost.measured(4, 0.01)
    assert cost.seconds(4) == pytest.approx(0.01)


def test_the_slope_survives_any_number_of_batches_of_one_size() -> None:
    cost, noise = CostModel(256), random.Random(4)
    cost.measured(256, line(256))
    for _ in range(10_000):
        cost.measured(1, line(1) * noise.uniform(0.99, 1.01))
    assert cost.seconds(256) == pytest.approx(line(256), rel=0.01)
    assert cost.seconds(1) == pytest.approx(line(1), rel=0.01)


def test_more_rows_never_cost_less() -> None:
    noise = random.Random(3)
    for _ in range(50):
        cost = CostModel(256)
        for _ in range(noise.randint(1, 30)):
            cost.measured(noise.randint(1, 256), noise.uniform(0.0, 1.0))
        costs = [cost.seconds(rows) for rows in (1, 2, 16, 255, 256)]
        assert costs == sorted(costs)
        assert costs[0] >= 0.0


def test_batches_that_shrink_cost_what_so_many_of_them_do() -> None:
    cost = CostModel(256)
    for rows in (1, 256):
        cost.measured(rows, line(rows))
    cost.limit_batches(64)
    assert cost.seconds(256) == pytest.approx(4 * line(64))
