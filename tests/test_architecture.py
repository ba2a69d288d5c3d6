"""The folders are the architecture: imports point one way, and what must stay out stays out."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT: dict[str, set[str]] = {
    "training": set(),
    "export": {"training", "vaeport"},
    "serving": {"vaeport"},
    "vaeport": set(),
    "release": {"vaeport"},
    "examples": {"training", "export", "serving", "vaeport"},
    "benchmarks": {"training", "export", "serving", "vaeport"},
    "tests": {"training", "export", "serving", "vaeport", "release", "examples", "benchmarks"},
}


def imported_names(file: Path) -> set[str]:
    """All modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import hides its direction"
            names.add(node.module or "")
    return names


def sources(*folders: str) -> list[Path]:
    found = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


@pytest.mark.parametrize("home", MAY_IMPORT)
def test_imports_point_one_way(home: str) -> None:
    for file in sources(home):
        tops = {name.split(".")[0] for name in imported_names(file)}
        wrong = tops & MAY_IMPORT.keys() - MAY_IMPORT[home] - {home}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_batching_engine_and_security_know_no_grpc() -> None:
    for file in sources("serving/batching", "serving/engine", "serving/security"):
        assert not {name for name in imported_names(file) if name.split(".")[0] == "grpc"}, file


def test_batching_knows_no_onnx_runtime() -> None:
    for file in sources("serving/batching"):
        assert not imported_names(file) & {"onnxruntime", "vaeport.graphs", "vaeport.model"}, file


def modules_after(statement: str) -> set[str]:
    """The top-level modules that are loaded once a fresh interpreter has run `statement`."""
    code = f"{statement}\nimport sys; print(*sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name.split(".")[0] for name in output.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import vaeport, vaeport.testing; vaeport.load; import vaeport.cli, vaeport.pictures, vaeport.preparation",
        "import serving.__main__, serving.commands, serving.settings, serving.worker",
    ],
)
def test_torch_is_never_imported(statement: str) -> None:
    assert not modules_after(statement) & {"torch", "torchvision", "tensorboard", "sklearn"}


def test_importing_the_library_loads_no_heavy_module() -> None:
    assert not modules_after("import vaeport") & {"grpc", "google", "onnx", "onnxruntime", "PIL"}


def test_pillow_is_loaded_when_a_picture_is_touched() -> None:
    assert "PIL" not in modules_after("import vaeport; vaeport.Client; vaeport.AsyncClient; vaeport.load")
    example = "import vaeport.testing, numpy; vaeport.testing.FakeClient().encode(numpy.zeros((28, 28)))"
    assert "PIL" not in modules_after(example)


def test_loading_in_process_needs_no_grpc() -> None:
    assert "grpc" not in modules_after("import vaeport; vaeport.load; import vaeport.graphs")


def test_signatures_cost_nothing_until_they_are_asked_for() -> None:
    loaded = modules_after("import vaeport; vaeport.load; import serving.worker, export.sign")
    assert not loaded & {"model_signing", "sigstore", "sigstore_models", "cryptography", "torch"}


def test_the_supervisor_needs_neither_grpc_nor_onnx_runtime() -> None:
    heavy = {"grpc", "numpy", "onnx", "onnxruntime"}
    assert not modules_after("import serving.supervisor, serving.commands, serving.settings") & heavy


def test_batching_knows_nobody_who_observes_it() -> None:
    for file in sources("serving/batching"):
        tops = {name.split(".")[0] for name in imported_names(file)}
        assert not tops & {"prometheus_client", "opentelemetry"}, file


def test_metrics_are_served_without_grpc_onnx_runtime_or_numpy() -> None:
    loaded = modules_after("import serving.metrics.endpoint, serving.metrics.supervisor, serving.http_status")
    assert not loaded & {"grpc", "onnxruntime", "numpy", "opentelemetry"}
