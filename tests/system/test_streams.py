"""Streams of samples while their server goes and comes back."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import vaeport
from tests.support import ServerProcess

COUNT = 60_000


def test_a_stream_of_samples_goes_on_when_its_only_server_is_restarted(
    start_server: Callable[..., ServerProcess], models: Path
) -> None:
    flags = ("--models", str(models))
    server = start_server(*flags)

    def restart() -> None:
        assert server.terminate(60) == 0
        start_server(*flags, "--port", server.address.rpartition(":")[2])

    with vaeport.Client(server.address) as client, ThreadPoolExecutor(1) as pool:
        chunks = client.sample_stream(COUNT, seed=5, chunk_rows=20)
        found = [next(chunks)]
        restarted = pool.submit(restart)
        while not restarted.done():
            found.append(next(chunks))
        assert sum(map(len, found)) < COUNT, "it was over before the restart was"
        found += chunks
        restarted.result()
    assert np.array_equal(np.concatenate(found), vaeport.load(models / "digits").sample(COUNT, seed=5))
