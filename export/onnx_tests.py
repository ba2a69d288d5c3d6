"""`python -m export onnx-tests`: the golden vectors as test cases in the layout of ONNX's own backend tests.

    DIR/test_<name>_<graph>/model.onnx
                            data.json                    how far an output may be off: {"atol": ..., "rtol": ...}
                            test_data_set_0/input_0.pb   a TensorProto
                            test_data_set_0/output_0.pb, output_1.pb   the float64 truth, rounded once

`onnx.backend.test.loader.load_model_tests(data_dir, kind)` reads DIR when it is `data_dir/kind`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from onnx import numpy_helper

from export.package import place, refuse_existing, staging, write_json
from vaeport.golden import Golden, read_golden
from vaeport.graphs import read_graph
from vaeport.manifest import GraphSpec
from vaeport.package import open_package


@dataclass(frozen=True, slots=True)
class Options:
    """Write the golden vectors of a package as ONNX test cases, a folder for each graph, and print the folders."""

    package: Annotated[Path, tyro.conf.Positional]
    """The package, MODELS/<name>/<version>."""

    to: Path
    """The folder of the test cases; it is made."""


def onnx_tests_command(arguments: list[str]) -> None:
    """Parse, write and print; see `write_onnx_tests` for the errors."""
    options = tyro.cli(Options, prog="python -m export onnx-tests", args=arguments)
    for folder in write_onnx_tests(options.package, options.to):
        print(folder)


def write_onnx_tests(path: Path, to: Path) -> list[Path]:
    """Write a test case for each graph of a package.

    Returns:
        The folders.

    Raises:
        PackageError: the package breaks a rule of the format.
        SelfTestError: it has no golden vectors.
        ExportError: a folder is there already.
    """
    package = open_package(path)
    golden = read_golden(package)
    folders = {name: to / f"test_{package.manifest.name}_{name}" for name in sorted(golden)}
    refuse_existing(*folders.values())
    with staging(to) as staged:
        for name, folder in folders.items():
            draft = staged / folder.name
            (draft / "test_data_set_0").mkdir(parents=True)
            (draft / "model.onnx").write_bytes(read_graph(package, name))
            _write_data(draft, package.manifest.graphs[name], golden[name])
            place(draft, folder)
    return list(folders.values())


def _write_data(folder: Path, spec: GraphSpec, golden: Golden) -> None:
    data = folder / "test_data_set_0"
    rows = numpy_helper.from_array(golden.rows, spec.inputs[0].name)
    (data / "input_0.pb").write_bytes(rows.SerializeToString(deterministic=True))
    for index, output in enumerate(spec.outputs):
        truth = golden.truth[output.name].astype(output.dtype)
        tensor = numpy_helper.from_array(truth, output.name)
        (data / f"output_{index}.pb").write_bytes(tensor.SerializeToString(deterministic=True))
    # The format has one tolerance for all elements: the widest limit of the proof, and the rounding of the truth.
    atol = max(float(limit.max()) for limit in golden.limits.values())
    rtol = max((float(np.finfo(output.dtype).eps) for output in spec.outputs if output.dtype != "uint8"), default=0.0)
    write_json(folder / "data.json", {"atol": atol, "rtol": rtol})
