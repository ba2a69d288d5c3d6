"""How a channel is made: what both kinds of client pass to gRPC.

gRPC's own retries keep their default: without a policy, they repeat only requests that no server has seen, so they do
not multiply with those of vaeport.retries.
"""

import json
from typing import Any

import grpc

from vaeport.addresses import Target
from vaeport.credentials import TLS, read_pem
from vaeport.errors import InvalidInputError

Options = list[tuple[str, Any]]

RECONNECT_MS = 100  # the least that gRPC accepts; it grows by a factor of 1.6 up to the maximum, with jitter
MAX_RECONNECT_MS = 1000
MAX_CONNECT_SECONDS = 3600  # gRPC's numbers have 32 bits
RESOLVE_AGAIN_MS = 2000  # names are looked up again when a connection is lost, at most this often
ROUND_ROBIN = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},  # a server that says NOT_SERVING gets no more calls
    }
)


def options_of(target: Target, tls: TLS | None, connect_timeout: float) -> Options:
    """Channel arguments.

    Args:
        target: where to connect.
        tls: None means plain text.
        connect_timeout: seconds for one attempt to connect.

    Raises:
        InvalidInputError: TLS to several hosts, without a name that their certificates have.
    """
    options: Options = [
        ("grpc.max_receive_message_length", -1),  # responses are as large as the rows that were asked for
        ("grpc.enable_http_proxy", int(not target.direct)),  # a proxy cannot reach addresses of this machine
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", max(RECONNECT_MS, int(min(connect_timeout, MAX_CONNECT_SECONDS) * 1000))),
        ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_AGAIN_MS),
    ]
    if target.balanced:
        options.append(("grpc.service_config", ROUND_ROBIN))
    return options + _names(target, tls)


def credentials_of(tls: TLS) -> grpc.ChannelCredentials:
    """The certificates of a TLS, for gRPC.

    Raises:
        InvalidInputError, OSError: as in `read_pem`.
    """
    pem = read_pem(tls)
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def _names(target: Target, tls: TLS | None) -> Options:
    """The server's name, if its address does not give it."""
    if tls is not None and tls.server_name:
        return [("grpc.ssl_target_name_override", tls.server_name), ("grpc.default_authority", tls.server_name)]
    if tls is not None and target.authority is None:
        raise InvalidInputError(f"TLS: {target.label} has several hosts; server_name says what their certificates have")
    authority = target.label.split(",")[0] if target.authority is None else target.authority
    return [("grpc.default_authority", authority)] if authority else []
