"""Schedules against their formulas, by hand."""

from pathlib import Path

import pytest

from training.config import Config, ConfigError
from training.schedules import Plan, cyclical, learning_rate, ramp


def test_a_ramp_rises_linearly_and_stays() -> None:
    assert [ramp(step, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert ramp(0, 0) == 1


def test_a_cycle_rises_in_its_first_half_and_starts_again() -> None:
    assert [cyclical(step, 16, 2) for step in range(16)] == 2 * [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]


def test_half_a_cosine_goes_from_one_to_nought() -> None:
    rates = [learning_rate("cosine", step, 100) for step in range(101)]
    assert [rates[0], rates[50], rates[100]] == pytest.approx([1, 0.5, 0])
    assert rates == sorted(rates, reverse=True)


def test_the_stages_of_iwae_are_those_of_its_code() -> None:
    """3^i passes at 0.001 * 10^(-i/7), i = 0..7: 3,280 passes in all."""
    passes = [stage for stage in range(8) for _ in range(3**stage)]
    assert len(passes) == 3280
    for epoch, stage in enumerate(passes):
        for step in (epoch * 10, epoch * 10 + 9):  # its first and its last of 10 steps a pass
            assert learning_rate("iwae", step, 32800) == pytest.approx(10 ** (-stage / 7))


def test_steps_lower_the_rate_after_their_epochs() -> None:
    plan = Plan(Config(lr=0.4, lr_schedule="steps", lr_milestones=(2, 3), lr_decay=0.5, epochs=5), steps_per_epoch=2)
    assert [plan.at(step).lr for step in range(plan.steps)] == [0.4] * 4 + [0.2] * 2 + [0.1] * 4


def test_the_plan_counts_steps_over_epochs() -> None:
    warm = Plan(Config(beta=4.0, warmup_epochs=2.0, epochs=10), steps_per_epoch=5)
    assert (warm.steps, warm.warmup) == (50, 10)
    assert [warm.at(step).beta for step in (0, 5, 10, 49)] == [0, 2, 4, 4]
    assert warm.at(3).capacity is None


def test_the_warm_up_of_a_capacity_leaves_beta_alone() -> None:
    plan = Plan(Config(capacity=25.0, warmup_steps=10, epochs=10), steps_per_epoch=5)
    assert [(plan.at(step).beta, plan.at(step).capacity) for step in (0, 5, 20)] == [(1, 0), (1, 12.5), (1, 25)]


def test_an_autoencoder_has_no_beta() -> None:
    assert Plan(Config("digits", Path(), autoencoder=True), 5).at(3).beta == 0


def test_cycles_without_the_steps_to_rise_in_are_refused() -> None:
    Plan(Config(cycles=5, epochs=4), steps_per_epoch=5).check()
    with pytest.raises(ConfigError, match=r"--cycles 6: expected at least 4 steps in each, got 3\.33: the run has 20"):
        Plan(Config(cycles=6, epochs=4), steps_per_epoch=5).check()
