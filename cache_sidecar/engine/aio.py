"""The engine that is always there: grpc.aio."""

import grpc

from cache_sidecar.settings import Settings

# Requests accepted before their handler starts. grpc's default cancels bursts; our own limit answers RESOURCE_EXHAUSTED.
MAX_PENDING = 20_000
MAX_STREAMS_PER_CONNECTION = 2_000


def create(settings: Settings) -> grpc.aio.Server:
    """Returns a server with no services and no ports yet."""
    return grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            # It counts for what a compressed request unpacks to as well: C-core stops unpacking there.
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            # Connections that are half open are noticed, and callers may check theirs every 10 s.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ],
    )
