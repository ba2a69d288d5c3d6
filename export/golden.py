"""The golden vectors of a package: synthetic rows, their truth and their limits, for whoever loads it to replay."""

import math
from collections.abc import Sequence
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


def golden_vectors(subjects: Sequence[Subject]) -> bytes:
    """The content of golden.safetensors. Nothing in it comes from the data: a package may be given to strangers."""
    tensors: dict[str, AnyRows | Doubles] = {}
    for subject in subjects:
        rows = subject.entering(_rows(subject))
        judgement = DoubleGraph(subject.proto).judge(rows)
        name, truth, limits = tensor_names(subject.name, subject.spec)
        tensors[name] = rows
        tensors |= dict(zip(truth.values(), judgement.truth, strict=True))
        tensors |= dict(zip(limits.values(), judgement.limits, strict=True))
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def _rows(subject: Subject) -> Rows:
    """Random rows first, then corners, as many as fit."""
    shape = subject.row_shape
    if subject.role == "encoder":
        random, corners = random_images(shape), corner_images(shape)
    else:
        random, corners = random_latents(shape), corner_latents(shape)
    rows = np.stack([row for pair in zip(random[: ROWS // 2], corners[: ROWS // 2], strict=False) for row in pair])
    largest = max(math.prod(int(axis) for axis in tensor.shape[1:]) for tensor in subject.spec.outputs)
    fitting = MAX_ELEMENTS // max(largest, math.prod(shape))
    return np.ascontiguousarray(rows[: max(1, min(ROWS, fitting))])
