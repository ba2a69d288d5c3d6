"""Several processes that train one model, as `torchrun` starts them.

Each takes its share of the rows of every batch, and of the noise that one process would have drawn for the whole batch,
so that the result does not depend on their number but for rounding.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from training.config import Config, ConfigError, flag

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes the files and talks to the user."""
        return self.rank == 0

    def share(self, rows: Tensor, axis: int = 0) -> Tensor:
        """Every count-th row along `axis`, from rank on."""
        if self.count == 1:
            return rows
        index = torch.arange(self.rank, rows.shape[axis], self.count, device=rows.device)
        return rows.index_select(axis, index)

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace each gradient by its sum over all processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, summed in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """`values`, in place, summed over all processes."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def any(self, asked: bool) -> bool:
        """Whether any process has `asked`; all must call this, and it waits for the device."""
        if self.count == 1:
            return asked
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        return bool(self.sum(torch.tensor(float(asked), device=device)) > 0)

    def agreed(self, value: T) -> T:
        """The leading process's `value`."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.count > 1:
            distributed.barrier()

    def check(self, config: Config) -> None:
        """Raise ConfigError for an objective that is not a sum over the rows of a batch."""
        whole = {
            "free_bits": config.free_bits > 0,
            "capacity": config.capacity is not None,
            "variance": config.analytic,
        }
        for name, used in whole.items():
            if used and self.count > 1:
                raise ConfigError(f"{flag(name)} needs the whole batch in one process: it cannot be used with several")


ALONE = Processes()
PATIENCE = timedelta(hours=3)  # others wait while the leading process downloads, or writes the report


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun has started beside this one.

    Args:
        device: "cuda" communicates by NCCL, each process on the GPU of its local rank; anything else by gloo.
    """
    if device == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        distributed.init_process_group("nccl", timeout=PATIENCE, device_id=own)
    else:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    yield Processes(distributed.get_rank(), distributed.get_world_size())
    # Not after an error: NCCL waits here for the captured graphs that use it, and a traceback would keep those.
    distributed.destroy_process_group()
