"""gRPC's options for connections, all in one place: how many, how large, how long-lived, how silent."""

from serving.settings import Settings

MAX_METADATA_BYTES = 16 * 1024  # of a call; by default gRPC refuses some calls at random from 8 KiB on
HANDSHAKE_MS = 10_000  # for TLS and the first frame; gRPC's default is two minutes
ANSWER_MS = 20_000  # for the answer to a ping, or to our settings; gRPC's default is a minute
MIN_PING_INTERVAL_MS = 5_000  # by default gRPC closes connections of clients that ping more than once in five minutes
NO_LIMIT = -1
MAX_INT = 2**31 - 1

Options = list[tuple[str, int]]


def server_options(settings: Settings, max_request_bytes: int) -> Options:
    """The options of a server that takes requests of at most `max_request_bytes`."""
    options = [
        ("grpc.so_reuseport", 1),  # workers share the port; serving.supervisor has made sure it is ours
        ("grpc.max_receive_message_length", max_request_bytes),
        ("grpc.max_send_message_length", NO_LIMIT),  # bounded by the rows of the request
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # Calls that have ended and are being cleaned up count, too, against floods of calls that are reset at once.
        # Without room for them gRPC refuses new calls of a client that respects its limit.
        ("grpc.http2.max_deallocating_streams", min(2 * settings.max_concurrent_streams, MAX_INT)),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.http2.settings_timeout", ANSWER_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),  # both ways: finds half-open connections even if nothing is sent
        ("grpc.http2.max_pings_without_data", 0),  # no limit on our own pings
    ]
    if settings.keepalive_seconds:
        options += [
            ("grpc.keepalive_time_ms", _ms(settings.keepalive_seconds)),
            ("grpc.keepalive_timeout_ms", ANSWER_MS),
            ("grpc.http2.ping_timeout_ms", ANSWER_MS),  # the option that counts for a peer that sends nothing at all
        ]
    if settings.max_connections:
        options.append(("grpc.max_allowed_incoming_connections", settings.max_connections))
    if settings.max_connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", _ms(settings.max_connection_age_seconds)))
    if settings.max_connection_idle_seconds:
        options.append(("grpc.max_connection_idle_ms", _ms(settings.max_connection_idle_seconds)))
    return options


def _ms(seconds: float) -> int:
    """Milliseconds, at least 1: 0 means something else to gRPC, or is not valid."""
    return min(max(1, round(seconds * 1000)), MAX_INT)
