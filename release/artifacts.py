"""The wheel and the sdist: made, and looked at without installing them."""

import sys
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

from release.commands import ReleaseError, run

LIBRARY = "vaeport"
MAX_WHEEL_BYTES = 1_000_000
"""The library has no weights, no data and no binaries of its own; more than this is a mistake."""


def build(source: Path, out: Path) -> tuple[Path, Path]:
    """Make the sdist, and the wheel from nothing but the sdist, so that it is known to be complete.

    Returns:
        The paths of the wheel and the sdist, both in `out`.
    """
    run(sys.executable, "-m", "build", "--outdir", out, source)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def check_wheel(wheel: Path, source: Path) -> None:
    """Raise ReleaseError unless the wheel is the library of `source`, all of it and nothing else, well described."""
    checker = Path(sys.executable).parent / "check-wheel-contents"
    run(checker, "--no-config", "--toplevel", LIBRARY, "--package", source / LIBRARY, wheel)
    check_size(wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        check_metadata(archive.read(metadata))
    if f"{LIBRARY}/py.typed" not in names:
        raise ReleaseError(f"{wheel.name}: no py.typed, so nobody's type checker reads our types")


def check_size(wheel: Path) -> None:
    """Raise ReleaseError if the wheel is larger than the library can be."""
    size = wheel.stat().st_size
    if size >= MAX_WHEEL_BYTES:
        raise ReleaseError(f"{wheel.name}: expected less than {MAX_WHEEL_BYTES} bytes, got {size}")


def check_metadata(content: bytes) -> None:
    """Raise ReleaseError if an index would refuse these core metadata, or a reader would miss something in them."""
    try:
        metadata = Metadata.from_email(content, validate=True)
    except ExceptionGroup as error:
        raise ReleaseError("metadata: " + "; ".join(map(str, error.exceptions))) from error
    missing = [name for name in ("summary", "description", "license_expression") if not getattr(metadata, name)]
    if missing:
        raise ReleaseError(f"metadata: no {', '.join(missing)}")
    if metadata.description_content_type != "text/markdown":
        raise ReleaseError(
            f"metadata: expected a description in text/markdown, got {metadata.description_content_type}"
        )
