"""Where a server listens: a TCP port, or a socket in the file system that is renamed into place."""

import asyncio
import os
from pathlib import Path

import grpc
from grpc import aio

from serving.edge.listener import Where, close_listeners, count_connections, end_connections, refuse_handshakes
from serving.security import unix
from serving.security.listen import UNIX
from serving.settings import SettingsError

HANDSHAKE_SECONDS = 0.3  # for handshakes under way: a round trip to the other end of the world
LOOK_SECONDS = 0.2
LOOK_SHARE = 50  # the pause between looks, in durations of a look: with many connections a look blocks the loop


class Port:
    """A port of a server, bound but not published.

    Args:
        server: not started yet.
        address: "HOST:PORT", or "unix:PATH".
        credentials: for TLS; None means plain text.
        socket_mode: the permissions of a socket in the file system.

    Raises:
        SettingsError: it cannot be bound.
    """

    def __init__(
        self, server: aio.Server, address: str, credentials: grpc.ServerCredentials | None, socket_mode: int
    ) -> None:
        self._path = Path(address.removeprefix(UNIX)) if address.startswith(UNIX) else None
        self._inode: int | None = None
        if self._path is None:
            self._where: Where = _bind(server, address, credentials)
        else:
            self._where = os.fspath(unix.temporary_path(self._path))
            with unix.socket_mode(socket_mode):
                _bind(server, f"{UNIX}{self._where}", credentials)

    def publish(self) -> None:
        """Let callers find this server instead of a predecessor; call it once the server has started."""
        if self._path is not None:
            self._inode = unix.publish(self._path)

    def withdraw(self) -> None:
        """Remove what `publish` made."""
        if self._path is not None and self._inode is not None:
            unix.withdraw(self._path, self._inode)

    async def close(self) -> None:
        """Stop listening; open connections stay. Handshakes that are under way are completed first."""
        if refuse_handshakes(self._where):
            await asyncio.sleep(HANDSHAKE_SECONDS)
        close_listeners(self._where)

    async def emptied(self, seconds: float) -> None:
        """Wait until no connection is left, for `seconds` at most."""
        time = asyncio.get_running_loop().time
        until = time() + seconds
        while (began := time()) < until and count_connections(self._where):
            took = time() - began
            await asyncio.sleep(max(LOOK_SECONDS, LOOK_SHARE * took))

    def cut(self) -> None:
        """Stop listening, and end all connections once what was sent has been received: callers see UNAVAILABLE."""
        close_listeners(self._where)
        end_connections(self._where)


def _bind(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise SettingsError(f"{address}: cannot listen there: {error}") from None
