"""The comparison of the graphs with PyTorch, before anything is written.

Truth is the PyTorch module in double precision. ONNX Runtime, and PyTorch in single precision as a yardstick, are held
to it at several batch sizes, on real and on random inputs. Logits are compared, not only the probabilities they
saturate to. Each check is a row of parity.json.
"""

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import ParityError
from export.graphs import Role
from vaeport.graphs import Graph

BATCHES = (1, 2, 3, 7, 64)
SEED = 0

# An output may be off by LIMIT times the largest absolute value of that output over the inputs of the check, or by
# LIMIT itself if that is larger. float32 has 6e-8 per operation, and sums over 784 terms cost some of it: on trained
# models the worst ratio seen is about 1e-6. A wrong graph (transposed weight, lost activation) is off by 1e-2 or more.
LIMIT = 1e-5

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Check:
    """One output of one graph on one input at one batch size. `index` is where the error is worst."""

    graph: str
    output: str
    runtime: str
    input: str
    batch: int
    worst_error: float
    index: tuple[int, ...]
    got: float
    expected: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; NaN never is."""
        return self.worst_error <= self.limit

    def __str__(self) -> str:
        return (
            f"{self.graph}.{self.output}, {self.runtime}, {self.input} input, batch {self.batch}, "
            f"index {list(self.index)}: expected {self.expected!r}, got {self.got!r}, "
            f"error {self.worst_error:.3g}, limit {self.limit:.3g}"
        )


def compare(role: Role, graph: Graph, inputs: dict[str, Rows]) -> list[Check]:
    """All checks of one graph.

    Args:
        role: the PyTorch side.
        graph: the exported graph in ONNX Runtime.
        inputs: by name, each float32 [rows, ...].
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the figures, which go into the package, do not depend on the number of cores
    try:
        return list(_compare(role, graph, inputs))
    finally:
        torch.set_num_threads(threads)


def _compare(role: Role, graph: Graph, inputs: dict[str, Rows]) -> Iterator[Check]:
    truth = copy.deepcopy(role.module).double()
    for name, rows in inputs.items():
        for batch in BATCHES:
            taken = np.resize(rows, (batch, *rows.shape[1:]))  # repeats the rows if there are too few
            expected = _run_torch(truth, taken.astype(np.float64))
            for runtime, found in (("onnxruntime", graph(taken)), ("torch float32", _run_torch(role.module, taken))):
                yield from _checks(role, runtime, name, found, expected)


def inputs_for(role: Role, real: Rows) -> dict[str, Rows]:
    """Real inputs and random ones.

    Args:
        role: the graph.
        real: for the encoder, held-out images; for the decoder, their posterior means.
    """
    random = np.random.default_rng(SEED)
    shape = (max(BATCHES), *role.input_shape)
    noise = random.random(shape, np.float32) if role.name == "encoder" else random.standard_normal(shape, np.float32)
    return {"real": real, "random": noise}


def require(checks: list[Check]) -> None:
    """Raise ParityError, with every check that failed, if one did."""
    if failed := [str(check) for check in checks if not check.passed]:
        raise ParityError("\n".join([f"{len(failed)} of {len(checks)} checks failed; nothing is written", *failed]))


def to_json(checks: list[Check]) -> dict[str, Any]:
    """parity.json: the rule and every row."""
    return {"limit": LIMIT, "checks": [{**asdict(check), "passed": check.passed} for check in checks]}


def summary(checks: list[Check]) -> dict[str, Any]:
    """For the manifest and the card: the worst check, as a share of its limit."""
    worst = max(checks, key=lambda check: check.worst_error / check.limit)
    return {"checks": len(checks), "worst": str(worst), "worst_share_of_limit": worst.worst_error / worst.limit}


def _run_torch(module: torch.nn.Module, rows: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    with torch.inference_mode():
        return tuple(output.numpy() for output in module(torch.from_numpy(rows)))


def _checks(
    role: Role, runtime: str, name: str, found: tuple[NDArray[Any], ...], expected: tuple[NDArray[Any], ...]
) -> Iterator[Check]:
    for output, got, truth in zip(role.output_names, found, expected, strict=True):
        if got.shape != truth.shape:
            raise ParityError(f"{role.name}.{output}, {runtime}: expected shape {truth.shape}, got {got.shape}")
        error = np.abs(got.astype(np.float64) - truth)
        index = np.unravel_index(np.argmax(error), error.shape)  # of NaN, if there is one
        yield Check(
            graph=role.name,
            output=output,
            runtime=runtime,
            input=name,
            batch=len(truth),
            worst_error=float(error[index]),
            index=tuple(int(i) for i in index),
            got=float(got[index]),
            expected=float(truth[index]),
            limit=LIMIT * max(1.0, float(np.abs(truth).max())),
        )
