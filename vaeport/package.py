"""Reading a package folder: every rule of the format, cheapest first, one error class per rule.

    PackageError
    ├── NotAPackageError         the path is no folder, or holds no manifest
    ├── ManifestTooLargeError    manifest.json is over MANIFEST_MAX_BYTES
    ├── UnknownFormatError       `format` is missing, or one that this version does not read
    ├── ManifestInvalidError     not JSON, or a field missing, unknown, of the wrong type or out of its range
    ├── MisplacedPackageError    the folder is models/<name>/<version> of another name or version
    ├── UnsafePathError          a listed path is absolute, has `..`, or is not a normal relative POSIX path
    ├── AmbiguousPathError       some file systems would take a listed path for another one
    ├── SymlinkError             something in the folder is a symbolic link, or neither a file nor a folder
    ├── UnlistedFileError        a file that the manifest does not list
    ├── MissingFileError         a listed file that is not there
    ├── SizeMismatchError        a file is not as long as listed
    ├── DigestMismatchError      a file's sha256 is not the listed one
    ├── GraphRuleError           a graph breaks a rule; raised by vaeport.graph_rules, which needs onnx
    └── GoldenInvalidError       the golden vectors are not what the format says; raised by vaeport.golden

The digest and manifest rules need nothing but the standard library. A reader never follows a path out of the folder.
"""

import hashlib
import math
import os
import re
import unicodedata
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from vaeport._version import __version__
from vaeport.errors import PackageError, bounded
from vaeport.manifest import (
    FORMAT,
    MANIFEST_NAME,
    MAX_EXACT,
    FileEntry,
    Manifest,
    ManifestFieldError,
    ModelSpec,
    TensorSpec,
    parse_json,
    show,
)

CHECKPOINT_NAME = "checkpoint.safetensors"
CHECKPOINT_PROPERTY = "vaeport.checkpoint_sha256"  # in the metadata of a graph: the weights it came from
MANIFEST_MAX_BYTES = 1 << 20
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
QUANTILE_LEVEL = re.compile(r"min|max|0(\.[0-9]+)?|1(\.0+)?")
NEWER_FORMAT = re.compile(r"vaeport/[1-9][0-9]{0,8}")
MAX_VERSION = 999_999_999  # nine digits
VERSION = re.compile(r"[1-9][0-9]{0,8}")
ROLES = ("encoder", "decoder")
FP32, PRECISIONS = "fp32", ("fp32", "fp16", "int8")
BATCH_AXIS = "batch"  # the symbolic name of the first axis of every input and output
MAX_ENTRIES = 1 << 15  # files and folders of a package; a manifest within its cap lists fewer
PACKAGE_MAX_BYTES = 1 << 32  # of all files together: a reader computes the digest of each
MAX_AXIS = 1 << 16  # of an image, a latent or a hidden layer; no product of four of them overflows
MAX_IMAGE_ELEMENTS = 1 << 22  # channels x height x width: 2048x2048 in grey; golden vectors of more are over their cap
MAX_LAYERS = 128  # of hidden_dims: `python -m export verify` builds them; ours have two
SIGMA_RANGE = (1e-3, 1e6)  # of a Gaussian likelihood; training's floor is 0.0025, and beyond it scores overflow


class NotAPackageError(PackageError):
    """The path is no folder, or holds no manifest."""


class ManifestTooLargeError(PackageError):
    """manifest.json is over MANIFEST_MAX_BYTES."""


class UnknownFormatError(PackageError):
    """`format` is missing, or one that this version does not read."""


class ManifestInvalidError(PackageError):
    """Not JSON, or a field missing, unknown, of the wrong type or out of its range."""


class MisplacedPackageError(PackageError):
    """The folder is models/<name>/<version> of another name or version."""


class UnsafePathError(PackageError):
    """A listed path is absolute, has `..`, or is not a normal relative POSIX path."""


class AmbiguousPathError(PackageError):
    """Some file systems would take a listed path for another one."""


class SymlinkError(PackageError):
    """Something in the folder is a symbolic link, or neither a file nor a folder."""


class UnlistedFileError(PackageError):
    """A file that the manifest does not list."""


class MissingFileError(PackageError):
    """A listed file that is not there."""


class SizeMismatchError(PackageError):
    """A file is not as long as listed."""


class DigestMismatchError(PackageError):
    """A file's sha256 is not the listed one."""


class GraphRuleError(PackageError):
    """A graph breaks a rule of the format, or is not what the manifest says."""


class GoldenInvalidError(PackageError):
    """The golden vectors are not what the format says."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package whose manifest and files have been checked.

    Attributes:
        path: the folder.
        manifest: its manifest.
        digest: "sha256:..." of manifest.json, and through it of every file.
    """

    path: Path
    manifest: Manifest
    digest: str


def open_package(path: str | os.PathLike[str]) -> Package:
    """Check the package in folder `path` by every rule except those of the graphs.

    Raises:
        PackageError: the subclass of the first broken rule, or PackageError itself if the folder cannot be read.
    """
    try:
        return _open(Path(path))
    except OSError as error:
        raise PackageError(f"{os.fspath(path)}: cannot be read: {error}") from error


def _open(folder: Path) -> Package:
    data = _read_manifest(folder)
    manifest = _parse_manifest(folder, data)
    _check_place(folder, manifest)
    _check_paths(folder, manifest)
    _check_spelling(folder, manifest)
    _check_listing(folder, manifest)
    for entry in manifest.files:
        _check_size(folder, entry)
    for entry in manifest.files:
        _check_digest(folder, entry, sha256_of(folder / entry.path))
    return Package(folder, manifest, f"sha256:{hashlib.sha256(data).hexdigest()}")


def graph_name(role: str, precision: str = FP32, *, uint8: bool = False) -> str:
    """The name of a graph in the manifest: "encoder", "encoder.uint8", "decoder.fp16", "decoder.fp16.uint8", ...

    Args:
        role: one of ROLES.
        precision: one of PRECISIONS, inside the graph.
        uint8: whether images enter or leave it as bytes.
    """
    return ".".join([role, *([] if precision == FP32 else [precision]), *(["uint8"] if uint8 else [])])


def role_of(name: str) -> str:
    """The role of a graph by its name: "encoder" or "decoder"."""
    return name.partition(".")[0]


def precision_of(name: str) -> str:
    """The precision of a graph by its name, one of PRECISIONS."""
    return next((part for part in name.split(".") if part in PRECISIONS), FP32)


def has_bytes(name: str) -> bool:
    """Whether images enter or leave the graph of that name as uint8."""
    return name.endswith(".uint8")


def expected_tensors(name: str, model: ModelSpec) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs that the graph of that name must have."""

    def floats(name: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, "float32", (BATCH_AXIS, *shape))

    image, latent = floats("image", *model.image_shape), model.latent_dim
    pixels = replace(image, dtype="uint8") if has_bytes(name) else image
    if role_of(name) == "encoder":
        return (pixels,), (floats("mean", latent), floats("log_var", latent))
    if has_bytes(name):
        return (floats("latent", latent),), (pixels,)
    parameters = replace(image, name="logits" if model.likelihood == "bernoulli" else "mean")
    return (floats("latent", latent),), (image, parameters)


def read_listed(package: Package, path: str) -> bytes:
    """The content of a listed file, as it was when the package was opened: what is checked is what is used.

    Raises:
        DigestMismatchError: it has changed since.
    """
    entry = entry_of(package, path)
    with (package.path / path).open("rb") as file:
        data = file.read(entry.size + 1)  # no more than its caller has thought of
    _check_digest(package.path, entry, hashlib.sha256(data).hexdigest())
    return data


def entry_of(package: Package, path: str) -> FileEntry:
    """What the manifest says about the file at `path`, which it must list."""
    return next(entry for entry in package.manifest.files if entry.path == path)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> bytes:
    manifest = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise NotAPackageError(f"{folder}: no such folder")
    if manifest.is_symlink() or (manifest.exists() and not manifest.is_file()):
        raise SymlinkError(f"{manifest}: a symbolic link, or no file")
    if not manifest.exists():
        raise NotAPackageError(f"{folder}: no package: {MANIFEST_NAME} is missing")
    with manifest.open("rb") as file:
        data = file.read(MANIFEST_MAX_BYTES + 1)  # bounded, whatever the size is said to be
    if len(data) > MANIFEST_MAX_BYTES:
        raise ManifestTooLargeError(f"{manifest}: over {MANIFEST_MAX_BYTES} bytes")
    return data


def _parse_manifest(folder: Path, data: bytes) -> Manifest:
    try:
        value = parse_json(data)
        _check_format(folder, value)
        manifest = Manifest.from_value(value)
        _check_values(manifest)
    except ManifestFieldError as error:
        raise ManifestInvalidError(f"{folder / MANIFEST_NAME}: {bounded(str(error))}") from error
    return manifest


def _check_format(folder: Path, value: object) -> None:
    """Check the format first, so that a package of another format is told apart from a broken one."""
    found = value.get("format") if isinstance(value, dict) else None
    if found != FORMAT:
        newer = isinstance(found, str) and NEWER_FORMAT.fullmatch(found)
        hint = f"; a vaeport newer than {__version__} reads it" if newer else ""
        got = repr(found) if isinstance(found, str | int | None) else f"a {type(found).__name__}"
        raise UnknownFormatError(f"{folder / MANIFEST_NAME}: format: expected {FORMAT!r}, got {bounded(got)}{hint}")


def _check_values(manifest: Manifest) -> None:
    model = manifest.model
    if not NAME_PATTERN.fullmatch(manifest.name):
        raise ManifestFieldError(f"manifest.name: expected {NAME_PATTERN.pattern}, got {manifest.name!r}")
    if not 1 <= manifest.version <= MAX_VERSION:
        raise ManifestFieldError(f"manifest.version: expected 1 to {MAX_VERSION}, got {manifest.version}")
    if min(*model.image_shape, model.latent_dim) < 1 or max(*model.image_shape, model.latent_dim) > MAX_AXIS:
        sizes = (*model.image_shape, model.latent_dim)
        raise ManifestFieldError(f"manifest.model: sizes must be positive and at most {MAX_AXIS}, got {sizes}")
    if math.prod(model.image_shape) > MAX_IMAGE_ELEMENTS:
        expected = f"at most {MAX_IMAGE_ELEMENTS} elements"
        raise ManifestFieldError(f"manifest.model.image_shape: expected {expected}, got {model.image_shape}")
    gaussian, (low, high) = model.likelihood == "gaussian", SIGMA_RANGE
    if gaussian != (model.sigma is not None) or (model.sigma is not None and not low <= model.sigma <= high):
        expected = f"{low} to {high:g}" if gaussian else "null"
        raise ManifestFieldError(
            f"manifest.model.sigma: expected {expected} for a {model.likelihood} likelihood, got {model.sigma}"
        )
    shape = (manifest.preprocessing.channels, *manifest.preprocessing.size)
    if shape != model.image_shape:
        raise ManifestFieldError(f"manifest.preprocessing: gives {shape}, the model takes {model.image_shape}")
    if not manifest.preprocessing.scale > 0:
        raise ManifestFieldError(f"manifest.preprocessing.scale: must be positive, got {manifest.preprocessing.scale}")
    _check_figures(manifest)
    _check_network(manifest)
    _check_graph_names(manifest)
    listed = [entry.path for entry in manifest.files]
    if listed != sorted(set(listed)):
        raise ManifestFieldError("manifest.files: paths must be sorted and unique")
    sizes_of_files = [entry.size for entry in manifest.files]
    if min(sizes_of_files, default=0) < 0 or sum(sizes_of_files) > PACKAGE_MAX_BYTES:
        raise ManifestFieldError(f"manifest.files: sizes must be 0 or more, and at most {PACKAGE_MAX_BYTES} together")
    for name, graph in manifest.graphs.items():
        if graph.path not in listed:
            raise ManifestFieldError(f"manifest.graphs.{name}.path: {graph.path!r} is not in manifest.files")
        if (graph.inputs, graph.outputs) != expected_tensors(name, model):
            raise ManifestFieldError(f"manifest.graphs.{name}: inputs and outputs are not those of manifest.model")


def _check_figures(manifest: Manifest) -> None:
    """Check the figures that scores are compared with (vaeport.scoring)."""
    evaluation = _object_or_null(manifest.training.get("evaluation"), "manifest.training.evaluation")
    where = "manifest.training.evaluation.elbo_quantiles"
    quantiles = _object_or_null(evaluation.get("elbo_quantiles"), where)
    for level, elbo in quantiles.items():
        if not QUANTILE_LEVEL.fullmatch(level):
            raise ManifestFieldError(f"{where}: expected levels min, max or 0 to 1, got {show(level)}")
        if not is_figure(elbo):
            raise ManifestFieldError(f"{where}.{level}: expected a finite number, got {show(elbo)}")
    ascending = sorted((quantile_level(level), elbo) for level, elbo in quantiles.items())
    for (lower, elbo), (upper, next_elbo) in pairwise(ascending):
        if lower == upper:
            raise ManifestFieldError(f"{where}: expected each level once, got {lower:g} twice")
        if elbo > next_elbo:
            got = f"{show(elbo)} at {lower:g} and {show(next_elbo)} at {upper:g}"
            raise ManifestFieldError(f"{where}: expected numbers that do not fall, got {got}")


def is_figure(value: object) -> bool:
    """Whether something in a manifest is a number that a float holds; floats of JSON are finite."""
    return type(value) is float or (type(value) is int and abs(value) < MAX_EXACT)


def quantile_level(name: str) -> float:
    """0 for "min", 1 for "max", or the number that it says."""
    return 0.0 if name == "min" else 1.0 if name == "max" else float(name)


def _check_network(manifest: Manifest) -> None:
    """Check the layers that a verifier builds to compare the checkpoint with."""
    where = "manifest.training.network"
    layers = _object_or_null(manifest.training.get("network"), where).get("hidden_dims", [])
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        got = f"{len(layers)} of them" if isinstance(layers, list) else show(layers)
        raise ManifestFieldError(f"{where}.hidden_dims: expected at most {MAX_LAYERS} widths, got {got}")
    if wrong := [width for width in layers if type(width) is not int or not 1 <= width <= MAX_AXIS]:
        raise ManifestFieldError(f"{where}.hidden_dims: expected widths of 1 to {MAX_AXIS}, got {show(wrong[0])}")


def _object_or_null(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise ManifestFieldError(f"{where}: expected an object or null, got {show(value)}")
    return value or {}


def _check_graph_names(manifest: Manifest) -> None:
    """Check that each precision has both roles, and both or neither with uint8 edges."""
    if unknown := sorted(manifest.precisions.keys() - set(PRECISIONS[1:])):
        raise ManifestFieldError(f"manifest.precisions: expected {', '.join(PRECISIONS[1:])}, got {', '.join(unknown)}")
    expected: list[str] = []
    for precision in (FP32, *manifest.precisions):
        expected += [graph_name(role, precision) for role in ROLES]
        with_bytes = [graph_name(role, precision, uint8=True) for role in ROLES]
        expected += with_bytes if manifest.graphs.keys() & set(with_bytes) else []
    if sorted(manifest.graphs) != sorted(expected):
        raise ManifestFieldError(f"manifest.graphs: expected {sorted(expected)}, got {sorted(manifest.graphs)}")


def _check_place(folder: Path, manifest: Manifest) -> None:
    """Check that a folder named as a version holds that version; a folder with another name may hold any."""
    place = Path(os.path.normpath(folder.absolute()))  # for a link its own name counts, not its target's
    found = (place.parent.name, place.name)
    if VERSION.fullmatch(place.name) and found != (manifest.name, str(manifest.version)):
        raise MisplacedPackageError(
            f"{folder}: holds version {manifest.version} of {manifest.name!r}; a package keeps its name: "
            f"expected a folder {manifest.name}/{manifest.version}, or one whose name is no version"
        )


def _check_paths(folder: Path, manifest: Manifest) -> None:
    for entry in manifest.files:
        path = PurePosixPath(entry.path)
        normal = str(path) == entry.path and not path.is_absolute() and ".." not in path.parts and entry.path != "."
        if not normal or "\\" in entry.path or "\0" in entry.path or entry.path == MANIFEST_NAME:
            raise UnsafePathError(f"{folder / MANIFEST_NAME}: {bounded(repr(entry.path))} is no path inside")


def _check_spelling(folder: Path, manifest: Manifest) -> None:
    """Check that no two paths become one where case does not count (Windows, macOS) or Unicode is normalised."""
    spellings: dict[str, Any] = {}  # for each entry of a folder: its spelling, and the entries in it
    for entry in manifest.files:
        inside = spellings
        for part in entry.path.split("/"):
            normal = unicodedata.normalize("NFC", part)
            spelled, inside = inside.setdefault(unicodedata.normalize("NFC", normal.casefold()), (part, {}))
            if (other := spelled if part == normal else normal) != part:
                names = f"{bounded(ascii(part))} for {bounded(ascii(other))}"
                raise AmbiguousPathError(f"{folder / MANIFEST_NAME}: files: a file system may take {names}")


def _check_listing(folder: Path, manifest: Manifest) -> None:
    present = _files_in(folder)
    listed = {entry.path for entry in manifest.files}
    if unlisted := sorted(present - listed - {MANIFEST_NAME}):
        raise UnlistedFileError(f"{folder}: not in the manifest: {bounded(', '.join(unlisted))}")
    if missing := sorted(listed - present):
        raise MissingFileError(f"{folder}: in the manifest, but not here: {bounded(', '.join(missing))}")


def _files_in(folder: Path) -> set[str]:
    """Relative POSIX paths of all files below `folder`; links and devices are refused, never followed."""
    found: set[str] = set()
    pending, seen = [folder], 0
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_ENTRIES:
                    raise UnlistedFileError(f"{folder}: more than {MAX_ENTRIES} files and folders")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    found.add(Path(entry.path).relative_to(folder).as_posix())
                else:
                    raise SymlinkError(f"{bounded(entry.path)}: neither a file nor a folder")
    return found


def _check_size(folder: Path, entry: FileEntry) -> None:
    size = (folder / entry.path).stat().st_size
    if size != entry.size:
        raise SizeMismatchError(f"{folder}/{bounded(entry.path)}: expected {entry.size} bytes, got {size}")


def _check_digest(folder: Path, entry: FileEntry, digest: str) -> None:
    if digest != entry.sha256:
        path = f"{folder}/{bounded(entry.path)}"
        raise DigestMismatchError(f"{path}: expected sha256 {bounded(entry.sha256)}, got {digest}")
