"""The training loop: epochs of steps, an evaluation after each, checkpoints, and when to stop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from training import checkpoint, divergence
from training.batches import EVALUATION_SEED, ordered, shuffled
from training.checkpoint import TERMS, State
from training.config import Config
from training.data import Dataset, Images
from training.errors import DivergedError, RunError
from training.initial import initial_state
from training.latents import active_units
from training.likelihood import Gaussian
from training.model import VAE
from training.objective import Objective
from training.processes import ALONE, Processes
from training.progress import progress, silence
from training.run import STATE, Metrics, Run
from training.schedules import Plan, Rates
from training.step import CapturedStep, Step

NAMED = 10  # numbers or tensors in an error, at most
RESIDENT_SHARE = 0.5  # of a GPU's free memory, at most, for the training images


class InterruptedRun(Exception):  # noqa: N818 - somebody asked for it
    """The run was asked to stop, and has kept where it stands."""


def train(
    config: Config,
    dataset: Dataset,
    run: Run,
    device: torch.device,
    processes: Processes = ALONE,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Metrics]:
    """Train to `config.epochs`, from the start or from where the run was stopped, saving after each epoch.

    Args:
        config, dataset, run, device: what, on what, into what, where.
        processes: that train together; the leading one writes.
        stopping: asked after each step and each epoch; processes must be told the same.

    Returns:
        The rows of metrics.jsonl.

    Raises:
        ConfigError: the warm-up does not end before the run, or the cycles are too short.
        DivergedError: a number is not finite; the text names the tensor. The run keeps the epochs before.
        InterruptedRun: `stopping` said so; --resume goes on from that step.
        RunError: the state to resume from does not fit.
    """
    plan = plan_of(config, dataset)
    state = _state(plan, dataset, run, device, leads=processes.leads)
    step = Step(state, objective_of(config), dataset, config.precision, processes)
    take = CapturedStep(step, config.batch_size) if device.type == "cuda" else step
    pixels = _resident(dataset.train, device)
    with progress(plan, run, state.epoch) if processes.leads else silence() as show:
        while state.epoch < config.epochs and not early_stop(plan, state.rows):
            try:
                row = _train_epoch(state, take, plan, dataset, pixels, stopping)
            except InterruptedRun:
                if bad := checkpoint.not_finite(state):
                    raise _diverged(bad, step, plan, run, pixels) from None
                if processes.leads:
                    checkpoint.save(state, run, plan)
                raise
            try:
                row |= evaluate(state.model, dataset.test, dataset, step.objective, config.beta, config.capacity)
            except (MemoryError, RuntimeError):  # no memory, mostly: the steps of the epoch are not lost with it
                if processes.leads and not checkpoint.not_finite(state):
                    checkpoint.save(state, run, plan)
                raise
            row = processes.agreed(row)
            if bad := [f"{name} {value}" for name, value in row.items() if not math.isfinite(value)]:
                raise _diverged(bad, step, plan, run, pixels)
            state.finish_epoch(row)
            if processes.leads:
                checkpoint.save(state, run, plan)
            show(row)
            if stopping() and state.epoch < config.epochs:
                raise InterruptedRun
    return state.rows


def _train_epoch(
    state: State,
    take: Callable[[Tensor, Rates], None],
    plan: Plan,
    dataset: Dataset,
    pixels: Tensor | None,
    stopping: Callable[[], bool],
) -> Metrics:
    """One pass over the images, in a new order, or the rest of one. The losses are those of the steps as taken."""
    state.model.train()
    started = time.perf_counter() - state.seconds
    for batch in _batches_left(state, plan, dataset, pixels):
        rates = _rates(state, plan)
        _set_learning_rate(state.optimizer, rates.lr)
        take(batch, rates)
        state.step += 1
        if stopping() and state.step < plan.steps_per_epoch:
            state.seconds = time.perf_counter() - started
            raise InterruptedRun
    loss, reconstruction, kl = (state.sums / len(dataset.train)).tolist()  # waits for the device
    state.seconds = time.perf_counter() - started
    last = plan.at((state.epoch + 1) * plan.steps_per_epoch - 1)
    row = {
        "epoch": state.epoch + 1,
        "train_loss": loss,
        "reconstruction": reconstruction,
        "kl": kl,
        "beta": float(last.beta),
        "lr": last.lr,
        "seconds": state.seconds,
    }
    return row if last.capacity is None else {**row, "capacity": float(last.capacity)}


def _batches_left(state: State, plan: Plan, dataset: Dataset, pixels: Tensor | None) -> Iterator[Tensor]:
    """The batches of the steps that are left of an epoch, on the device."""
    batch_size = plan.config.batch_size
    order = torch.randperm(len(dataset.train), generator=state.order)[state.step * batch_size :]
    for batch in shuffled(dataset.train, pixels, order, batch_size):
        yield batch.to(state.sums.device)


def _rates(state: State, plan: Plan) -> Rates:
    """The rates of the next step."""
    return plan.at(state.epoch * plan.steps_per_epoch + state.step)


def _set_learning_rate(optimizer: torch.optim.Adam, rate: float) -> None:
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], Tensor):  # which a captured graph reads
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


@torch.inference_mode()
def evaluate(
    model: VAE,
    images: Images,
    dataset: Dataset,
    objective: Objective | None = None,
    beta: float = 1.0,
    capacity: float | None = None,
) -> Metrics:
    """The negative bound of `images` with beta 1, the terms of the ELBO and what is minimised, in nats per image.

    Args:
        model: on its device.
        images: a part of `dataset`.
        dataset: says how pixels become numbers.
        objective: the bound and its number of latents per image; None is the ELBO with one.
        beta, capacity: with `objective`, what is minimised after the warm-up; the bound itself has none of them.

    Returns:
        Those, and the number of active latents.
    """
    objective = objective or Objective()
    bound = replace(objective, free_bits=0.0)
    weighed = beta != 1.0 or capacity is not None or objective != bound
    device = next(model.parameters()).device
    noise = torch.Generator(device).manual_seed(EVALUATION_SEED + 1)  # not that of the pixels
    model.eval()
    sums = torch.zeros(TERMS + 1, dtype=torch.float64, device=device)  # and what is minimised
    means = []
    for x in ordered(images, dataset, device, bound.samples):
        epsilon = torch.randn(bound.samples, len(x), model.latent_dim, generator=noise, device=device)
        drawn = objective.draw(model, x, epsilon)
        terms = bound.weigh(drawn)
        minimised = objective.weigh(drawn, beta, capacity).loss if weighed else terms.loss
        sums += torch.stack((*terms, minimised))
        means.append(drawn.mu)
    loss, reconstruction, kl, minimised_mean = (sums / len(images)).tolist()
    row = {
        "test_loss": loss,
        "test_reconstruction": reconstruction,
        "test_kl": kl,
        "test_objective": minimised_mean,
        "active_units": active_units(torch.cat(means)),
    }
    return {**row, "sigma": model.likelihood.sigma} if isinstance(model.likelihood, Gaussian) else row


def plan_of(config: Config, dataset: Dataset) -> Plan:
    """The schedules over the steps that these data make.

    Raises:
        ConfigError: a warm-up that does not end before the run, or cycles that are too short.
    """
    plan = Plan(config, math.ceil(len(dataset.train) / config.batch_size))
    plan.check()
    return plan


def objective_of(config: Config) -> Objective:
    """What the settings say is minimised."""
    return Objective(
        bound=config.objective,
        samples=config.importance_samples,
        autoencoder=config.autoencoder,
        free_bits=config.free_bits,
        gamma=config.gamma,
    )


def early_stop(plan: Plan, rows: list[Metrics]) -> str | None:
    """Why a run should stop now, or None. The epochs of the warm-up do not count: their loss is another one."""
    if not plan.config.patience or len(rows) <= plan.warmup / plan.steps_per_epoch:
        return None
    best, last = plan.best(rows), rows[-1]
    if last["epoch"] - best["epoch"] < plan.config.patience:
        return None
    return (
        f"stopped after epoch {last['epoch']:g}: what is minimised did not fall below "
        f"{best['test_objective']:.2f} nats on the test images, that of epoch {best['epoch']:g}, for "
        f"{plan.config.patience} epochs"
    )


def choose_device(requested: str) -> torch.device:
    """The torch device for "auto", "cpu" or "cuda".

    Raises:
        RunError: "cuda" without a usable GPU.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: PyTorch finds no usable GPU here")
    return torch.device("cuda" if requested != "cpu" and torch.cuda.is_available() else "cpu")


def _state(plan: Plan, dataset: Dataset, run: Run, device: torch.device, *, leads: bool) -> State:
    """The first state, or the run's, if it has one."""
    kept = (run.path / STATE).exists()
    state = initial_state(plan.config, run, dataset, device, weights=not kept)
    if kept:
        checkpoint.restore(state, run, plan, leads=leads)
    return state


def _resident(images: Images, device: torch.device) -> Tensor | None:
    """The pixels on the device, as they came, uint8 mostly; None if they stay in their file or do not fit."""
    if not images.resident:
        return None
    if device.type == "cuda" and images.pixels.nbytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    # Not copied on the CPU, unless nobody may write to it (of which PyTorch warns); nothing here does.
    return torch.from_numpy(np.require(images.pixels, requirements=["C", "W"])).to(device)


def _diverged(bad: list[str], step: Step, plan: Plan, run: Run, pixels: Tensor | None) -> DivergedError:
    """To raise before anything is saved: NaN weights must not replace good ones, nor NaN be the best for ever."""
    epoch, device = step.state.epoch + 1, step.state.sums.device
    good = _state(plan, step.dataset, run, device, leads=False)
    first = _first_bad(replace(step, state=good), plan, pixels)
    return DivergedError(
        f"epoch {epoch} is not finite: {', '.join(bad[:NAMED])}; first {first}; what was saved before it stays; "
        "try a lower --lr"
    )


def _first_bad(step: Step, plan: Plan, pixels: Tensor | None) -> str:
    """The step and the name of the first tensor of the epoch that is not finite."""
    state = step.state
    state.model.train()
    for batch in _batches_left(state, plan, step.dataset, pixels):
        rates = _rates(state, plan)
        _set_learning_rate(state.optimizer, rates.lr)
        state.step += 1
        if name := divergence.first_bad(step, batch, rates):
            return f"{name}, at step {state.step}"
    with divergence.watched(state.model) as bad:
        evaluate(state.model, step.dataset.test, step.dataset, step.objective)
    return f"{bad[0]}, on test images" if bad else "nothing when the epoch was taken again: look at the hardware"
