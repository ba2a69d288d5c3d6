"""One worker: an engine, a core and an edge in one process, from start to drain."""

import asyncio
import gc
import logging
import os
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from serving.batching import Limits, Turn
from serving.core import Core
from serving.edge import Edge, rows_of_a_message
from serving.engine import Engine, bucket_sizes
from serving.health import Readiness
from serving.heartbeat import Heartbeat, heartbeat_of
from serving.models import LoadedModel, load_models, serve_model
from serving.settings import MAX_REQUEST_ROWS, Settings
from serving.supervisor.messages import Order, Said
from serving.telemetry import Telemetry
from vaeport.errors import UnavailableError
from vaeport.graphs import CUDA_PROVIDER, CudaOptions, Device, choose_device
from vaeport.machine import usable_cores

EXIT_DEVICE_LOST = 75  # EX_TEMPFAIL of sysexits.h: another process may fare better
LOST_GRACE_SECONDS = 1.0  # to answer waiting calls when the device is lost; all are refused
BEAT_SECONDS = 1.0

log = logging.getLogger(__name__)


class End(Enum):
    """Why a worker ends; reasons that are listed first take precedence."""

    LOST = auto()  # the device cannot compute any more
    FAILED = auto()  # a batcher has ended because of a defect
    STOP = auto()  # the server stops
    LEAVE = auto()  # others have taken over


def run(settings: Settings, address: str, packages: Sequence[Path], channel: Connection) -> None:
    """Load, wait for the order to serve, serve on `address`, and return when drained.

    If the device is lost, every waiting call is refused and the process ends at once, with status EXIT_DEVICE_LOST. If
    a batcher ends because of a defect, the same happens, with the status of any defect, so that another worker takes
    its place.

    Args:
        settings: the server's settings.
        address: "HOST:PORT".
        packages: the packages to serve, MODELS/<name>/<version>.
        channel: to the supervisor; its end is an order to stop.

    Raises:
        PackageError: a model cannot be loaded.
        InvalidInputError: a model does not have that precision.
        DeviceError: the device cannot compute.
        SelfTestError: a model does not compute here what its golden vectors say.
        SignatureError: `--require-signature`, and a model is not signed by that key.
        RuntimeError: a batcher has failed.
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
        engine.rebuilding,
    )
    for model in models:
        manifest = model.package.manifest
        log.info(
            "loaded %s version %d in %s, %s", manifest.name, manifest.version, settings.precision, model.package.digest
        )
    channel.send((Said.LOADED, None))
    if _order(channel) is Order.SERVE:
        asyncio.run(_serve(settings, address, engine, models, channel))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it has ended cleanly; signals while memory is freed are moot


def device_of(settings: Settings) -> Device:
    """The device that the settings ask for; settings without effect on it are logged."""
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
    reasons = {End.LOST: engine.lost, End.FAILED: asyncio.Event(), **_orders(channel)}
    turn = Turn()
    delay = settings.max_delay_ms / 1000
    limits = Limits(settings.max_batch_rows, settings.max_queue_rows, settings.max_queue_bytes, delay)
    telemetry = Telemetry.of(settings)
    served = [serve_model(model, engine, limits, turn, telemetry) for model in models]
    core = Core(
        served,
        max_request_rows=rows_of_a_message([model.info for model in served], MAX_REQUEST_ROWS),
        default_model=settings.default_model,
        on_scores=telemetry.scored,
    )
    batchers = [batcher for model in served for batcher in (model.encoder, model.decoder)]
    watches = [asyncio.create_task(_pass_on(batcher.failed, reasons[End.FAILED])) for batcher in batchers]
    edge = Edge(core, address, settings, telemetry, change=partial(_ask, channel))
    canaries_of = {model.package.manifest.name: model.canaries for model in models}
    every, hang = settings.canary_seconds, settings.hang_seconds
    readiness = Readiness(canaries_of, engine, turn, every=every, hang=hang, show=edge.health.show)
    canaries = asyncio.create_task(readiness.run(), name="canaries")
    _set_aside()
    await edge.start()
    telemetry.serving(served, settings.precision, edge.access_control.not_after)
    channel.send((Said.SERVING, None))
    beat = partial(heartbeat_of, engine, readiness, served)
    beats = asyncio.create_task(_beat(channel, lambda: beat(edge.calls, draining=_is_ending(reasons))))
    end = await _first(reasons)
    if end is End.LEAVE:
        end = await _leave(edge, settings.grace, reasons)
    if end is End.STOP:
        await edge.stop(settings.grace, settings.lame_duck_seconds)
    elif end in (End.LOST, End.FAILED):
        await edge.stop(LOST_GRACE_SECONDS)
    for watch in watches:
        watch.cancel()
    canaries.cancel()
    await core.close()
    telemetry.close()
    beats.cancel()
    if end is End.LOST:
        _end_without_device(channel)
    engine.close()
    if end is End.FAILED:
        raise RuntimeError("a batcher has failed; the log above says why")
    log.info("ended")


def _set_aside() -> None:
    """Exclude long-lived objects from garbage collection: scanning them takes 20 ms, in which nobody is answered."""
    gc.collect()
    gc.freeze()


async def _pass_on(event: asyncio.Event, to: asyncio.Event) -> None:
    await event.wait()
    to.set()


Reasons = Mapping[End, asyncio.Event]


def _is_ending(reasons: Reasons) -> bool:
    return reasons[End.STOP].is_set() or reasons[End.LEAVE].is_set()


async def _first(reasons: Reasons) -> End:
    """Wait for a reason to end."""
    waiting = [asyncio.create_task(event.wait()) for event in reasons.values()]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
    end = next(end for end in End if reasons[end].is_set())
    log.info("ending: %s", end.name.lower())
    return end


async def _leave(edge: Edge, grace: float, reasons: Reasons) -> End:
    """Leave, which takes as long as connections live; another reason to end takes precedence meanwhile."""
    leaving = asyncio.create_task(edge.leave(grace))
    graver = asyncio.create_task(_first({**reasons, End.LEAVE: asyncio.Event()}))
    await asyncio.wait((leaving, graver), return_when=asyncio.FIRST_COMPLETED)
    if leaving.done():
        graver.cancel()
        await leaving
        return End.LEAVE
    leaving.cancel()
    return await graver


async def _beat(channel: Connection, beat: Callable[[], Heartbeat]) -> None:
    """Send a heartbeat every second. That it is sent at all shows that the event loop is running."""
    while True:
        if _has_room(channel):
            _say(channel, Said.BEAT, beat())
        await asyncio.sleep(BEAT_SECONDS)


def _ask(channel: Connection, model: str, wanted: bool) -> None:
    """Ask the supervisor for a reload with a model, or without it. The caller has been authorised.

    Raises:
        UnavailableError: the supervisor does not listen.
    """
    if not (_has_room(channel) and _say(channel, Said.LOAD if wanted else Said.UNLOAD, model)):
        raise UnavailableError("the supervisor does not listen; nothing is reloaded")


def _end_without_device(channel: Connection) -> NoReturn:
    """End without freeing anything, as a normal end would: freeing memory of a lost device may never return."""
    log.critical("the device is lost: everyone has been refused, and this process ends, status %d", EXIT_DEVICE_LOST)
    _say(channel, Said.FAILED, "the device is lost")
    logging.shutdown()
    os._exit(EXIT_DEVICE_LOST)


def _orders(channel: Connection) -> Reasons:
    """Reasons to end, set by the supervisor's orders, by its end, or by SIGTERM. A second SIGTERM ends at once."""
    loop = asyncio.get_running_loop()
    orders = {End.STOP: asyncio.Event(), End.LEAVE: asyncio.Event()}

    def on_signal() -> None:
        if orders[End.STOP].is_set():
            os._exit(128 + signal.SIGTERM)
        orders[End.STOP].set()

    def on_message() -> None:
        order = _order(channel)
        if order is None:
            loop.remove_reader(channel.fileno())  # it stays readable for ever
        orders[End.LEAVE if order is Order.LEAVE else End.STOP].set()

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    loop.add_reader(channel.fileno(), on_message)
    return orders


def _order(channel: Connection) -> Order | None:
    """The supervisor's order; None if the supervisor is gone."""
    try:
        return Order(channel.recv())
    except (EOFError, OSError):
        return None


def _has_room(channel: Connection) -> bool:
    """Whether a message can be sent at once: a supervisor that does not read must not block the loop."""
    room = select.poll()
    room.register(channel, select.POLLOUT)
    return bool(room.poll(0))


def _say(channel: Connection, said: Said, about: object) -> bool:
    """Send the supervisor a message; returns whether the supervisor is there."""
    try:
        channel.send((said, about))
    except OSError:
        log.debug("the supervisor is gone")
        return False
    return True
