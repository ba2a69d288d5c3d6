"""A server or a package to ask, and pictures as somebody has them in a folder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vaeport
from tests.support import ServerProcess

Asked = tuple[list[str], "vaeport.Client | vaeport.Model"]


@pytest.fixture(scope="module")
def model(package: Path) -> vaeport.Model:
    return vaeport.load(package)


@pytest.fixture(params=["server", "package"])
def asked(
    request: pytest.FixtureRequest, server: ServerProcess, package: Path, model: vaeport.Model
) -> Iterator[Asked]:
    """The flags of a source, and the library's object for the same."""
    if request.param == "package":
        yield ["--package", str(package)], model
    else:
        with vaeport.Client(server.address) as client:
            yield ["--server", server.address], client


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with five digits, of which two are in a subfolder, beside what is no picture."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 17, (5, 8, 8), np.uint8)
    for name, image in zip(("b.png", "a.PNG", "c.bmp", "more/a.png", "more/z.png"), pixels, strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("nor this")
    return folder


@pytest.fixture
def files(photos: Path) -> list[Path]:
    """Those pictures, in the order in which they are taken."""
    return [photos / name for name in ("a.PNG", "b.png", "c.bmp", "more/a.png", "more/z.png")]
