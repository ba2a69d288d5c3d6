"""The golden vectors of a package: rows, their truth and their limits, for every reader to replay."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from export.inputs import AnyRows, Rows, corner_images, corner_latents, random_images, random_latents
from export.ladder import Subject
from export.truth import DoubleGraph
from vaeport.golden import tensor_names

if TYPE_CHECKING:
    from export.limits import Doubles

ROWS = 8  # of each graph, half of them corners
MAX_ELEMENTS = 1 << 20  # of all rows of an input or output; large images have fewer rows, at least one


def golden_vectors(subjects: Sequence[Subject], real: Mapping[str, Rows] | None = None) -> bytes:
    """The content of golden.safetensors.

    Args:
        subjects: the graphs.
        real: rows of the data by role, to take instead of synthetic ones. Not unless asked for: a package may be given
            to strangers.
    """
    tensors: dict[str, AnyRows | Doubles] = {}
    for subject in subjects:
        rows = subject.entering(_fitting(subject, real[subject.role] if real else _synthetic(subject)))
        judgement = DoubleGraph(subject.proto).judge(rows)
        name, truth, limits = tensor_names(subject.name, subject.spec)
        tensors[name] = rows
        tensors |= dict(zip(truth.values(), judgement.truth, strict=True))
        tensors |= dict(zip(limits.values(), judgement.limits, strict=True))
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def _synthetic(subject: Subject) -> Rows:
    """Random rows, with corners between them."""
    shape = subject.row_shape
    if subject.role == "encoder":
        random, corners = random_images(shape), corner_images(shape)
    else:
        random, corners = random_latents(shape), corner_latents(shape)
    return np.stack([row for pair in zip(random[: ROWS // 2], corners[: ROWS // 2], strict=False) for row in pair])


def _fitting(subject: Subject, rows: Rows) -> Rows:
    """The first of them, as many as fit."""
    largest = max(math.prod(int(axis) for axis in tensor.shape[1:]) for tensor in subject.spec.outputs)
    fitting = MAX_ELEMENTS // max(largest, math.prod(subject.row_shape))
    return np.ascontiguousarray(rows[: max(1, min(ROWS, fitting))])
