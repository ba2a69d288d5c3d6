"""ONNX's own loader and runner find test cases in what we write, and ONNX Runtime and the reference pass them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

from export.errors import ExportError
from export.onnx_tests import write_onnx_tests
from vaeport.golden import read_golden
from vaeport.package import open_package


@pytest.fixture(scope="module")
def cases(two_models: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TestCase]:
    """Those of a grey and a colour model, as onnx loads them."""
    data = tmp_path_factory.mktemp("onnx-tests")
    for name in ("digits", "colour"):
        write_onnx_tests(two_models / name / "1", data / "vaeport")
    return sorted(load_model_tests(str(data), "vaeport"), key=lambda case: case.name)


def tensors(case: TestCase, kind: str) -> list[NDArray[Any]]:
    """The inputs or outputs of the only data set of a case."""
    assert case.model_dir is not None
    files = sorted((Path(case.model_dir) / "test_data_set_0").glob(f"{kind}_*.pb"))
    return [numpy_helper.to_array(onnx.load_tensor(str(file))) for file in files]


def check(case: TestCase, outputs: Any) -> None:
    Runner.assert_similar_outputs(tensors(case, "output"), outputs, case.rtol, case.atol)


def test_onnx_finds_a_case_for_each_graph(cases: list[TestCase]) -> None:
    names = [case.name for case in cases]
    graphs = ["decoder", "decoder.uint8", "encoder", "encoder.uint8"]
    assert names == [f"test_{model}_{graph}" for model in ("colour", "digits") for graph in graphs]
    assert all(case.atol < 1e-3 or (case.name.endswith("decoder.uint8") and case.atol <= 1) for case in cases)


def test_onnx_runtime_passes_within_the_tolerance_of_the_case(cases: list[TestCase]) -> None:
    for case in cases:
        session = onnxruntime.InferenceSession(f"{case.model_dir}/model.onnx", providers=["CPUExecutionProvider"])
        (name,) = [value.name for value in session.get_inputs()]
        check(case, session.run(None, {name: tensors(case, "input")[0]}))


def test_the_reference_evaluator_passes_and_a_wrong_output_does_not(cases: list[TestCase]) -> None:
    for case in cases:
        evaluator = ReferenceEvaluator(f"{case.model_dir}/model.onnx")
        outputs: Any = evaluator.run(None, {evaluator.input_names[0]: tensors(case, "input")[0]})
        check(case, outputs)
        step = 3 * case.atol if outputs[-1].dtype == np.float32 else 2 + case.atol
        outputs[-1] = outputs[-1] + outputs[-1].dtype.type(step)
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check(case, outputs)


def test_the_data_are_the_golden_vectors(package: Path, tmp_path: Path) -> None:
    write_onnx_tests(package, tmp_path / "cases")
    for role, golden in read_golden(open_package(package)).items():
        data = tmp_path / "cases" / f"test_digits_{role}" / "test_data_set_0"
        loaded = onnx.load_tensor(str(data / "input_0.pb"))
        graph = open_package(package).manifest.graphs[role]
        assert loaded.name == graph.inputs[0].name
        np.testing.assert_array_equal(numpy_helper.to_array(loaded), golden.rows)
        for index, output in enumerate(graph.outputs):
            truth = numpy_helper.to_array(onnx.load_tensor(str(data / f"output_{index}.pb")))
            np.testing.assert_array_equal(truth, golden.truth[output.name].astype(output.dtype), strict=True)


def test_cases_that_are_there_are_left_alone(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "digits" / "1"))
    write_onnx_tests(copy, tmp_path / "cases")
    with pytest.raises(ExportError, match="test_digits_decoder: is there already"):
        write_onnx_tests(copy, tmp_path / "cases")
    assert {path.name for path in (tmp_path / "cases").iterdir()} == {
        f"test_digits_{name}" for name in open_package(package).manifest.graphs
    }
