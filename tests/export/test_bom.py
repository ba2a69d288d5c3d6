"""The bill of materials is what CycloneDX's schema asks for, says what the manifest says, and repeats to the byte."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from export.bom import BOM_NAME, bill_of_materials
from tests.support import ROOT
from vaeport.package import Package, open_package


@pytest.fixture(scope="module")
def opened(two_models: Path) -> Package:
    return open_package(two_models / "colour" / "1")


@pytest.fixture
def bom(opened: Package) -> Any:
    return json.loads((opened.path / BOM_NAME).read_text())


def of_type(bom: Any, kind: str) -> Iterator[Any]:
    return (component for component in bom["components"] if component["type"] == kind)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the validator is made of
def test_the_schema_of_cyclonedx_accepts_it_and_would_not_accept_anything(bom: Any) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bom)) is None
    bom["metadata"]["component"]["modelCard"]["modelParameters"]["approach"]["type"] = "by magic"
    assert validator.validate_str(json.dumps(bom)) is not None


def test_the_library_reads_it_back(bom: Any) -> None:
    read = Bom.from_json(bom)  # type: ignore[attr-defined]
    assert read.metadata.component.name == "colour"
    assert len(read.components) == len(bom["components"])


def test_every_file_has_the_digest_of_the_manifest(bom: Any, opened: Package) -> None:
    found = {part["name"]: part["hashes"] for part in of_type(bom, "file")}
    expected = {entry.path: entry.sha256 for entry in opened.manifest.files if entry.path != BOM_NAME}
    assert found == {path: [{"alg": "SHA-256", "content": sha256}] for path, sha256 in expected.items()}


def test_the_model_names_its_checkpoint_its_data_and_its_metrics(bom: Any, opened: Package) -> None:
    manifest, model = opened.manifest, bom["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "colour", "1")
    checkpoint = next(entry.sha256 for entry in manifest.files if entry.path == "checkpoint.safetensors")
    assert {"name": "vaeport:checkpoint_sha256", "value": checkpoint} in model["properties"]
    (data,) = of_type(bom, "data")
    assert data["name"] == manifest.training["data"]["name"]
    assert data["properties"] == [{"name": "vaeport:data_digest", "value": manifest.training["data"]["digest"]}]
    card = model["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    assert {"format": "encoder.image: float32 [batch, 3, 6, 4]"} in card["modelParameters"]["inputs"]
    measured = {row["type"]: float(row["value"]) for row in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert measured["negative bound, nats per image"] == pytest.approx(manifest.training["metrics"]["test_loss"])
    (depends,) = [entry["dependsOn"] for entry in bom["dependencies"] if entry["ref"] == model["bom-ref"]]
    assert {data["bom-ref"], "file:encoder.onnx"} <= set(depends)


def test_the_libraries_that_made_it_are_there_with_their_versions(bom: Any) -> None:
    libraries = {part["name"]: part["purl"] for part in of_type(bom, "library")}
    for name in ("numpy", "onnx", "onnxscript", "torch"):
        assert libraries[name] == f"pkg:pypi/{name}@{metadata.version(name)}"


def test_it_has_no_time_and_the_same_bytes_in_every_process(bom: Any, opened: Package) -> None:
    """Sets are ordered by the hash seed, which differs from process to process."""
    assert "timestamp" not in bom["metadata"]
    code = f"""
import dataclasses, json
from export.bom import BOM_NAME, bill_of_materials
from vaeport.package import open_package
manifest = open_package({str(opened.path)!r}).manifest
files = tuple(entry for entry in manifest.files if entry.path != BOM_NAME)
print(json.dumps(bill_of_materials(dataclasses.replace(manifest, files=files))))
"""
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        again = json.dumps(json.loads(done.stdout), sort_keys=True, indent=2) + "\n"
        assert again == (opened.path / BOM_NAME).read_text()


def test_another_version_has_another_serial_number(bom: Any, opened: Package) -> None:
    from dataclasses import replace

    files = tuple(entry for entry in opened.manifest.files if entry.path != BOM_NAME)
    second = bill_of_materials(replace(opened.manifest, version=2, files=files))
    assert second["serialNumber"] != bom["serialNumber"]
