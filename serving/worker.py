"""One worker: an engine, a core and an edge in one process, from start to drain."""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence

from serving.batching import Limits, Turn
from serving.core import Core
from serving.edge import Edge
from serving.engine import Engine
from serving.models import LoadedModel, load_models, serve_model
from serving.settings import MAX_REQUEST_ROWS, Settings
from vaeport.graphs import choose_device, usable_cores

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    address: str,
    on_ready: Callable[[], None],
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Load, serve on `address`, call `on_ready` when calls are answered, and return when drained after a signal.

    Raises:
        PackageError: the models cannot be loaded.
        InvalidInputError: a model has not the precision.
        DeviceError: the device cannot compute.
        SelfTestError: a model does not compute here what its golden vectors say.
        SignatureError: `--require-signature`, and a model is not signed by that key.
    """
    device = choose_device(settings.device)
    log.info("computing on %s: %s", device.provider, device.reason)
    threads = settings.threads or max(1, usable_cores() // settings.workers)
    models = load_models(settings.models, device, threads, settings.precision, settings.require_signature)
    for model in models:
        manifest = model.package.manifest
        log.info(
            "loaded %s version %d in %s, %s", manifest.name, manifest.version, settings.precision, model.package.digest
        )
    asyncio.run(_serve(settings, address, models, on_ready, signals))


async def _serve(
    settings: Settings,
    address: str,
    models: list[LoadedModel],
    on_ready: Callable[[], None],
    signals: Sequence[signal.Signals],
) -> None:
    stop = _stop_event(signals)
    engine, turn = Engine(), Turn()
    delay = settings.max_delay_ms / 1000
    limits = Limits(settings.max_batch_rows, settings.max_queue_rows, settings.max_queue_bytes, delay)
    served = [serve_model(model, engine, limits, turn) for model in models]
    core = Core(served, max_request_rows=MAX_REQUEST_ROWS, default_model=settings.default_model)
    edge = Edge(core, address)
    await edge.start()
    on_ready()
    await stop.wait()
    log.info("draining, for %g seconds at most", settings.grace)
    await edge.stop(settings.grace)
    await core.close()
    engine.close()
    log.info("stopped")


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
