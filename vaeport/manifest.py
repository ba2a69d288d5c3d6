"""The manifest of a package: frozen value objects and their JSON, each of which determines the other.

`docs/package-format.md` is the normative page. `Manifest.to_json` gives the same bytes for the same value, and
`Manifest.from_json(manifest.to_json()) == manifest`.
"""

import json
import math
import reprlib
import types
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

FORMAT = "vaeport/1"
MANIFEST_NAME = "manifest.json"
SHOWN_CHARACTERS = 100  # of a value in an error
MAX_EXACT = 2**53  # integers below it are exact as floats


class ManifestFieldError(ValueError):
    """A field is missing, unknown, or not of its type. `vaeport.package` turns it into a PackageError."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the two graphs compute.

    Attributes:
        family: the network's name in training, for example "mlp".
        image_shape: (channels, height, width).
        latent_dim: the number of latent dimensions.
        likelihood: p(x|z); "bernoulli" is one probability per pixel, "gaussian" a mean per pixel and one sigma for all.
        sigma: the standard deviation of a pixel in [0, 1]; null unless the likelihood is Gaussian.
    """

    family: str
    image_shape: tuple[int, int, int]
    latent_dim: int
    likelihood: Literal["bernoulli", "gaussian"]
    sigma: float | None = None  # the first packages do not have it: there was no Gaussian likelihood


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What training did to an image before the network saw it, so that every client can do the same.

    Attributes:
        size: (height, width) in pixels.
        channels: 1 (grey) or 3 (red, green, blue).
        crop: how images of another size became `size`. "none": all images had it. "center": the shorter side was scaled
            to it and the middle cut out. "pad": the longer side was scaled to it, and black added around. With the last
            two, `size` is square, and the filter is Pillow's bilinear one.
        scale: a stored pixel value is divided by it, which brings it into [0, 1].
        binarization: what a pixel in [0, 1] then became. "none": itself. "threshold": 1 above a half, else 0. "dynamic"
            and "static": 1 with the pixel as its probability, drawn at each use or only once.
    """

    size: tuple[int, int]
    channels: int
    crop: Literal["none", "center", "pad"]
    scale: float
    binarization: Literal["none", "dynamic", "threshold", "static"] = "none"  # the first packages do not have it


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a graph. A string in `shape` is a symbolic axis."""

    name: str
    dtype: Literal["float32", "uint8"]
    shape: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX graph of the package."""

    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ir_version: int


@dataclass(frozen=True, slots=True)
class PrecisionSpec:
    """What a precision other than fp32 costs. Changes are relative to fp32, both in exact arithmetic.

    Attributes:
        target: the device that it is for.
        elbo_change: the mean over the held-out images of |ELBO - ELBO in fp32|, in nats per image.
        elbo_limit: what elbo_change should not exceed, in nats per image.
        image_change: the root mean square difference of the reconstructions, for pixels in [0, 1].
        speed_measured: whether its speed was compared with fp32 on its target before it was published.
    """

    target: Literal["cpu", "cuda"]
    elbo_change: float
    elbo_limit: float
    image_change: float
    speed_measured: bool


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the package: relative POSIX path, size in bytes, sha256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a package says about itself.

    Attributes:
        format: FORMAT.
        name: the model's name.
        version: a positive integer.
        model: what the graphs compute.
        preprocessing: from an image file to the encoder's input.
        graphs: "encoder" and "decoder", and variants of the two, named as vaeport.package.graph_name says.
        training: a summary of the run, with its metrics; no time, host or duration.
        parity: the summary of parity.json.
        files: every file except the manifest, sorted by path.
        precisions: the precisions besides fp32, by name.
    """

    format: str
    name: str
    version: int
    model: ModelSpec
    preprocessing: Preprocessing
    graphs: dict[str, GraphSpec]
    training: dict[str, Any]
    parity: dict[str, Any]
    files: tuple[FileEntry, ...]
    precisions: dict[str, PrecisionSpec] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Deterministic bytes: sorted keys, two spaces, ASCII, a newline at the end."""
        return (json.dumps(asdict(self), sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read JSON: `parse_json`, then `from_value`, with their errors."""
        return cls.from_value(parse_json(data))

    @classmethod
    def from_value(cls, value: object) -> "Manifest":
        """Read a JSON value strictly.

        Raises:
            ManifestFieldError: a field is missing, unknown or of the wrong type; the text names it.
        """
        manifest: Manifest = _decode(cls, value, "manifest")
        return manifest


def parse_json(data: bytes) -> object:
    """Parse JSON in UTF-8 strictly: no NaN, no infinity, no key twice in an object.

    Raises:
        ManifestFieldError: it is not such JSON.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_finite,
            parse_float=_finite,
            object_pairs_hook=_refuse_duplicates,
        )
    except (ValueError, RecursionError) as error:
        raise ManifestFieldError(f"not JSON: {error}") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("the same key twice in one object")
    return value


def show(value: object) -> str:
    """A value for an error message, cut at some depth: repr would fail on the deepest JSON that the parser takes."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = SHOWN_CHARACTERS
    return short.repr(value)


def _decode(expected: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `expected`; a ManifestFieldError names `where` it does not fit."""
    if is_dataclass(expected):
        return _decode_dataclass(expected, value, where)
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        if value not in arguments:
            raise ManifestFieldError(f"{where}: expected one of {list(arguments)}, got {show(value)}")
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ManifestFieldError(f"{where}: expected an object, got {show(value)}")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (Union, types.UnionType):
        if type(value) not in arguments:
            raise ManifestFieldError(f"{where}: expected one of {[a.__name__ for a in arguments]}, got {show(value)}")
        return value
    if expected is Any:
        return value
    if expected is float and type(value) is int and abs(value) < MAX_EXACT:
        return float(value)
    if type(value) is not expected:  # exact: True is not an int
        raise ManifestFieldError(f"{where}: expected {expected.__name__}, got {show(value)}")
    return value


def _decode_dataclass(expected: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ManifestFieldError(f"{where}: expected an object, got {show(value)}")
    hints = get_type_hints(expected)
    required = {f.name for f in fields(expected) if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(required - value.keys()):
        raise ManifestFieldError(f"{where}: missing {', '.join(missing)}")
    if unknown := sorted(value.keys() - hints.keys()):
        raise ManifestFieldError(f"{where}: unknown {', '.join(unknown)}")
    return expected(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ManifestFieldError(f"{where}: expected an array, got {show(value)}")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(value) != len(kinds):
        raise ManifestFieldError(f"{where}: expected {len(kinds)} items, got {len(value)}")
    return tuple(_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))
