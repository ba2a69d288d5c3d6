"""`python -m export triton`: a package as two models in a repository of NVIDIA Triton.

    REPO/<name>_encoder/config.pbtxt
    REPO/<name>_encoder/<version>/model.onnx     and the same for <name>_decoder

Fields: https://github.com/triton-inference-server/common, protobuf/model_config.proto; what its ONNX Runtime takes:
https://github.com/triton-inference-server/onnxruntime_backend.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from export.errors import ExportError
from export.package import place, refuse_existing, staging
from vaeport.graphs import read_graph
from vaeport.manifest import GraphSpec, TensorSpec
from vaeport.package import ROLES, Package, open_package

DATA_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
MAX_BATCH_ROWS = 2**31 - 1  # max_batch_size is an int32
PREFERRED_ROWS = (8, 32, 128)  # and the maximum
KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}


@dataclass(frozen=True, slots=True)
class Options:
    """Write a package into a model repository of NVIDIA Triton, as <name>_encoder and <name>_decoder, and print the
    folders of the two versions."""

    package: Annotated[Path, tyro.conf.Positional]
    """The package, MODELS/<name>/<version>."""

    to: Path
    """The model repository; it is made. Other models and versions in it stay as they are."""

    max_batch_rows: int = 256
    """Rows that Triton computes at a time, at most."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where Triton computes; auto is on its GPUs where it has some."""


def triton_command(arguments: list[str]) -> None:
    """Parse, write and print; see `write_triton` for the errors."""
    options = tyro.cli(Options, prog="python -m export triton", args=arguments)
    for folder in write_triton(options.package, options.to, max_rows=options.max_batch_rows, device=options.device):
        print(folder)


def write_triton(path: Path, repository: Path, *, max_rows: int = 256, device: str = "auto") -> list[Path]:
    """Write the encoder and the decoder of a package into a model repository.

    Args:
        path: the package.
        repository: the folder that Triton's --model-repository names.
        max_rows: of a batch.
        device: a key of KINDS.

    Returns:
        The folders of the two versions.

    Raises:
        PackageError: the package breaks a rule of the format.
        ExportError: a version is there already, or beside versions of a model with another configuration.
    """
    if not 1 <= max_rows <= MAX_BATCH_ROWS:
        raise ExportError(f"--max-batch-rows: expected 1 to {MAX_BATCH_ROWS}, got {max_rows}")
    package = open_package(path)
    name, version, graphs = package.manifest.name, str(package.manifest.version), package.manifest.graphs
    models = {role: repository / f"{name}_{role}" for role in ROLES}
    configs = {role: config(model.name, graphs[role], max_rows, device) for role, model in models.items()}
    targets = [model / version for model in models.values()]
    refuse_existing(*targets)
    for role, model in models.items():
        _check_config(model / "config.pbtxt", configs[role])
    for role, model in models.items():
        _write_model(package, role, model, configs[role])
    return targets


def config(name: str, spec: GraphSpec, max_rows: int, device: str) -> str:
    """The content of a config.pbtxt: a ModelConfig in protobuf's text format."""
    preferred = [*(rows for rows in PREFERRED_ROWS if rows < max_rows), max_rows]
    return f"""name: "{name}"
platform: "onnxruntime_onnx"
backend: "onnxruntime"
max_batch_size: {max_rows}
input [{", ".join(map(_tensor, spec.inputs))}]
output [{", ".join(map(_tensor, spec.outputs))}]
dynamic_batching {{
  preferred_batch_size: {preferred}
  max_queue_delay_microseconds: 0
}}
instance_group [{{ count: 1 kind: {KINDS[device]} }}]
# One session with the threads of the cores; on CUDA, float32 in full precision, as the proof has it.
parameters {{ key: "intra_op_thread_count" value {{ string_value: "0" }} }}
parameters {{ key: "cudnn_conv_algo_search" value {{ string_value: "1" }} }} # by heuristics: any batch size may come
parameters {{ key: "arena_extend_strategy" value {{ string_value: "1" }} }} # as much memory as was asked for
optimization {{ execution_accelerators {{
  gpu_execution_accelerator [{{ name: "cuda" parameters {{ key: "use_tf32" value: "0" }} }}]
}} }}
"""


def _tensor(spec: TensorSpec) -> str:
    """Without the batch, which Triton adds."""
    return f'{{ name: "{spec.name}" data_type: {DATA_TYPES[spec.dtype]} dims: {list(spec.shape[1:])} }}'


def _check_config(path: Path, expected: str) -> None:
    """All versions of a model share its configuration."""
    if path.exists() and path.read_text() != expected:
        raise ExportError(f"{path}: is there already, and not what this package needs; remove the model first")


def _write_model(package: Package, role: str, model: Path, configuration: str) -> None:
    with staging(model) as staged:  # inside the model: Triton would take any folder beside it for another one
        (staged / "config.pbtxt").write_text(configuration)
        (staged / "config.pbtxt").replace(model / "config.pbtxt")
        (staged / "model.onnx").write_bytes(read_graph(package, role))
        place(staged, model / str(package.manifest.version))
