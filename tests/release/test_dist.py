"""`python -m release dist`, whole: it installs things, so it is a long test."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from release.artifacts import MAX_WHEEL_BYTES
from release.commands import ReleaseError
from release.environment import Environment, check
from tests.support import ROOT
from vaeport import __version__

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is published."""
    out = tmp_path_factory.mktemp("release") / "dist"
    command = [sys.executable, "-m", "release", "dist", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "installs alone" in done.stderr
    assert done.stdout.split() == [str(path) for path in sorted(out.iterdir())]
    return out


def test_it_leaves_a_wheel_an_sdist_and_the_context(dist: Path) -> None:
    names = {path.name for path in dist.iterdir()}
    stem = f"vaeport-{__version__}"
    assert names == {f"{stem}-py3-none-any.whl", f"{stem}.tar.gz", f"{stem}-context.tar.gz"}
    assert (dist / f"{stem}-py3-none-any.whl").stat().st_size < MAX_WHEEL_BYTES
    with tarfile.open(dist / f"{stem}.tar.gz") as sdist:
        assert f"{stem}/protos/vaeport/v1/vae.proto" in sdist.getnames()


def test_what_comes_with_the_wheel_and_is_not_expected_is_named(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    environment = Environment.create(tmp_path / "env", wheel, ROOT / "constraints.txt")
    assert 0 < check(environment) < 0.3
    environment.python("-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", "six")
    with pytest.raises(ReleaseError, match="vaeport alone brings six; expected grpcio, numpy, pillow, protobuf"):
        check(environment)
    (marker,) = environment.folder.glob("lib/*/site-packages/vaeport/py.typed")
    marker.unlink()
    environment.python("-m", "pip", "uninstall", "--quiet", "--yes", "six")
    with pytest.raises(ReleaseError, match="mypy: "):
        check(environment)
