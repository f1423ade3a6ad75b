"""The engine that is always available: grpc.aio."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc

from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import Overloaded
from cache_sidecar.server import descriptors, status
from cache_sidecar.server.auth import Access
from cache_sidecar.server.engine import Check, RecordHit, Refusals
from cache_sidecar.server.engines.debts import BODY_WITHIN, Debt, Debts, IndebtedContext
from cache_sidecar.server.engines.proxied import Callers, restore_caller
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.tls import Pem, Tls
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import L1

# Requests accepted before their handlers start, with 16 KiB each. By default gRPC cancels smaller bursts.
MAX_PENDING = 2_000
MAX_STREAMS_PER_CONNECTION = 2_000
# Maximum bytes of a call's headers, plus 32 for each; above it RESOURCE_EXHAUSTED. As in `native/src/limits.rs`.
MAX_METADATA = 16 << 10
# Maximum bytes of unread replies per caller, by address; above it calls get RESOURCE_EXHAUSTED. C-core has no such bound. See
# `debts.py` for all callers together.
MAX_UNREAD = 8 << 20
# Bytes of a message that C-core accepts before anybody asks for it.
LOOKAHEAD = 16 << 10
# Sent with UNIMPLEMENTED, as gRPC's documentation of status codes requires; also in `native/src/wire.rs`.
NO_MESSAGE = "the method takes one message, and none came"
LATE = f"the request did not arrive within {BODY_WITHIN:.0f} s, or its deadline"
# C-core's value for never, in milliseconds.
_NEVER = 2**31 - 1


class AioServer:
    """Wraps `grpc.aio.Server`, with a bound on replies that callers leave unread."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._debts = Debts()
        self._checks: dict[str, Check] = {}
        self.callers: Callers | None = None
        "Returns the callers of proxied calls, if the native engine is in front."

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Does nothing: generated code also calls `add_registered_method_handlers`, with the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Registers the handlers of a service's methods."""
        hosted = {
            name: handler if handler.request_streaming else self._of_one_message(handler, self._checks.get(f"{service}/{name}"))
            for name, handler in handlers.items()
        }
        if self.callers:
            hosted = {name: restore_caller(handler, self.callers) for name, handler in hosted.items()}
        # grpc.aio only looks methods up in generic handlers.
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, hosted),))

    def check_headers(self, method: str, check: Check) -> None:
        """Has `check` end calls of `SERVICE/METHOD` whose callers may not make them, before their message comes."""
        self._checks[method] = check

    def prioritize(self, name: str, priority: Priority) -> None:
        """Does nothing: `limiter.py` limits calls."""

    def answer_hits(
        self, service: str, methods: Iterable[str], *, dataset: Dataset, l1: L1, freshness_lease: FreshnessLease
    ) -> None:
        """Does nothing: hits are answered in `middleware.py`."""

    def follow_refusals(self, path: str, on_refusals: Callable[[int], None]) -> None:
        """Does nothing: every call reaches its handler."""

    def limit_access(self, access: Access) -> None:
        """Does nothing: `middleware.py` checks access, too."""

    def apply_policies(self) -> None:
        """Does nothing: each call reads the policy."""

    def trace_hits(self, ratio: float, record: RecordHit) -> Callable[[], int]:  # noqa: ARG002
        """Does nothing: each call is answered by Python, and traced there."""
        return lambda: 0

    def collect_samples(self) -> None:
        """Does nothing: datasets take their samples themselves."""

    def hits(self) -> Mapping[str, tuple[Sequence[int], float]]:
        """Returns nothing: each call is answered by Python."""
        return {}

    def refusals(self) -> dict[str, Refusals]:
        """Returns nothing: `layers.py` refuses and counts calls."""
        return {}

    def counters(self) -> Mapping[str, int]:
        """Returns nothing: grpc.aio counts nothing."""
        return {}

    def add_insecure_port(self, address: str) -> int:
        """Listens on host:port or unix:path, and returns the port. Raises RuntimeError."""
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """As `add_insecure_port`, with TLS."""
        return self._server.add_secure_port(address, _credentials(tls))

    async def start(self) -> None:
        """Starts serving."""
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        """Stops accepting calls, and gives those in progress so many seconds to finish."""
        await self._server.stop(grace)

    def _of_one_message(self, handler: Any, check: Check | None) -> Any:
        """Returns a handler that reads its one message itself, and refuses a call whose caller half-closes without a message.

        grpc.aio takes that for a caller that left, and does not answer: the call would last until the caller or the sidecar
        ends. Further messages are left unread, as C-core does: checking for them costs a fifth of a call.
        """

        async def call(_: Any, context: Any) -> Any:
            debt = self._debts.begin(context.peer())
            message = await self._receive(context, debt, check)
            indebted = IndebtedContext(context, debt, self._debts)
            reply = await behaviour(message, indebted)
            if self._debts.unread[debt.peer] > MAX_UNREAD:
                del reply  # the refusal waits for its reader, too
                result = status.of(Overloaded("too many replies are waiting to be read by their caller"))
                details = ((status.DETAILS_KEY, result.SerializeToString()),)
                await indebted.abort(status.grpc_code(result), result.message, details)
            self._debts.reply(debt, len(reply))
            return reply

        async def stream(_: Any, context: Any) -> None:
            message = await self._receive(context, self._debts.begin(context.peer()), check)
            async with contextlib.aclosing(handler.unary_stream(message, context)) as replies:
                async for reply in replies:
                    await context.write(reply)

        if handler.unary_unary:
            behaviour = of_bytes(handler)
            return grpc.stream_unary_rpc_method_handler(call)
        return grpc.stream_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)

    async def _receive(self, context: Any, debt: Debt, check: Check | None) -> Any:
        if check is not None:
            await check(context)
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if not debt.is_late or context.cancelled():
                raise
            debt.task.uncancel()
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, LATE)
        if message is grpc.aio.EOF:
            # Also reached when the caller reset the call, which may have ended meanwhile.
            with contextlib.suppress(grpc.aio.InternalError):
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_MESSAGE)
            raise asyncio.CancelledError
        self._debts.settle(debt)
        return message


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Returns credentials that fetch the certificate at each handshake."""
    served = tls.pem

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        # A resumed session does not verify the client's certificate again, and C-core's sessions cannot be turned off from
        # here. But each configuration has ticket keys of its own: with a new one per connection, the ticket that a connection
        # gets is of no use to the next.
        if served is tls.pem and not served.client_ca:
            return None
        served = tls.pem
        return _configuration(served)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served),
        fetch,  # type: ignore[arg-type]  # None means no change
        require_client_authentication=bool(served.client_ca),
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca or None)


def of_bytes(handler: Any) -> Any:
    """Returns the behaviour of a unary handler as a function from request bytes to reply bytes."""
    behaviour, parse, serialize = handler.unary_unary, handler.request_deserializer, handler.response_serializer
    if parse is None and serialize is None:
        return behaviour

    async def call(data: bytes, context: Any) -> bytes:
        reply = await behaviour(parse(data) if parse else data, context)
        reply_bytes: bytes = serialize(reply) if serialize else reply
        return reply_bytes

    return call


def create(settings: Settings, *, is_private: bool = False) -> AioServer:
    """Returns a server without services and ports. A private one serves the native engine, not clients."""
    if settings.listen_tls_client_ca and not settings.max_connection_age and not is_private:
        telemetry.log.warning(
            "grpc.aio cannot end the connection of a certificate that expires: set max_connection_age to less than the time "
            "between renewal and expiry, or clients that have renewed theirs are refused until they reconnect"
        )
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            # Also limits decompressed requests: C-core stops decompressing there.
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
            ("grpc.http2.lookahead_bytes", LOOKAHEAD),
            # Otherwise C-core would accept more, up to megabytes of a message that nobody asked for, the faster the machine.
            ("grpc.http2.bdp_probe", 0),
            # Above the first C-core refuses some calls, above the second all. The native engine checks, too, and adds headers.
            ("grpc.max_metadata_size", MAX_METADATA * (1 + is_private)),
            ("grpc.absolute_max_metadata_size", MAX_METADATA * (1 + is_private)),
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            # Clients may ping every 10 s.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            *(() if is_private else _lifetimes(settings)),
            *(() if is_private else _quota(settings)),
        ],
    )
    return AioServer(server)


def _quota(settings: Settings) -> list[tuple[str, int]]:
    """Returns the option that limits the connections of each listener: one that is full leaves the others theirs.

    C-core closes further connections at once, also those of probes: they need a listener of their own, `probe_socket`.
    """
    connections = min(settings.max_connections, descriptors.of_clients(settings))
    listeners = sum(map(bool, (settings.listen_address, settings.listen_socket, settings.probe_socket)))
    return [("grpc.max_allowed_incoming_connections", connections // listeners)]


def _lifetimes(settings: Settings) -> list[tuple[str, int]]:
    """Returns the options that close connections: half-open, old, or idle ones."""
    return [
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_time)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout)),
        # Without this one the timeout is a minute, whatever the one above says.
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout)),
        # Connections without calls are pinged, too.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age) or _NEVER),
        ("grpc.max_connection_age_grace_ms", _milliseconds(settings.max_connection_age_grace)),
        ("grpc.max_connection_idle_ms", _milliseconds(settings.max_connection_idle) or _NEVER),
    ]


def _milliseconds(seconds: float) -> int:
    return min(round(1000 * seconds), _NEVER)
