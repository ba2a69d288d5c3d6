"""Encode and sample by batch size in the memory that serves, beside what the device could do at most.

    python -m benchmarks.serving.device --models models --device cuda     a folder with one fully connected model

A batch goes the way that the engine's thread takes it: from an array, across to the device, through the graph, and back
into arrays. At most, by PyTorch in the same run, the device multiplies large matrices at some rate, in float32 without
TF32, and rows cross to it and back at some other rate. The limit of a batch is the slower of the two; the rest of its
time goes into launches, memory on the device, and Python. `sample` draws its latents first, as a request has it done.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import onnx
import torch

from benchmarks.machine import describe_machine
from benchmarks.serving.reference import reference_models
from serving.engine import BoundGraph, ByDtype, Engine, bucket_sizes
from serving.models import LoadedModel, load_models
from serving.repository import default_packages
from vaeport.arrays import to_float
from vaeport.graphs import CudaOptions, Device, choose_device
from vaeport.prior import Draw

ROUNDS = 7
ROUND_SECONDS = 0.2
SIZES = (1, 8, 32, 128, 512, 1024, 4096)
SIDE = {"cuda": 8192, "cpu": 2048}  # of the matrices
CROSSING_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a device.

    Attributes:
        products: floating-point operations a second, in float32.
        inwards, outwards: bytes a second from arrays to the device, and back.
    """

    products: float
    inwards: float
    outwards: float

    @classmethod
    def of(cls, kind: str) -> "Limits":
        """Measure those of "cuda" or "cpu"."""
        torch.backends.cuda.matmul.allow_tf32 = False
        matrix = torch.rand(SIDE[kind], SIDE[kind], device=kind)
        outside = torch.empty(CROSSING_BYTES, dtype=torch.uint8, pin_memory=kind == "cuda")
        inside = torch.empty(CROSSING_BYTES, dtype=torch.uint8, device=kind)

        def finished(work: Callable[[], object]) -> None:
            work()
            if kind == "cuda":
                torch.cuda.synchronize()

        def rate(amount: float, work: Callable[[], object]) -> float:
            return amount / seconds_of(partial(finished, work))

        return cls(
            rate(2.0 * SIDE[kind] ** 3, lambda: matrix @ matrix),
            rate(CROSSING_BYTES, lambda: inside.copy_(outside, non_blocking=True)),
            rate(CROSSING_BYTES, lambda: outside.copy_(inside, non_blocking=True)),
        )

    def rows_per_second(self, model: LoadedModel, name: str) -> float:
        """What no batch of the graph of that name can exceed."""
        spec = model.package.manifest.graphs[name]
        entering, leaving = (
            sum(prod(map(int, tensor.shape[1:])) * np.dtype(tensor.dtype).itemsize for tensor in tensors)
            for tensors in (spec.inputs, spec.outputs)
        )
        proto = onnx.load(model.package.path / spec.path)
        operations = sum(2 * prod(weight.dims) for weight in proto.graph.initializer if len(weight.dims) == 2)
        return 1.0 / max(operations / self.products, entering / self.inwards + leaving / self.outwards)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="Encode and sample by batch size, beside the limits of the device.")
    parser.add_argument("--models", type=Path, help="without it, a model is trained first")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true")
    options = parser.parse_args()
    print(describe_machine())
    cuda = CudaOptions(tf32=options.tf32, graphs=options.cuda_graphs)
    device = replace(choose_device(options.device), cuda=cuda)
    limits = Limits.of(options.device)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    print(
        f"{name}: {limits.products / 1e12:.2f} TFLOP/s, {limits.inwards / 1e9:.1f} GB/s in, "
        f"{limits.outwards / 1e9:.1f} GB/s out; TF32 {options.tf32}, CUDA graphs {options.cuda_graphs}\n"
    )
    with reference_models(options.models) as models:
        engine = Engine()
        try:
            engine.call(measure, models, device, limits)
        finally:
            engine.close()


def measure(models: Path, device: Device, limits: Limits) -> None:
    """Print where the nodes are, and the table. On the engine's thread: what CUDA captures belongs to it."""
    (model,) = load_models(default_packages(models), device, torch.get_num_threads(), buckets=bucket_sizes(SIZES[-1]))
    encoder, decoder = model.graphs["encoder"], model.graphs["decoder"]
    assert isinstance(encoder, ByDtype)
    assert isinstance(decoder, BoundGraph)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZES[-1], *model.package.manifest.model.image_shape), np.uint8)
    floats = to_float(pixels)
    latent_dim = model.package.manifest.model.latent_dim
    works: dict[str, tuple[str, BoundGraph, Callable[[int], object]]] = {
        "encode, float32": ("encoder", encoder.floats, lambda rows: encoder.floats(floats[:rows])),
        "encode, uint8": ("encoder.uint8", encoder.uint8, lambda rows: encoder.uint8(pixels[:rows])),
        "sample": ("decoder", decoder, lambda rows: decoder(Draw.of(rows, 7, 0).latents(latent_dim))),
    }
    for name, graph, _ in works.values():
        print(f"{name}: {graph.placement}")
    print("\n| what | rows | us a batch | rows/s | of the limit |\n|---|---|---|---|---|")
    for what, (name, _, work) in works.items():
        limit = limits.rows_per_second(model, name)
        for rows in SIZES:
            seconds = seconds_of(partial(work, rows))
            print(f"| {what} | {rows} | {1e6 * seconds:.0f} | {rows / seconds:,.0f} | {rows / seconds / limit:.2f} |")


def seconds_of(work: Callable[[], object]) -> float:
    """One call of `work`: the median of some rounds, after one that is not counted."""
    rounds = []
    for _ in range(ROUNDS + 1):
        count, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < ROUND_SECONDS:
            work()
            count += 1
        rounds.append(elapsed / count)
    return statistics.median(rounds[1:])


if __name__ == "__main__":
    main()
