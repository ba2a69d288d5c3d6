"""What `docker build` is given: the files that .dockerignore lets in, as an archive with the same bytes each time."""

import gzip
import tarfile
from pathlib import Path

from docker.utils.build import exclude_paths

from release.commands import ReleaseError

DOCKERFILE = "deploy/Dockerfile"
MAX_CONTEXT_BYTES = 2_000_000
"""The server's source is a fraction of this; more means that data or weights were let in."""


def context_files(source: Path) -> list[str]:
    """The files of the build context, sorted, relative to `source`; the Dockerfile and .dockerignore belong to it."""
    lines = (source / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    chosen = exclude_paths(str(source), patterns, dockerfile=DOCKERFILE)
    return sorted(name for name in chosen if (source / name).is_file())


def write_context(source: Path, archive: Path) -> None:
    """Write a .tar.gz for `docker build -f deploy/Dockerfile - < archive`: no times and no owners in it.

    Raises:
        ReleaseError: it is larger than source code is.
    """
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in context_files(source):
            tar.add(source / name, arcname=name, filter=_anonymous)
    size = archive.stat().st_size
    if size >= MAX_CONTEXT_BYTES:
        raise ReleaseError(f"the container's context: expected less than {MAX_CONTEXT_BYTES} bytes, got {size}")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member
