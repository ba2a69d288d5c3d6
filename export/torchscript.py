"""Encoder and decoder as TorchScript, for PyTorch and LibTorch users. PyTorch deprecates it (pytorch/pytorch#167910).

Traced in a process of their own: what a process has compiled before shows up in the names inside, and then the bytes
would not repeat.
"""

import contextlib
import io
import os
import signal
import threading
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch

from export.errors import ExportError
from export.graphs import EXAMPLE_BATCH, Role, roles
from training.run import Run
from vaeport.errors import bounded

FOLDER = "torchscript"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip entry can have


def write_torchscript(staged: Path, run: Run, weights: str, checkpoint: bytes) -> dict[str, Path]:
    """Write torchscript/encoder.pt and decoder.pt.

    Args:
        staged: the package to be.
        run: the run.
        weights: the name of its file of weights.
        checkpoint: the content of that file.

    Returns:
        The files by role.
    """
    (staged / FOLDER).mkdir()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_end_with_parent) as process:
        # Ctrl-C reaches the child as well, which would answer with a traceback; blocked signals are inherited.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future = process.submit(_trace_all, run, weights, checkpoint)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        traced = future.result()
    paths = {}
    for role, content in traced.items():
        paths[role] = staged / FOLDER / f"{role}.pt"
        paths[role].write_bytes(without_debug(content))
    return paths


def load_torchscript(path: Path, content: bytes) -> torch.jit.ScriptModule:
    """A module of a package, on the CPU. It runs code from the file: only for packages that are trusted.

    Args:
        path: of the file, for the error.
        content: of the file.

    Raises:
        ExportError: PyTorch cannot load it.
    """
    try:
        with _deprecated():
            module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # PyTorch's readers raise several unrelated types
        raise ExportError(f"{path}: PyTorch cannot load it: {bounded(str(error))}") from error
    return module.eval()


def without_debug(content: bytes) -> bytes:
    """A TorchScript archive less its debug_pkl entries, which hold the author's source lines and paths, compressed."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as cleaned:
        for entry in archive.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                cleaned.writestr(zipfile.ZipInfo(entry.filename, LONG_AGO), archive.read(entry))
    return output.getvalue()


def _end_with_parent() -> None:
    """In the process of its own, which would wait for work for ever if a kill took the one that made it."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _trace_all(run: Run, weights: str, checkpoint: bytes) -> dict[str, bytes]:
    """In the process of its own."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # a trace keeps it in each convolution; PyTorch would allow it there
    model, _ = run.model_from(weights, checkpoint)
    return {role.name: _trace(role) for role in roles(model, run.image_shape)}


def _trace(role: Role) -> bytes:
    buffer = io.BytesIO()
    with _deprecated(), torch.no_grad():
        traced = torch.jit.trace(role.module, torch.zeros(EXAMPLE_BATCH, *role.input_shape))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer)
    return buffer.getvalue()


@contextlib.contextmanager
def _deprecated() -> Iterator[None]:
    """Silence PyTorch's warning that TorchScript is deprecated: docs/package-format.md says it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=Warning)
        yield
