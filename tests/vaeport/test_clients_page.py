"""The code of docs/clients.md runs, one block after the other."""

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import ROOT, ServerProcess

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/clients.md").read_text(), re.MULTILINE | re.DOTALL)


def test_every_block_runs(
    server: ServerProcess, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in ("photo.png", "photos/1.png", "photos/2.png"):
        Image.fromarray(np.full((8, 8), 16, np.uint8)).save(path)
    namespace: dict[str, Any] = {"__name__": "docs.clients"}
    for block in BLOCKS:
        code = block.replace("localhost:50051", server.address).replace("models/mine/1", str(package))
        exec(compile(code, "docs/clients.md", "exec"), namespace)  # noqa: S102 - our own page
    asyncio.run(namespace["main"]())
    assert namespace["many"].mean.shape == namespace["all_of_them"].mean.shape == (2, 5)
