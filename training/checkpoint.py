"""What changes while training, and how it is kept: all of it goes into state.safetensors, the other files follow."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.model import VAE
from training.objective import Terms
from training.run import BEST, LAST, STATE, Metrics, Run, check_tensors, read_tensors, write_tensors
from training.schedules import Plan

TERMS = len(Terms._fields)


@dataclass(slots=True)
class State:
    """What changes while training.

    Attributes:
        model, optimizer: as they are after `step` steps of the epoch in progress.
        order: generator of the order of the images.
        noise: generator of latents and binarisation, on the device.
        epoch_order: the state of `order` before the epoch in progress, to draw its order again.
        sums: float64 [3], the terms of the epoch's steps so far, summed over images.
        step: steps taken in the epoch in progress.
        seconds: seconds that these steps took.
        rows: the rows of metrics.jsonl, one per finished epoch.
    """

    model: VAE
    optimizer: torch.optim.Adam
    order: torch.Generator
    noise: torch.Generator
    epoch_order: Tensor
    sums: Tensor
    step: int = 0
    seconds: float = 0.0
    rows: list[Metrics] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.rows)

    def finish_epoch(self, row: Metrics) -> None:
        """Keep the epoch's row, and prepare the next epoch."""
        self.rows.append(row)
        self.step, self.seconds = 0, 0.0
        self.sums.zero_()
        self.epoch_order = self.order.get_state()


def save(state: State, run: Run, plan: Plan) -> None:
    """Write the state and, after a finished epoch, the files that follow from it."""
    header = {"rows": state.rows, "step": state.step, "seconds": state.seconds}
    write_tensors(run.path / STATE, _tensors(state), header)
    if state.step == 0:
        _write_derived(state, run, plan)


def not_finite(state: State) -> list[str]:
    """The tensors of the state that are not finite, by name: weights, the optimiser's moments, sums."""
    return [name for name, tensor in _tensors(state).items() if not torch.isfinite(tensor).all()]


def restore(state: State, run: Run, plan: Plan, *, leads: bool) -> None:
    """Fill a fresh `state` with the run's.

    Args:
        state: the state of a model that has taken no step.
        run: a run with a state file.
        plan: says which epoch is the best.
        leads: whether to catch up with the other files, if the run was killed after the state and before them.

    Raises:
        RunError: the file is damaged, or its tensors are not those of `state`.
    """
    tensors, header = read_tensors(run.path / STATE)
    for parameter in state.model.parameters():  # Adam makes its moments at the first step; make them now, to fill them
        state.optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    current = _tensors(state)
    check_tensors(run.path / STATE, tensors, current)
    state.order.set_state(tensors["generator.order"])
    state.noise.set_state(tensors.pop("generator.noise"))
    state.epoch_order = tensors.pop("generator.order")
    with torch.no_grad():
        for name, tensor in tensors.items():
            current[name].copy_(tensor)
    state.rows, state.step, state.seconds = header["rows"], header["step"], header["seconds"]
    if leads and state.step == 0:
        _write_derived(state, run, plan)


def _tensors(state: State) -> dict[str, Tensor]:
    """Every tensor of the state by name; those of model, optimiser and sums are the live ones, not copies."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    generators = {"generator.order": state.epoch_order, "generator.noise": state.noise.get_state()}
    return tensors | generators | {"sums": state.sums}


def _write_derived(state: State, run: Run, plan: Plan) -> None:
    """The weights of the last epoch, of the best if that is the last, and the metrics."""
    last, best = state.rows[-1], plan.best(state.rows)
    run.save_weights(LAST, state.model, last)
    if best is last:
        run.save_weights(BEST, state.model, last)
    run.write_metrics(state.rows)
    run.describe(best=best, last=last)
