"""What the settings put in front of the services: TLS, tokens, limits per caller; and how they stay current."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import grpc

from serving.edge.credentials import check_admin_closed, token_check
from serving.edge.door import Check
from serving.edge.peers import Peers
from serving.security.certificates import Identity, warn_of_end, watch_identity
from serving.security.tokens import watch_tokens
from serving.security.watched import Watched
from serving.settings import Settings

RENEW_SECONDS = 1.0  # between looks at the files
WARN_AGAIN = timedelta(days=1)

log = logging.getLogger(__name__)


class AccessControl:
    """The TLS identity, tokens and limits of one server.

    Raises:
        SettingsError: certificate, key or tokens cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.identity = _watch_identity(settings)
        self._tokens = watch_tokens(settings.tokens) if settings.tokens else None
        limited = settings.max_calls_per_peer or settings.max_bytes_per_peer
        self.peers = Peers(settings.max_calls_per_peer, settings.max_bytes_per_peer) if limited else None
        self._warned = datetime.min.replace(tzinfo=UTC)

    def checks(self) -> list[Check]:
        """The checks of the door."""
        return [token_check(self._tokens) if self._tokens else check_admin_closed]

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """The credentials of the port; None means plain text."""
        return server_credentials(self.identity) if self.identity else None

    def not_after(self) -> float | None:
        """When the certificate in use ends, as Unix time; None without TLS."""
        return self.identity.value.not_after.timestamp() if self.identity else None

    def renew(self) -> None:
        """Read changed files again. A broken file changes nothing, and is named in the log."""
        if self._tokens:
            self._tokens.refresh()
        if self.identity and (self.identity.refresh() or datetime.now(UTC) - self._warned > WARN_AGAIN):
            self._warned = datetime.now(UTC)
            warn_of_end(self.identity.value)

    async def keep_current(self) -> None:
        """Renew every second, for ever."""
        while True:
            try:
                self.renew()
            except Exception:
                log.exception("certificates and tokens could not be renewed; those in use stay")
            await asyncio.sleep(RENEW_SECONDS)


def _watch_identity(settings: Settings) -> Watched[Identity] | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return watch_identity(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def server_credentials(identity: Watched[Identity]) -> grpc.ServerCredentials:
    """TLS with the identity that is current when a connection is made; open connections keep theirs.

    gRPC asks for it before each handshake, on a thread of its own, and several may ask at once. So no
    file is read there: the loop reads the files, and these threads use the latest result.
    """
    shown = identity.value

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        current = identity.value
        if current is shown:
            return None  # no change
        shown = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        fetch,  # type: ignore[arg-type]  # its stub forgets that None is allowed
        require_client_authentication=shown.client_ca is not None,
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain)], identity.client_ca)
