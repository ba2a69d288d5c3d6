"""The package's bill of materials, bom.cdx.json: CycloneDX 1.6, with the model, its files, its data and what made it.

The library writes all but the model card, which it does not know yet. It also writes a time and a random serial
number; here the time goes, and the serial number follows from the content, so that the same run gives the same bytes.
"""

import json
import uuid
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from vaeport._version import __version__
from vaeport.manifest import Manifest, TensorSpec
from vaeport.package import CHECKPOINT_NAME

BOM_NAME = "bom.cdx.json"
LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxscript", "safetensors", "torch")
METRICS = {  # names in the manifest -> what they are, all in nats per image
    "test_loss": "negative bound",
    "test_reconstruction": "reconstruction",
    "test_kl": "KL divergence",
}


def bill_of_materials(manifest: Manifest) -> dict[str, Any]:
    """The content of bom.cdx.json.

    Args:
        manifest: with every file but the manifest, which lists the bill, and the bill itself.
    """
    model, parts = _model(manifest), [*_files(manifest), _data_set(manifest)]
    tools = ToolRepository(components=[Component(name="vaeport", type=ComponentType.APPLICATION, version=__version__)])
    content = manifest.to_json().decode("ascii")
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, content),
        metadata=BomMetaData(component=model, tools=tools),
        components=[*parts, *_libraries()],
    )
    bom.register_dependency(model, parts)
    value: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del value["metadata"]["timestamp"]
    value["metadata"]["component"]["modelCard"] = _model_card(manifest)
    return value


def _model(manifest: Manifest) -> Component:
    checkpoint = next(entry.sha256 for entry in manifest.files if entry.path == CHECKPOINT_NAME)
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        name=manifest.name,
        version=str(manifest.version),
        description=f"variational autoencoder for images of {list(manifest.model.image_shape)}",
        properties=[
            Property(name="vaeport:format", value=manifest.format),
            Property(name="vaeport:checkpoint_sha256", value=checkpoint),
        ],
    )


def _files(manifest: Manifest) -> Iterator[Component]:
    for entry in manifest.files:
        yield Component(
            type=ComponentType.FILE,
            bom_ref=f"file:{entry.path}",
            name=entry.path,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=entry.sha256)],
        )


def _data_set(manifest: Manifest) -> Component:
    """The digest is of pixels and labels, not of a file, so it is not a hash in the sense of CycloneDX."""
    data = manifest.training["data"]
    return Component(
        type=ComponentType.DATA,
        bom_ref="data",
        name=data["name"],
        description=f"{data['train']} images to train on, {data['test']} to test on",
        properties=[Property(name="vaeport:data_digest", value=data["digest"])],
    )


def _libraries() -> Iterator[Component]:
    """What exports and proves, on this machine; running the model needs none of it, so the scope is "excluded"."""
    installed = {name: version for name in LIBRARIES if (version := _version(name))}
    for name, version in installed.items():
        yield Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"library:{name}",
            name=name,
            version=version,
            scope=ComponentScope.EXCLUDED,
            purl=PackageURL("pypi", None, name, version),
        )


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _model_card(manifest: Manifest) -> dict[str, Any]:
    graphs = sorted(manifest.graphs.items())
    measured = manifest.training["metrics"]
    return {
        "modelParameters": {
            "approach": {"type": "unsupervised"},
            "task": "embedding, reconstruction and generation of images",
            "architectureFamily": "variational autoencoder",
            "modelArchitecture": manifest.model.family,
            "datasets": [{"ref": "data"}],
            "inputs": [{"format": _format(role, tensor)} for role, graph in graphs for tensor in graph.inputs],
            "outputs": [{"format": _format(role, tensor)} for role, graph in graphs for tensor in graph.outputs],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": f"{what}, nats per image", "value": f"{measured[name]:.6g}", "slice": "test"}
                for name, what in METRICS.items()
            ]
        },
        "considerations": {"technicalLimitations": [f"the metrics are of {manifest.training['setting']}"]},
    }


def _format(role: str, tensor: TensorSpec) -> str:
    return f"{role}.{tensor.name}: {tensor.dtype} [{', '.join(map(str, tensor.shape))}]"
