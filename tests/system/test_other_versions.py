"""The library of the previous version asks this server, and this library asks the server of the previous version.

The previous version is the newest tag of an earlier minor version; while there is none, a commit from before the first
release. The old library is installed from its own wheel. The old server runs from its own source, with the packages of
other projects that are installed here.
"""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version

import vaeport
from release.artifacts import build
from release.contract import minor
from release.environment import Environment
from tests.support import ROOT, ServerProcess
from tests.test_earlier_versions import unpack

pytestmark = pytest.mark.soak

BEFORE_RELEASES = "39a323e"
CALLS = Path(__file__).with_name("calls.py")
TOLERANCE = 1e-5


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)


def previous(tags: list[str], current: str) -> str:
    """The newest of the tags `v1.2.3` that is of an earlier minor version than the current one."""
    earlier = [Version(tag) for tag in tags if Version(minor(tag.removeprefix("v"))) < Version(minor(current))]
    return f"v{max(earlier)}" if earlier else BEFORE_RELEASES


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the previous version."""
    commit = previous(git("tag", "--list", "v[0-9]*").stdout.decode().split(), vaeport.__version__)
    archive = git("archive", commit)
    if archive.returncode:
        pytest.skip(f"needs {commit}, which is not in the history here: a shallow clone, or no clone")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that both versions read."""
    return unpack("4-torchscript", tmp_path_factory.mktemp("made")) / "models"


def expected(models: Path) -> Mapping[str, np.ndarray]:
    """What tests/system/calls.py should get: this library's numbers, in this process."""
    model = vaeport.load(models / "digits" / "1")
    images = np.random.default_rng(0).random((3, *model.image_shape), np.float32)
    encoding, scores = model.encode(images), model.score(images, importance_samples=4, seed=3)
    return {
        "mean": encoding.mean,
        "log_var": encoding.log_var,
        "decoded": model.decode(encoding.mean),
        "sampled": model.sample(5, seed=7),
        "reconstructed": model.reconstruct(images),
        "elbo": scores.elbo,
        "log_likelihood": scores.log_likelihood,
    }


def check_numbers(results: Path, models: Path) -> None:
    with np.load(results) as got:
        wanted = expected(models)
        assert set(got) == set(wanted)
        assert np.array_equal(got["sampled"], wanted["sampled"])  # one seed, every version
        for name, values in wanted.items():
            np.testing.assert_allclose(got[name], values, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def test_the_previous_library_asks_this_server(
    source: Path, models: Path, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    wheel, _ = build(source, tmp_path / "dist")
    environment = Environment.create(tmp_path / "env", wheel, source / "constraints.txt")
    assert str(tmp_path / "env") in environment.python("-c", "import vaeport; print(vaeport.__file__)")
    server = start_server("--models", str(models))
    environment.python(CALLS, server.address, tmp_path / "results.npz")
    check_numbers(tmp_path / "results.npz", models)


@pytest.fixture
def previous_server(source: Path, models: Path) -> Iterator[str]:
    """The address of a server of the previous version."""
    where = [sys.executable, "-c", "import serving, vaeport; print(serving.__file__, vaeport.__file__)"]
    modules = subprocess.run(where, cwd=source, capture_output=True, text=True, check=True).stdout.split()
    assert [Path(module).parents[1] for module in modules] == [source, source]
    command = [sys.executable, "-m", "serving", "--models", str(models), "--port", "0", "--workers", "1"]
    with subprocess.Popen(command, cwd=source, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, _, address = process.stdout.readline().strip().partition(" ")
            assert word == "ready"
            yield address
        finally:
            process.terminate()


def test_this_library_asks_the_previous_server(previous_server: str, models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.system.calls", previous_server, str(tmp_path / "results.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    check_numbers(tmp_path / "results.npz", models)


def test_the_previous_version_is_the_newest_tag_of_an_earlier_minor() -> None:
    assert previous([], "0.1.0") == BEFORE_RELEASES
    assert previous(["v0.1.0"], "0.1.1") == BEFORE_RELEASES
    assert previous(["v0.1.0", "v0.9.3", "v0.10.1", "v0.10.0", "v0.11.0"], "0.11.2") == "v0.10.1"
