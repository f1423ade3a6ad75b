"""The engine that is always there: grpc.aio."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import grpc

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import Overloaded
from cache_sidecar.server import status
from cache_sidecar.server.auth import Access
from cache_sidecar.server.engines.proxied import Callers, proxied
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.tls import Pem, Tls
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import L1

# Requests accepted before their handler starts. grpc's default cancels bursts; our own limit answers RESOURCE_EXHAUSTED.
MAX_PENDING = 20_000
MAX_STREAMS_PER_CONNECTION = 2_000
# Bytes of a call's headers, and 32 for each; above, RESOURCE_EXHAUSTED. As in `native/src/limits.rs`.
MAX_METADATA = 16 << 10
# Bytes of replies on their way to one caller, by its address; above, it gets RESOURCE_EXHAUSTED instead of another. C-core has
# no bound of its own. Smaller replies don't count: there are as many as a connection may have calls.
MAX_UNREAD = 32 << 20
SMALL = 4 << 10
# Said with UNIMPLEMENTED, as gRPC's table of status codes has it; also in `native/src/wire.rs`.
NO_MESSAGE = "the method takes one message, and none came"
# What C-core takes for never, in milliseconds.
_NEVER = 2**31 - 1


class AioServer:
    """Of `grpc.aio.Server` what is used of it, with a bound on what callers leave unread."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.unread: Counter[str] = Counter()
        "Bytes by caller."
        self.callers: Callers | None = None
        "Where there is one, calls are passed on by the native engine."

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Does nothing: generated code calls it beside `add_registered_method_handlers`, with the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Registers the handlers of a service's methods."""
        hosted = {name: self._bounded(handler) if handler.unary_unary else handler for name, handler in handlers.items()}
        if self.callers:
            hosted = {name: proxied(handler, self.callers) for name, handler in hosted.items()}
        hosted = {name: _of_one_message(handler) for name, handler in hosted.items()}
        # grpc.aio finds handlers only by asking them.
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, hosted),))

    def prioritize(self, service: str, priority: Priority) -> None:
        """Does nothing: calls wait in `limiter.py`."""

    def answer_hits(
        self, service: str, methods: Iterable[str], *, dataset: Dataset, l1: L1, freshness_lease: FreshnessLease
    ) -> None:
        """Does nothing: hits are answered in `middleware.py`."""

    def limit_access(self, access: Access) -> None:
        """Does nothing: so is who may call."""

    def policy_changed(self) -> None:
        """Does nothing: each call reads the policy."""

    def add_insecure_port(self, address: str) -> int:
        """Listens on host:port or unix:path, and returns the port. Raises RuntimeError when that is not possible."""
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """As `add_insecure_port`, with TLS."""
        return self._server.add_secure_port(address, _credentials(tls))

    async def start(self) -> None:
        """Serves."""
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        """Lets calls in progress finish within so many seconds; nothing new begins."""
        await self._server.stop(grace)

    def _bounded(self, handler: Any) -> Any:
        behaviour = of_bytes(handler)

        async def call(data: bytes, context: Any) -> bytes:
            reply: bytes = await behaviour(data, context)
            if len(reply) > SMALL:
                await self._count(context, len(reply))
            return reply

        return grpc.unary_unary_rpc_method_handler(call)

    async def _count(self, context: Any, size: int) -> None:
        peer = context.peer()
        if self.unread[peer] > MAX_UNREAD:
            result = status.of(Overloaded("too many replies wait for their caller to read them"))
            details = ((status.DETAILS_KEY, result.SerializeToString()),)
            await context.abort(status.grpc_code(result), result.message, details)
        self.unread[peer] += size
        # A call's task ends when its reply was sent, or its caller is gone.
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._sent(peer, size))

    def _sent(self, peer: str, size: int) -> None:
        self.unread[peer] -= size
        if not self.unread[peer]:
            del self.unread[peer]


def _of_one_message(handler: Any) -> Any:
    """Returns a handler of one message that reads it by itself: when the caller ends its side without one, it says so.

    grpc.aio takes that for a caller that left, and answers nothing: the call would stay until the caller, or the sidecar, ends.
    What a caller sends behind the message is left unread, as C-core does: to look for it costs a fifth of a call.
    """
    if handler.request_streaming:
        return handler

    async def received(context: Any) -> Any:
        message = await context.read()
        if message is grpc.aio.EOF:
            # A caller that reset the call brings us here, too. It hears nothing, and its call may have ended meanwhile.
            with contextlib.suppress(grpc.aio.InternalError):
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_MESSAGE)
            raise asyncio.CancelledError
        return message

    async def call(_: Any, context: Any) -> Any:
        return await handler.unary_unary(await received(context), context)

    async def stream(_: Any, context: Any) -> None:
        message = await received(context)
        async with contextlib.aclosing(handler.unary_stream(message, context)) as replies:
            async for reply in replies:
                await context.write(reply)

    if handler.unary_unary:
        return grpc.stream_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)
    return grpc.stream_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Returns what asks for the certificate at each handshake."""
    served = tls.pem

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        if served is tls.pem:
            return None
        served = tls.pem
        return _configuration(served)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served),
        fetch,  # type: ignore[arg-type]  # None is for no change
        require_client_authentication=bool(served.client_ca),
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca or None)


def of_bytes(handler: Any) -> Any:
    """Returns what a unary handler does, as a function of the request's bytes that returns the reply's."""
    behaviour, parse, serialize = handler.unary_unary, handler.request_deserializer, handler.response_serializer
    if parse is None and serialize is None:
        return behaviour

    async def call(data: bytes, context: Any) -> bytes:
        reply = await behaviour(parse(data) if parse else data, context)
        reply_bytes: bytes = serialize(reply) if serialize else reply
        return reply_bytes

    return call


def create(settings: Settings, *, is_private: bool = False) -> AioServer:
    """Returns a server with no services and no ports yet; a private one is for the native engine, not for clients."""
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            # It counts for what a compressed request unpacks to as well: C-core stops unpacking there.
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
            # Above the first C-core refuses some calls, above the second all. The native engine counts, too, and adds some.
            ("grpc.max_metadata_size", MAX_METADATA * (1 + is_private)),
            ("grpc.absolute_max_metadata_size", MAX_METADATA * (1 + is_private)),
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            # Callers may check their connections every 10 s.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            *(() if is_private else _lifetimes(settings)),
        ],
    )
    return AioServer(server)


def _lifetimes(settings: Settings) -> list[tuple[str, int]]:
    """Returns the options that end connections: those that are half open, old, or idle."""
    return [
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_time)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout)),
        # Without it the answer may take a minute, whatever the one above says.
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout)),
        # Also of a connection without calls it is asked whether its client is there.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age) or _NEVER),
        ("grpc.max_connection_age_grace_ms", _milliseconds(settings.max_connection_age_grace)),
        ("grpc.max_connection_idle_ms", _milliseconds(settings.max_connection_idle) or _NEVER),
    ]


def _milliseconds(seconds: float) -> int:
    return min(round(1000 * seconds), _NEVER)
