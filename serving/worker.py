"""One worker: an engine, a core and an edge in one process, from start to drain."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from serving.batching import Limits, Turn
from serving.core import Core
from serving.edge import Edge
from serving.engine import Engine, bucket_sizes
from serving.health import Readiness
from serving.heartbeat import Heartbeat, heartbeat_of
from serving.models import LoadedModel, load_models, serve_model
from serving.settings import MAX_REQUEST_ROWS, Settings
from serving.supervisor.messages import Order, Said
from serving.telemetry import Telemetry
from vaeport.graphs import CUDA_PROVIDER, CudaOptions, Device, choose_device
from vaeport.machine import usable_cores

EXIT_DEVICE_LOST = 75  # EX_TEMPFAIL of sysexits.h: another process may fare better
LOST_GRACE_SECONDS = 1.0  # for the answers of those who wait when the device is lost; they are all refusals
BEAT_SECONDS = 1.0

log = logging.getLogger(__name__)


class End(Enum):
    """Why a worker ends."""

    STOP = auto()  # the server stops
    LEAVE = auto()  # others have taken over
    LOST = auto()  # the device computes nothing any more


def run(settings: Settings, address: str, packages: Sequence[Path], channel: Connection) -> None:
    """Load, wait for the order to serve, serve on `address`, and return when drained.

    If the device is lost, everyone who waits is refused and the process ends at once, with status EXIT_DEVICE_LOST.

    Args:
        settings: of the server.
        address: "HOST:PORT".
        packages: to serve, MODELS/<name>/<version>.
        channel: to the supervisor; its end is an order to stop.

    Raises:
        PackageError: a model cannot be loaded.
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
        packages,
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
    channel.send((Said.LOADED, None))
    if _order(channel) is Order.SERVE:
        asyncio.run(_serve(settings, address, engine, models, channel))


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
    settings: Settings, address: str, engine: Engine, models: list[LoadedModel], channel: Connection
) -> None:
    ending = _ending(channel)
    turn = Turn()
    delay = settings.max_delay_ms / 1000
    limits = Limits(settings.max_batch_rows, settings.max_queue_rows, settings.max_queue_bytes, delay)
    telemetry = Telemetry.of(settings)
    served = [serve_model(model, engine, limits, turn, telemetry) for model in models]
    core = Core(
        served,
        max_request_rows=MAX_REQUEST_ROWS,
        default_model=settings.default_model,
        on_scores=telemetry.scored,
    )
    edge = Edge(core, address, settings, telemetry, reload=partial(_say, channel, Said.RELOAD, None))
    canaries_of = {model.package.manifest.name: model.canaries for model in models}
    every, hang = settings.canary_seconds, settings.hang_seconds
    readiness = Readiness(canaries_of, engine, turn, every=every, hang=hang, show=edge.health.show)
    canaries = asyncio.create_task(readiness.run(), name="canaries")
    await edge.start()
    telemetry.serving(served, settings.precision, edge.locks.not_after)
    channel.send((Said.SERVING, None))
    beat = partial(heartbeat_of, engine, readiness, served)
    beats = asyncio.create_task(_beat(channel, lambda: beat(edge.calls, draining=ending.done())))
    end = await _first(ending, engine.lost)
    log.info("ending: %s", end.name.lower())
    if end is End.LEAVE:
        await edge.leave(settings.grace)
    elif end is End.STOP:
        await edge.stop(settings.grace, settings.lame_duck_seconds)
    else:
        await edge.stop(LOST_GRACE_SECONDS)
    canaries.cancel()
    await core.close()
    telemetry.close()
    beats.cancel()
    if end is End.LOST:
        _end_without_device(channel)
    engine.close()
    log.info("ended")


async def _first(ending: "asyncio.Future[End]", lost: asyncio.Event) -> End:
    """Wait for an order to end, or for the device to be lost."""
    losing = asyncio.ensure_future(lost.wait())
    await asyncio.wait((ending, losing), return_when=asyncio.FIRST_COMPLETED)
    losing.cancel()
    return End.LOST if lost.is_set() else ending.result()


async def _beat(channel: Connection, beat: Callable[[], Heartbeat]) -> None:
    """Say each second how it is; that the loop turns is said by saying it."""
    while True:
        _say(channel, Said.BEAT, beat())
        await asyncio.sleep(BEAT_SECONDS)


def _end_without_device(channel: Connection) -> NoReturn:
    """End now: what belongs to a lost device may never come back from being freed, as a normal end would do."""
    log.critical("the device is lost: everyone has been refused, and this process ends, status %d", EXIT_DEVICE_LOST)
    _say(channel, Said.FAILED, "the device is lost")
    logging.shutdown()
    os._exit(EXIT_DEVICE_LOST)


def _ending(channel: Connection) -> "asyncio.Future[End]":
    """Done with the first order to end: by the supervisor, by its end, or by SIGTERM. A second SIGTERM ends at once."""
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[End] = loop.create_future()

    def end(why: End) -> None:
        if not ending.done():
            ending.set_result(why)

    def on_signal() -> None:
        if ending.done():
            os._exit(128 + signal.SIGTERM)
        end(End.STOP)

    def on_message() -> None:
        order = _order(channel)
        if order is None:
            loop.remove_reader(channel.fileno())  # it stays readable for ever
        end(End.LEAVE if order is Order.LEAVE else End.STOP)

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    loop.add_reader(channel.fileno(), on_message)
    return ending


def _order(channel: Connection) -> Order | None:
    """What the supervisor says; None if it is gone."""
    try:
        return Order(channel.recv())
    except (EOFError, OSError):
        return None


def _say(channel: Connection, said: Said, about: object) -> None:
    """Tell the supervisor, if it is there."""
    try:
        channel.send((said, about))
    except OSError:
        log.debug("the supervisor is gone")
