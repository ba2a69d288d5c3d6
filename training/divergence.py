"""Which tensor was the first that is not finite: the epoch is taken again from its last good state, looking at all."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.schedules import Rates
from training.step import Step


@contextmanager
def watched(model: nn.Module) -> Iterator[list[str]]:
    """The outputs that are not finite while the context lasts, in the order they appear, by the module's name."""
    bad: list[str] = []

    def look(name: str, output: object) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        if not all(_finite(tensor) for tensor in tensors if isinstance(tensor, Tensor)):
            bad.append(f"the output of {name}")

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
        for name, module in model.named_modules()
        if name and not list(module.children())
    ]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()


def first_bad(step: Step, pixels: Tensor, rates: Rates) -> str | None:
    """Take the step, and name the first tensor that is not finite: an output, a term, a gradient, a weight."""
    model = step.state.model
    with watched(model) as bad:
        terms = step.differentiate(pixels, rates)
    bad += [f"the term {name!r}" for name, value in terms._asdict().items() if not _finite(value)]
    bad += [f"the gradient of {n}" for n, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    step.state.optimizer.step()
    step.state.optimizer.zero_grad(set_to_none=True)
    bad += [name for name, parameter in model.named_parameters() if not _finite(parameter)]
    return bad[0] if bad else None


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
