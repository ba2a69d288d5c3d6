"""The ladder: every rung for one graph, and the end metric for both. docs/proof.md says what each rung is for.

P0  structure                        export.structure; a graph with bytes is its sibling, with export.edges
P1  the graph is the PyTorch module  in float64, where no rounding hides a difference
P2  every runtime on real and random rows, at every batch size
P3  on corners, extremes and searched-for worst rows
P4  a row does not depend on its batch: alone, and in another order
P5  every node computes where it should
P6  the ELBO of an image             export.end_metric
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.edges import with_bytes
from export.inputs import EXTREME, SEED, AnyRows, Rows, batches_of, inputs_for, search, search_rows
from export.limits import FLOAT32, Rounding
from export.parity import Fact, NotRun, Report, compare
from export.runtimes import ONNXRUNTIME_CPU, Runtime
from export.structure import structure
from export.truth import AGREEMENT, DoubleGraph, Judgement, torch_in_double
from vaeport.arrays import to_uint8
from vaeport.manifest import GraphSpec
from vaeport.package import has_bytes, precision_of, role_of

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

BATCHES = (1, 2, 3, 7, 64, 257)
SERVED = tuple(2**power for power in range(10))  # what a server on CUDA pads batches to; kernels depend on the size
SMALLEST = 1e-300  # limit to divide by; that of a byte may be 0
RUNG_OF_INPUT = {"real": "P2", "random": "P2", "corner": "P3", "extreme": "P3", "far": "P3", "worst": "P3"}


@dataclass(frozen=True, slots=True)
class Subject:
    """A graph to prove.

    Attributes:
        name: of the graph in the manifest.
        proto: the exported graph.
        spec: its entry in the manifest.
        module: the same function in PyTorch, the second truth; None where it cannot be had.
        runtimes: what is held to the truth.
        not_run: what cannot be, here.
    """

    name: str
    proto: onnx.ModelProto
    spec: GraphSpec
    module: "torch.nn.Module | None"
    runtimes: Sequence[Runtime]
    not_run: Sequence[NotRun] = field(default=())

    @property
    def role(self) -> str:
        """ "encoder" or "decoder"."""
        return role_of(self.name)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(output.name for output in self.spec.outputs)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row of the input."""
        return tuple(int(axis) for axis in self.spec.inputs[0].shape[1:])

    def entering(self, rows: Rows) -> AnyRows:
        """Rows of pixels in [0, 1] or of latents as the graph takes them."""
        return to_uint8(rows) if self.spec.inputs[0].dtype == "uint8" else rows


def climb(subject: Subject, real: Rows | None, seed: int = SEED) -> Report:
    """P0 to P5. Only the structure is checked of a graph whose structure is wrong.

    Args:
        subject: the graph.
        real: held-out images for the encoder, their posterior means for the decoder; None where there are none.
        seed: of the random rows.
    """
    log.info("proving %s", subject.name)
    report = Report(facts=structure(subject.name, subject.proto, subject.spec), not_run=list(subject.not_run))
    if report.failed:
        return report
    report.facts += placement(subject)
    roundings = {FLOAT32, *(runtime.float32 for runtime in subject.runtimes)}
    graphs = {rounding: DoubleGraph(subject.proto, rounding) for rounding in roundings}
    for name, rows in inputs_for(subject.role, subject.row_shape, real, seed).items():
        report.add(_on_input(subject, name, subject.entering(rows), graphs))
    report.add(_on_input(subject, "worst", worst_rows(subject, graphs[FLOAT32]), graphs))
    return report


def edges(subjects: Mapping[str, Subject]) -> list[Fact]:
    """P0: each graph with bytes is exactly what its sibling with floats becomes, which has climbed; metadata aside."""
    return [
        Fact("P0", name, "onnx", "the graph with floats, with bytes at its edge", "equal", _edge(subject, subjects))
        for name, subject in subjects.items()
        if has_bytes(name)
    ]


def _edge(subject: Subject, subjects: Mapping[str, Subject]) -> str:
    expected, found = onnx.ModelProto(), onnx.ModelProto()
    expected.CopyFrom(with_bytes(subject.role, subjects[subject.name.removesuffix(".uint8")].proto))
    found.CopyFrom(subject.proto)
    for proto in (expected, found):
        proto.ClearField("metadata_props")
    return "equal" if found == expected else "different"


def placement(subject: Subject) -> list[Fact]:
    """P5: ONNX Runtime has recorded which provider got each node; it must be the one that was asked for."""
    facts = []
    for runtime in subject.runtimes:
        if runtime.placement is not None:
            provider, nodes = runtime.placement
            got = ", ".join(sorted(nodes)) or "no record"
            facts.append(Fact("P5", subject.name, runtime.name, "provider of all nodes", provider, got))
    return facts


def worst_rows(subject: Subject, graph: DoubleGraph) -> AnyRows:
    """Rows on which ONNX Runtime on the CPU comes closest to its limits, by a short search."""
    run = next(runtime.run for runtime in subject.runtimes if runtime.name == ONNXRUNTIME_CPU)

    def badness(rows: Rows) -> NDArray[np.float64]:
        entering = subject.entering(rows)
        judgement = graph.judge(entering)
        shares = [
            (np.abs(got - truth) / np.maximum(limit, SMALLEST)).reshape(len(rows), -1).max(1)
            for got, truth, limit in zip(run(entering), judgement.truth, judgement.limits, strict=True)
        ]
        return np.asarray(np.max(shares, axis=0))

    low, high = (0.0, 1.0) if subject.role == "encoder" else (-EXTREME, EXTREME)
    kinds = inputs_for(subject.role, subject.row_shape, None)
    start = np.concatenate([rows for name, rows in kinds.items() if name != "far"])
    tensors = (*subject.spec.inputs, *subject.spec.outputs)
    tried = search_rows(max(math.prod(int(axis) for axis in tensor.shape[1:]) for tensor in tensors))
    return subject.entering(search(np.ascontiguousarray(start), badness, low, high, tried))


def _on_input(subject: Subject, name: str, rows: AnyRows, graphs: Mapping[Rounding, DoubleGraph]) -> Report:
    """P1 to P4 on one kind of input."""
    report = Report()
    judgements = {rounding: graph.judge(rows) for rounding, graph in graphs.items()}
    if subject.module is not None:
        truth = torch_in_double(subject.module, rows)
        report.add(_agreement(subject, name, judgements[FLOAT32], truth))
        judgements = {rounding: Judgement(truth, one.deviation) for rounding, one in judgements.items()}
    if name == "far" and precision_of(subject.name) == "fp16":  # whose numbers end at 65504, rightly
        return report
    for runtime in subject.runtimes:
        judgement = judgements[runtime.float32]
        sizes = {*BATCHES, *(SERVED if name == "random" and runtime.placement is not None else ())}
        for chosen in batches_of(len(rows), sorted(sizes)).values():
            report.add(_one_run(subject, runtime, RUNG_OF_INPUT[name], name, rows[chosen], judgement.take(chosen)))
        report.add(_independence(subject, runtime, name, rows, judgement))
    return report


def _agreement(subject: Subject, name: str, judgement: Judgement, truth: Sequence[NDArray[np.float64]]) -> Report:
    """P1: both truths, relative to the largest absolute value of the output, or to 1."""
    limits = [np.full_like(t, AGREEMENT * max(1.0, float(np.abs(t).max()))) for t in truth]
    where = {"rung": "P1", "graph": subject.name, "runtime": "onnx in float64", "input": name, "batch": len(truth[0])}
    return compare(where, subject.outputs, judgement.truth, truth, limits)


def _one_run(subject: Subject, runtime: Runtime, rung: str, name: str, rows: AnyRows, judgement: Judgement) -> Report:
    """A batch in a runtime; that it cannot compute the batch is a row, too."""
    where = {"rung": rung, "graph": subject.name, "runtime": runtime.name, "input": name, "batch": len(rows)}
    try:
        found = runtime.run(np.ascontiguousarray(rows))
    except Exception as error:  # every runtime has exceptions of its own
        what = f"{name} input, batch {len(rows)}"
        return Report(facts=[Fact(rung, subject.name, runtime.name, what, "computed", f"{error}")])
    return compare(where, subject.outputs, found, judgement.truth, judgement.limits)


def _independence(subject: Subject, runtime: Runtime, name: str, rows: AnyRows, judgement: Judgement) -> Report:
    """P4: each row alone, and all in another order, against the truth of that row, and against the batch."""
    order = np.random.default_rng(SEED).permutation(len(rows))

    def alone(batch: AnyRows) -> tuple[NDArray[Any], ...]:
        outputs = zip(*(runtime.run(batch[i : i + 1]) for i in range(len(batch))), strict=True)
        return tuple(np.concatenate(pieces) for pieces in outputs)

    try:
        together = tuple(np.asarray(output, np.float64) for output in runtime.run(rows))
    except Exception:  # _one_run has reported it
        return Report()
    batch = Judgement(together, judgement.deviation)
    report = _one_run(subject, Runtime(runtime.name, alone), "P4", f"row-by-row {name}", rows, batch)
    report.add(_one_run(subject, runtime, "P4", f"permuted {name}", rows[order], batch.take(order)))
    return report
