"""A bound graph whose sessions really run out of memory: ONNX Runtime's arena of the CPU, with a limit. A program of
its own, since that arena is the process's. It prints the rows of the largest batch: wanted, and what fitted.
"""

import logging

import numpy as np
import onnxruntime

from serving.engine import BoundGraph, bucket_sizes
from tests.serving.engine.toys import CPU, encoder, images, same
from vaeport.arrays import to_float
from vaeport.graphs import Graph

LIMIT_BYTES = 100_000
WANTED = 1024


def limit_memory() -> None:
    """Of all sessions that are made from now on, together."""
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    same_as_requested = 1
    arena = onnxruntime.OrtArenaCfg(LIMIT_BYTES, same_as_requested, 4096, -1)
    onnxruntime.create_and_register_allocator(memory, arena)


def encoder_in_little_memory() -> Graph:
    """In the arena of the process, and not in one of its own."""
    options = onnxruntime.SessionOptions
    settings = options()
    settings.add_session_config_entry("session.use_env_allocators", "1")
    onnxruntime.SessionOptions = lambda: settings
    try:
        return encoder()
    finally:
        onnxruntime.SessionOptions = options


if __name__ == "__main__":
    logging.basicConfig()
    rows = to_float(images(WANTED))
    expected = encoder()(rows)
    limit_memory()
    graph = BoundGraph("toy encoder", encoder_in_little_memory, CPU, bucket_sizes(WANTED))
    graph.warm_up()
    assert same(graph(rows), expected)
    assert np.isfinite(expected[0]).all()
    print(WANTED, graph.max_rows)
