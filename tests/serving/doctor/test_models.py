"""The folder of models as the doctor sees it: what would be served, and whether it would be refused."""

import shutil
from pathlib import Path

import pytest

from export.sign import sign
from serving.doctor.models import WORKER_BYTES, default_model, examine_models, memory_needed
from serving.settings import Settings
from vaeport.findings import Finding


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A copy of the models that a test may harm."""
    shutil.copytree(models, tmp_path / "models")
    return tmp_path / "models"


def about_digits(folder: Path, **settings: object) -> Finding:
    (finding,) = (each for each in examine_models(Settings(folder, **settings)) if each.name == "model digits")  # type: ignore[arg-type]
    return finding


def test_a_model_that_computes_what_was_proven(folder: Path) -> None:
    finding = about_digits(folder)
    assert finding.level == "ok"
    assert finding.text.startswith(
        "version 1 of 1, the newest; not signed, computes what was proven on CPUExecutionProvider, "
    )


def test_no_models_are_a_failure(tmp_path: Path) -> None:
    assert [each.level for each in examine_models(Settings(tmp_path))] == ["fail"]
    assert [each.level for each in examine_models(Settings(tmp_path / "none"))] == ["fail"]


def test_a_damaged_file_is_named(folder: Path) -> None:
    graph = folder / "digits/1/decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    finding = about_digits(folder)
    assert finding.level == "fail"
    assert "decoder.onnx" in finding.text


def test_a_precision_that_it_has_not_is_a_failure(folder: Path) -> None:
    assert "int8" in about_digits(folder, precision="int8").text


def test_the_pinned_version_is_looked_at(folder: Path) -> None:
    (folder / "digits/CURRENT").write_text("1\n")
    assert about_digits(folder).text.startswith("version 1 of 1, pinned; ")
    (folder / "digits/CURRENT").write_text("2\n")
    finding = about_digits(folder)
    assert finding.level == "fail"
    assert "version 2 is not there; there is 1" in finding.text


def test_a_model_whose_versions_are_all_withdrawn_is_told(folder: Path) -> None:
    (folder / "digits/WITHDRAWN").write_text("1\n")
    assert about_digits(folder).level == "warn"


def test_a_signature_is_checked_if_one_is_demanded(folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert "expected a signature" in about_digits(folder, require_signature=public).text
    sign(folder / "digits/1", private)
    assert f"signed by {public}" in about_digits(folder, require_signature=public).text
    assert "signed, not checked" in about_digits(folder).text


@pytest.mark.parametrize(
    ("wanted", "names", "level", "text"),
    [
        ("", ["a"], "ok", "a; a request without a name means a"),
        ("b", ["a", "b"], "ok", "a, b; a request without a name means b"),
        ("", ["a", "b"], "ok", "a, b; every request has to name one, without --default-model"),
        ("c", ["a", "b"], "fail", "a, b; --default-model c is not there"),
    ],
)
def test_what_a_request_without_a_name_means(wanted: str, names: list[str], level: str, text: str) -> None:
    finding = default_model(wanted, names)
    assert (finding.level, finding.text) == (level, text)


def test_memory_grows_with_workers_and_graphs_and_is_for_a_reload(folder: Path) -> None:
    graphs = sum(file.stat().st_size for file in (folder / "digits/1").glob("*.onnx"))
    assert graphs
    assert memory_needed(folder, 3) == 6 * (WORKER_BYTES + 2 * graphs)
