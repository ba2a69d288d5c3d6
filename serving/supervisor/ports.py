"""The address at which workers listen, reserved."""

import contextlib
import socket
from collections.abc import Iterator

from serving.settings import Settings, SettingsError


@contextlib.contextmanager
def reserved_address(settings: Settings) -> Iterator[str]:
    """The workers' address, "HOST:PORT" or "unix:PATH"; SettingsError if another process has the port."""
    if settings.listen:
        yield settings.listen  # serving.security.start has checked it; a rename takes it
    else:
        with reserved_port(settings.host, settings.port) as address:
            yield address


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[str]:
    """Hold a port for workers that bind it with SO_REUSEPORT; yields "HOST:PORT", with a free port for 0.

    With SO_REUSEPORT alone a second server would silently take half of the first one's connections, so the port is
    tried without it first.

    Raises:
        SettingsError: another process listens there, or the host is not an address of this machine.
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
