"""What the user sees during a run: a progress bar, a line now and then, warnings, TensorBoard events."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training import alarms
from training.config import Config
from training.run import Metrics, Run
from training.schedules import Plan

PRINTED_EPOCHS = 20  # lines that a long run prints, about


@contextmanager
def progress(plan: Plan, run: Run, done: int) -> Iterator[Callable[[Metrics], None]]:
    """A function to call with the row of each epoch.

    Args:
        plan: of the run.
        run: where TensorBoard's events go.
        done: epochs that are finished already.
    """
    config = plan.config
    every = math.ceil(config.epochs / PRINTED_EPOCHS)
    alarmed = False

    def show(row: Metrics) -> None:
        nonlocal alarmed
        epoch = int(row["epoch"])
        for name, value in row.items():
            board.add_scalar(name, value, epoch)
        bar.update()
        bar.set_postfix(train=f"{row['train_loss']:.2f}", test=f"{row['test_loss']:.2f}")
        if epoch % every == 0 or epoch in (1, config.epochs):
            tqdm.write(_line(row, config))
        warning = alarms.collapse_warning(row, config, epoch * plan.steps_per_epoch)
        if warning and not alarmed:  # once, until it has recovered
            tqdm.write(f"training: warning: {warning}", file=sys.stderr)
        alarmed = warning is not None

    with (
        SummaryWriter(run.path, purge_step=done + 1) as board,
        tqdm(total=config.epochs, initial=done, unit="epoch", disable=None) as bar,
    ):
        yield show


@contextmanager
def silence() -> Iterator[Callable[[Metrics], None]]:
    """For a process that is not the leading one."""
    yield lambda _: None


def _line(row: Metrics, config: Config) -> str:
    return (
        f"epoch {row['epoch']:>{len(str(config.epochs))}}/{config.epochs}"
        f"  train {row['train_loss']:.2f} nats (reconstruction {row['reconstruction']:.2f}"
        f" + KL {row['kl']:.2f}{_weight(row, config)})  test {row['test_loss']:.2f} nats"
        f"  {row['active_units']:g} of {config.latent_dim} latents active  {row['seconds']:.2f} s"
    )


def _weight(row: Metrics, config: Config) -> str:
    """What the loss has in place of the plain KL term, if it has. The loss may rise with beta or capacity: say why."""
    if config.autoencoder:
        return ""
    least = f", at least {config.free_bits:g} counted per latent" if config.free_bits else ""
    draws = f", less what weighing {config.importance_samples} draws brings" if config.objective != "elbo" else ""
    return least + _rising(row, config) + draws


def _rising(row: Metrics, config: Config) -> str:
    """The weight or the capacity of the KL term."""
    if config.capacity is not None:
        rising = row["capacity"] < config.capacity
        return f", capacity still {row['capacity']:.2f}" if rising else f", capacity {config.capacity:g}"
    if row["beta"] < config.beta:
        return f", beta still {row['beta']:.2f}"
    return "" if config.beta == 1.0 else f", beta {config.beta:g}"
