"""Schedules: small functions of the step, and the plan of a run that is made of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from training.config import Config, ConfigError
from training.run import Metrics

IWAE_STAGES = 8
CYCLE_STEPS = 4  # at least: beta is then 0, a half, 1 and 1


def ramp(step: float, length: float) -> float:
    """From 0 at step 0 to 1 at `length`, then 1. Without a length always 1."""
    return min(1.0, step / length) if length > 0 else 1.0


def cyclical(step: int, steps: int, cycles: int) -> float:
    """Each of `cycles` equal parts rises from 0 to 1 over its first half and stays (Fu et al., arXiv 1903.10145)."""
    part = steps / cycles
    return ramp(step % part, part / 2)


def learning_rate(kind: Literal["constant", "cosine", "iwae"], step: int, steps: int) -> float:
    """The factor of the learning rate at `step` of `steps`.

    "iwae": stages i = 0..7, of 3^i parts of the run, with the factor 10^(-i/7) (Burda et al., arXiv 1509.00519, 5.1).
    """
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * step / steps))
    if kind == "iwae":
        parts = (3**IWAE_STAGES - 1) / 2  # 3,280: the passes of the paper
        stage = int(math.log(2.0 * parts * step / steps + 1.0, 3) + 1e-9)
        return float(10.0 ** (-min(stage, IWAE_STAGES - 1) / (IWAE_STAGES - 1)))
    return 1.0


def stepped(step: int, milestones: Sequence[int], decay: float) -> float:
    """The factor of a learning rate that is multiplied with `decay` at each of the steps `milestones`."""
    return float(decay ** sum(step >= milestone for milestone in milestones))


class Rates(NamedTuple):
    """What the schedules say about one step; tensors where a captured graph reads them."""

    lr: float
    beta: float | Tensor
    capacity: float | Tensor | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The schedules of a run, by the step counted from its start."""

    config: Config
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """The steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def warmup(self) -> float:
        """Steps of the warm-up."""
        return self.config.warmup_steps or self.config.warmup_epochs * self.steps_per_epoch

    def at(self, step: int) -> Rates:
        """The rates of step 0, 1, ..."""
        config = self.config
        rise = cyclical(step, self.steps, config.cycles) if config.cycles else ramp(step, self.warmup)
        return Rates(
            lr=config.lr * self._learning_rate(step),
            beta=0.0 if config.autoencoder else config.beta * (rise if config.capacity is None else 1.0),
            capacity=None if config.capacity is None else config.capacity * rise,
        )

    def _learning_rate(self, step: int) -> float:
        config = self.config
        if config.lr_schedule == "steps":
            milestones = [epoch * self.steps_per_epoch for epoch in config.lr_milestones]
            return stepped(step, milestones, config.lr_decay)
        return learning_rate(config.lr_schedule, step, self.steps)

    def judged(self, rows: Sequence[Metrics]) -> Sequence[Metrics]:
        """The epochs that one is chosen from: those after the warm-up, which minimised all the same; before, all."""
        return rows[math.ceil(self.warmup / self.steps_per_epoch) :] or rows

    def best(self, rows: Sequence[Metrics]) -> Metrics:
        """The epoch with the lowest value of what is minimised, on the test images."""
        return min(self.judged(rows), key=lambda row: row["test_objective"])

    def check(self) -> None:
        """Raise ConfigError for a warm-up that would not end, or cycles too short to rise in."""
        if self.warmup >= self.steps:
            raise ConfigError(
                f"--warmup-steps {self.warmup:g} does not end before the run, which has {self.steps} steps"
            )
        if self.config.cycles and self.steps < self.config.cycles * CYCLE_STEPS:
            raise ConfigError(
                f"--cycles {self.config.cycles}: expected at least {CYCLE_STEPS} steps in each, got "
                f"{self.steps / self.config.cycles:.3g}: the run has {self.steps}"
            )
