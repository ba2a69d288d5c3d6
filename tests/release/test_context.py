"""What is sent to `docker build`."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from release.commands import ReleaseError
from release.context import MAX_CONTEXT_BYTES, context_files, write_context
from tests.support import ROOT


def tree(folder: Path) -> Path:
    """A small checkout with things in it that must not leave it."""
    for name in (
        "deploy/Dockerfile",
        "serving/worker.py",
        "vaeport/model.py",
        "vaeport/__pycache__/model.pyc",
        "secret.pem",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "models/mnist").mkdir(parents=True)
    (folder / "models/mnist/encoder.onnx").write_bytes(bytes(10_000))
    shutil.copy(ROOT / ".dockerignore", folder)
    return folder


def test_the_context_is_what_dockerignore_lets_in_and_the_dockerfile(tmp_path: Path) -> None:
    expected = [".dockerignore", "deploy/Dockerfile", "serving/worker.py", "vaeport/model.py"]
    assert context_files(tree(tmp_path)) == expected


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    write_context(source, tmp_path / "one.tar.gz")
    os.utime(source / "vaeport/model.py", (1, 1))
    write_context(source, tmp_path / "another.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "another.tar.gz").read_bytes()


def test_data_among_the_source_are_noticed(tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    (source / "serving/weights.bin").write_bytes(os.urandom(MAX_CONTEXT_BYTES))
    with pytest.raises(ReleaseError, match=f"expected less than {MAX_CONTEXT_BYTES} bytes"):
        write_context(source, tmp_path / "context.tar.gz")


def test_the_context_of_this_checkout_is_small_and_holds_the_server_without_torch(tmp_path: Path) -> None:
    write_context(ROOT, tmp_path / "context.tar.gz")
    with tarfile.open(tmp_path / "context.tar.gz") as archive:
        names = archive.getnames()
        assert {member.uname for member in archive} == {""}
    assert {"deploy/Dockerfile", "constraints.txt", "serving/worker.py", "vaeport/client.py"} <= set(names)
    assert not [name for name in names if name.split("/")[0] in {"training", "export", "tests", "models", "runs"}]
