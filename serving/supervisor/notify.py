"""Tells systemd the server's state: sd_notify(3), one datagram to the socket in NOTIFY_SOCKET."""

import logging
import socket

log = logging.getLogger(__name__)


class Notifier:
    """Sends states to a service manager, if there is one.

    Args:
        path: its socket, as NOTIFY_SOCKET has it; a path that begins with "@" is abstract. None: there is no manager.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path and path.replace("@", "\0", 1)

    def __call__(self, *states: str) -> None:
        """Send `READY=1`, `STOPPING=1`, `WATCHDOG=1` and the like. A manager that is gone is no reason to fail."""
        if not self._path:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.setblocking(False)
                to.sendto("\n".join(states).encode(), self._path)
        except OSError as error:
            log.warning("cannot notify the service manager: %s", error)
