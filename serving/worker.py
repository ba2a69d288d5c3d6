"""One worker: an engine, a core and an edge in one process, from start to drain."""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

from serving.batching import Limits, Turn
from serving.core import Core
from serving.edge import Edge
from serving.engine import Engine, bucket_sizes
from serving.models import LoadedModel, load_models, serve_model
from serving.settings import MAX_REQUEST_ROWS, Settings
from vaeport.graphs import CUDA_PROVIDER, CudaOptions, Device, choose_device, usable_cores

EXIT_DEVICE_LOST = 75  # EX_TEMPFAIL of sysexits.h: another process may fare better
LOST_GRACE_SECONDS = 1.0  # for the answers of those who wait when the device is lost; they are all refusals

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    address: str,
    on_ready: Callable[[], None],
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Load, serve on `address`, call `on_ready` when calls are answered, and return when drained after a signal.

    If the device is lost, everyone who waits is refused and the process ends at once, with status EXIT_DEVICE_LOST.

    Raises:
        PackageError: the models cannot be loaded.
        InvalidInputError: a model has not the precision.
        DeviceError: the device cannot compute.
        SelfTestError: a model does not compute here what its golden vectors say.
        SignatureError: `--require-signature`, and a model is not signed by that key.
    """
    device = device_of(settings)
    buckets = settings.batch_buckets or bucket_sizes(settings.max_batch_rows)
    engine = Engine()
    models = engine.call(
        load_models,
        settings.models,
        device,
        settings.threads or max(1, usable_cores() // settings.workers),
        settings.precision,
        settings.require_signature,
        buckets if device.provider == CUDA_PROVIDER else (),
    )
    for model in models:
        manifest = model.package.manifest
        log.info(
            "loaded %s version %d in %s, %s", manifest.name, manifest.version, settings.precision, model.package.digest
        )
    asyncio.run(_serve(settings, address, engine, models, on_ready, signals))


def device_of(settings: Settings) -> Device:
    """The device as the settings want it; what has no effect there is said in the log."""
    cuda = CudaOptions(settings.tf32, settings.gpu_mem_limit_mb * 2**20, settings.cuda_graphs)
    device = replace(choose_device(settings.device), cuda=cuda)
    log.info("computing on %s: %s", device.provider, device.reason)
    on_cuda = ("tf32", "gpu_mem_limit_mb", "batch_buckets", "cuda_graphs")
    for name in ("threads",) if device.provider == CUDA_PROVIDER else on_cuda:
        if getattr(settings, name):
            log.warning("--%s has no effect on %s", name.replace("_", "-"), device.provider)
    return device


async def _serve(
    settings: Settings,
    address: str,
    engine: Engine,
    models: list[LoadedModel],
    on_ready: Callable[[], None],
    signals: Sequence[signal.Signals],
) -> None:
    stop = _stop_event(signals)
    turn = Turn()
    delay = settings.max_delay_ms / 1000
    limits = Limits(settings.max_batch_rows, settings.max_queue_rows, settings.max_queue_bytes, delay)
    served = [serve_model(model, engine, limits, turn) for model in models]
    core = Core(served, max_request_rows=MAX_REQUEST_ROWS, default_model=settings.default_model)
    edge = Edge(core, address)
    await edge.start()
    on_ready()
    await _first(stop, engine.lost)
    grace = LOST_GRACE_SECONDS if engine.lost.is_set() else settings.grace
    log.info("draining, for %g seconds at most", grace)
    await edge.stop(grace)
    await core.close()
    if engine.lost.is_set():
        _end_without_device()
    engine.close()
    log.info("stopped")


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()


def _end_without_device() -> NoReturn:
    """End now: what belongs to a lost device may never come back from being freed, as a normal end would do."""
    log.critical("the device is lost: everyone has been refused, and this process ends, status %d", EXIT_DEVICE_LOST)
    logging.shutdown()
    os._exit(EXIT_DEVICE_LOST)


def _stop_event(signals: Sequence[signal.Signals]) -> asyncio.Event:
    """An event that the first signal sets, or the end of the parent process. A second signal ends this one at once."""
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    if (parent := multiprocessing.parent_process()) is not None:
        sentinel = parent.sentinel

        def on_parent_end() -> None:
            loop.remove_reader(sentinel)  # it stays readable for ever
            stop.set()

        loop.add_reader(sentinel, on_parent_end)  # a worker must not outlive a launcher that was killed
    return stop
