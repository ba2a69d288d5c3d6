"""What a package says about itself besides its graphs, against what follows from its files. Without PyTorch.

Every file is read once, and held to its digest.
"""

from typing import Any

from export import parity
from export.bom import BOM_NAME
from export.card import CARD_NAME, OVERRULED, model_card
from export.errors import ExportError
from export.ladder import Subject
from export.parity import PARITY_NAME, Fact, NotRun, Report
from export.precisions import objections_to
from vaeport.manifest import ManifestFieldError, parse_json
from vaeport.package import CHECKPOINT_NAME, CHECKPOINT_PROPERTY, Package, read_listed

PARITY_MAX_BYTES = 1 << 26


def claims(package: Package) -> Report:
    """P0: the stored rows and their summary, the objections, the bill of materials and the card."""
    report = Report(facts=[*_stored(package), *_objections(package), *_bill(package)])
    report.add(_card(package))
    return report


def metadata(package: Package, subject: Subject) -> list[Fact]:
    """P0: what the graph says about its origin, if anything."""
    manifest = package.manifest
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    expected = {
        "vaeport.name": manifest.name,
        "vaeport.version": str(manifest.version),
        "vaeport.role": subject.role,
        "vaeport.latent_dim": str(manifest.model.latent_dim),
        CHECKPOINT_PROPERTY: digests.get(CHECKPOINT_NAME, "no checkpoint"),
    }
    said = [(prop.key, prop.value) for prop in subject.proto.metadata_props]
    return [Fact("P0", subject.name, "onnx", key, expected[key], value) for key, value in said if key in expected]


def stored_report(package: Package) -> Report:
    """The rows of parity.json.

    Raises:
        ExportError: it is not there, or not such a file.
    """
    listed = {entry.path: entry.size for entry in package.manifest.files}
    path = package.path / PARITY_NAME
    if PARITY_NAME not in listed:
        raise ExportError(f"{path}: not in the package")
    if listed[PARITY_NAME] > PARITY_MAX_BYTES:
        raise ExportError(f"{path}: over {PARITY_MAX_BYTES} bytes")
    try:
        return parity.from_json(parse_json(read_listed(package, PARITY_NAME)))
    except (ManifestFieldError, ExportError) as error:
        raise ExportError(f"{path}: {error}") from error


def _stored(package: Package) -> list[Fact]:
    try:
        report = stored_report(package)
    except ExportError as error:
        return [Fact("P0", "package", PARITY_NAME, "rows", "readable", str(error))]
    failed, said = report.failed, package.manifest.parity
    known = said.keys() - ({"worst"} if not report.facts else set())  # the first exports named it otherwise
    facts = [Fact("P0", "package", PARITY_NAME, "rows that failed", "none", ", ".join(map(str, failed[:3])) or "none")]
    facts += [
        Fact("P0", "package", PARITY_NAME, f"manifest.parity.{key}", str(value), str(said[key]))
        for key, value in parity.summary(report).items()
        if key in known
    ]
    return facts


def _objections(package: Package) -> list[Fact]:
    """A package that does not have the list is one of an earlier version."""
    manifest = package.manifest
    if OVERRULED not in manifest.parity:
        return []
    expected = [text for name, spec in sorted(manifest.precisions.items()) for text in objections_to(name, spec)]
    what = f"manifest.parity.{OVERRULED}"
    return [Fact("P0", "package", "manifest.json", what, str(expected), str(manifest.parity[OVERRULED]))]


def _bill(package: Package) -> list[Fact]:
    """Name, version, and the digest of every file. What made it is not of this machine, and so not compared."""
    manifest = package.manifest
    if BOM_NAME not in {entry.path for entry in manifest.files}:
        return []
    listed = {entry.path: entry.sha256 for entry in manifest.files if entry.path != BOM_NAME}
    expected = {"name": manifest.name, "version": str(manifest.version), "files that differ": "none"}
    try:
        bill: Any = parse_json(read_listed(package, BOM_NAME))
        model, parts = bill["metadata"]["component"], [part for part in bill["components"] if part["type"] == "file"]
        named = {part["name"]: part["hashes"][0]["content"] for part in parts}
        found = {
            "name": model["name"],
            "version": model["version"],
            "files that differ": ", ".join(sorted({name for name, _ in named.items() ^ listed.items()})) or "none",
        }
    except (ManifestFieldError, LookupError, TypeError) as error:
        return [Fact("P0", "package", BOM_NAME, "content", "readable", f"{type(error).__name__}: {error}")]
    return [Fact("P0", "package", BOM_NAME, key, str(expected[key]), str(found[key])) for key in expected]


def _card(package: Package) -> Report:
    """The card of an earlier version is another text: that it differs proves nothing, and a row says so."""
    if CARD_NAME not in {entry.path for entry in package.manifest.files}:
        return Report(not_run=[NotRun(CARD_NAME, "not in the package")])
    try:
        expected = model_card(package.manifest).encode()
    except Exception:  # of a manifest whose summary of training is another one, or a stranger's
        expected = b""
    if read_listed(package, CARD_NAME) != expected:
        reason = "it is not what this version makes of the manifest: another version's, or changed since"
        return Report(not_run=[NotRun(CARD_NAME, reason)])
    return Report(facts=[Fact("P0", "package", CARD_NAME, "what the manifest gives", "equal", "equal")])
