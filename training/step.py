"""One step of the optimiser, from pixels as they came; on CUDA, replayed as one captured graph."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.batches import prepared
from training.checkpoint import State
from training.data import Dataset
from training.objective import Objective, Terms
from training.processes import Processes
from training.schedules import Rates

EAGER_STEPS = 3  # before a capture: libraries choose their algorithms and Adam makes its moments in them


@dataclass(frozen=True, slots=True)
class Step:
    """A step on a batch.

    Attributes:
        state: the model and all that changes with it; its sums grow by the terms of the batch.
        objective: what is minimised.
        dataset: says how pixels become numbers.
        precision: "bf16" runs the networks under autocast; what is summed over pixels stays float32.
        processes: those that share the batch.
    """

    state: State
    objective: Objective
    dataset: Dataset
    precision: str
    processes: Processes

    def __call__(self, pixels: Tensor, rates: Rates) -> None:
        """Take the step on [batch, C, H, W] as they came. The learning rate is the optimiser's."""
        self.state.optimizer.zero_grad(set_to_none=True)
        terms = self.differentiate(pixels, rates)
        self.state.optimizer.step()
        self.state.sums += self.processes.sum(torch.stack(terms).detach())

    def differentiate(self, pixels: Tensor, rates: Rates) -> Terms:
        """The terms, summed over this process's share of the batch, and the gradients, over all of it."""
        state, device = self.state, pixels.device
        x = self.processes.share(prepared(pixels, self.dataset, state.noise))
        shape = (self.objective.samples, len(pixels), state.model.latent_dim)
        epsilon = self.processes.share(torch.randn(shape, generator=state.noise, device=device), axis=1)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            terms = self.objective(state.model, x, epsilon, rates.beta, rates.capacity)
        (terms.loss / len(pixels)).backward()  # type: ignore[no-untyped-call]
        self.processes.sum_gradients(state.model)
        return terms


class CapturedStep:
    """`Step` as one CUDA graph for full batches: one launch a step instead of a hundred.

    The first full batches are real steps, taken eagerly on a side stream; then the graph is captured, which computes
    nothing, and replayed from then on. Batches of another size are taken eagerly.
    """

    def __init__(self, step: Step, batch_size: int) -> None:
        self._step = step
        self._batch_size = batch_size
        self._eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: dict[str, Tensor] = {}  # that the graph reads

    def __call__(self, pixels: Tensor, rates: Rates) -> None:
        """Take the step, as `Step` does."""
        if len(pixels) != self._batch_size:
            self._step(pixels, rates)
        elif self._eager < EAGER_STEPS:
            self._take_aside(pixels, rates)
        else:
            if self._graph is None:
                self._graph = self._captured(pixels, rates)
            self._inputs["pixels"].copy_(pixels)
            for name in self._inputs.keys() - {"pixels"}:
                self._inputs[name].fill_(getattr(rates, name))
            self._graph.replay()

    def _take_aside(self, pixels: Tensor, rates: Rates) -> None:
        self._eager += 1
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(pixels, rates)
        torch.cuda.current_stream().wait_stream(stream)

    def _captured(self, pixels: Tensor, rates: Rates) -> torch.cuda.CUDAGraph:
        numbers = {name: value for name in ("beta", "capacity") if (value := getattr(rates, name)) is not None}
        tensors = {name: torch.tensor(value, device=pixels.device) for name, value in numbers.items()}
        self._inputs = {"pixels": pixels.clone(), **tensors}
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._step.state.noise)
        self._step.state.optimizer.zero_grad(set_to_none=True)  # gradients then live in the graph's own memory
        with torch.cuda.graph(graph):
            self._step(self._inputs["pixels"], Rates(rates.lr, tensors["beta"], tensors.get("capacity")))
        return graph
