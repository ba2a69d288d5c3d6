"""From settings to running workers. One worker runs in this process; several are plain processes on one port."""

import contextlib
import multiprocessing
import signal
import socket
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType

from serving.logs import configure_logging
from serving.settings import Settings, SettingsError

KILL_AFTER_GRACE_SECONDS = 5.0


class WorkerDiedError(RuntimeError):
    """A worker ended before it was told to."""


def launch(settings: Settings) -> None:
    """Serve until a signal, then drain and return. Prints `ready HOST:PORT` on standard output when calls are answered.

    Raises:
        SettingsError: impossible settings, or the port is taken.
        WorkerDiedError: one of several workers ended early; the others have been ended, too.
        VaeportError: a single worker could not start.
    """
    settings.check()
    with reserved_port(settings.host, settings.port) as address:
        if settings.workers == 1:
            from serving import worker  # not at the top: the parent of several workers needs neither gRPC nor ONNX

            worker.run(settings, address, lambda: _announce(address))
        else:
            _run_workers(settings, address)


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[str]:
    """Hold a port for workers that bind it with SO_REUSEPORT; yields "HOST:PORT", with a free port for 0.

    With SO_REUSEPORT alone a second server would silently take half of the first one's connections, so the port is
    tried without it first.

    Raises:
        SettingsError: somebody listens there, or the host is not an address of this machine.
    """
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            number, port = probe.getsockname()[:2]  # the address that the host stands for
        holder = socket.socket(family, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((number, port))  # bound, never listening: it keeps the port, and gets no connections
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--host {host} --port {port}: cannot listen there: {error}") from error
    with holder:
        yield f"[{number}]:{port}" if family == socket.AF_INET6 else f"{number}:{port}"


def _run_workers(settings: Settings, address: str) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would copy the state of gRPC's and ONNX Runtime's threads
    workers: list[BaseProcess] = []
    ready: list[Connection] = []
    with _signals_to(workers) as signalled:
        try:
            resource_tracker.ensure_running()  # with the first worker it would start, and unblock what _start blocks
            for number in range(settings.workers):
                reader, writer = context.Pipe(duplex=False)
                workers.append(context.Process(target=_work, args=(settings, address, writer), name=f"worker-{number}"))
                _start(workers[-1])
                writer.close()  # so that the reader sees the end of a worker that dies
                ready.append(reader)
                if signalled:
                    workers[-1].terminate()  # it may have missed the signal
                    raise EOFError
            _wait_until_ready(ready)
            _announce(address)
            wait([worker.sentinel for worker in workers])
            if not signalled:
                raise WorkerDiedError("a worker ended unexpectedly; see its log above")
        except EOFError:
            if not signalled:
                raise WorkerDiedError("a worker ended before it was ready; see its log above") from None
        finally:
            if not signalled:
                _terminate(workers)
            _join(workers, settings.grace)
    if any(worker.exitcode != 0 for worker in workers):  # after a second signal, or before a worker was ready
        sys.exit(128 + signalled[-1])


def _start(worker: BaseProcess) -> None:
    """Start with SIGINT blocked, which the child inherits: Ctrl-C reaches the whole group; the parent passes it on.

    Blocked, not ignored: one that comes meanwhile is delivered to the parent afterwards, and not lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(settings: Settings, address: str, ready: Connection) -> None:
    """The main function of a worker process."""
    from serving import worker
    from vaeport.errors import VaeportError

    configure_logging()
    try:
        worker.run(settings, address, lambda: ready.send(None), signals=(signal.SIGTERM,))
    except VaeportError as error:
        sys.exit(f"serving: error: {error}")


def _wait_until_ready(ready: list[Connection]) -> None:
    """Raises EOFError if a worker ends first, whichever it is."""
    pending = list(ready)
    while pending:
        for connection in wait(pending):
            assert isinstance(connection, Connection)
            connection.recv()
            pending.remove(connection)


@contextlib.contextmanager
def _signals_to(workers: list[BaseProcess]) -> Iterator[list[int]]:
    """Pass SIGTERM and SIGINT on to the workers; yields the signals that came."""
    came: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        _terminate(workers)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(workers: list[BaseProcess]) -> None:
    """SIGTERM: drain. A worker that gets it twice ends at once."""
    for worker in workers:
        if worker.is_alive():
            worker.terminate()


def _join(workers: list[BaseProcess], grace: float) -> None:
    for worker in (worker for worker in workers if worker.pid is not None):
        worker.join(grace + KILL_AFTER_GRACE_SECONDS)
        if worker.is_alive():
            worker.kill()
            worker.join()


def _announce(address: str) -> None:
    print(f"ready {address}", flush=True)
