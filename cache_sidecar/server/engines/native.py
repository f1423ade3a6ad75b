"""The native engine: a server in Rust that answers hits, hands unary calls to Python as bytes, and proxies all others.

The others, such as streams and large compressed requests, are served by grpc.aio on a private socket. Both host the same
handlers. `native/README.md` describes the path of a call.
"""

import asyncio
import base64
import contextlib
import math
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cache_sidecar import _native
from cache_sidecar._native import (
    Call,
    Client,
    HitPath,
    Lifetimes,
    Memory,
    Method,
    NativeListener,
    Refusal,
    ServiceLimits,
    on_panic,
)
from cache_sidecar.config.roles import Role
from cache_sidecar.config.settings import Settings, split_address
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import RETRY_AFTER, DeadlineExceeded, Overloaded, SettingsError
from cache_sidecar.server import descriptors, status
from cache_sidecar.server.auth import Access
from cache_sidecar.server.call_stats import BOUNDS
from cache_sidecar.server.engine import Check, RecordHit, Refusals
from cache_sidecar.server.engines import aio, selection
from cache_sidecar.server.engines.private_dir import PrivateDir
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.tls import Tls
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.memory.native import NativeL1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.sampler import Sample
from cache_sidecar.tiers.ports import L1

# Calls started in one turn of the event loop: at 20 us each, others wait little more than a millisecond.
MAX_AT_ONCE = 64
# Refusals are prepared, and used in turn, with this many different retry delays.
DELAYS = 8
# Maximum number of calls at grpc.aio, besides the streams of each role and of callers without one.
MAX_PROXIED_CALLS = 256
MAX_ROLES = len(Role) + 1
# Maximum number of ids in a request of the hit path; as in the protos.
MAX_IDS = 500

Metadata = Sequence[tuple[str, str | bytes]]


class Hits(NamedTuple):
    """What is needed to answer a method's hits."""

    dataset: Dataset
    memory: Memory
    freshness_lease: FreshnessLease


class NativeServer:
    """Implements `engine.Engine`."""

    def __init__(self, private: aio.AioServer, clock: Clock, *, folder: PrivateDir, settings: Settings) -> None:
        """`folder` is for the private server's socket, and removed by `stop`."""
        self._private = private
        self._settings = settings
        self._private.callers = self._caller
        self._clock = clock
        self._folder = folder
        self._handlers: dict[str, Any] = {}
        self._one_message: set[str] = set()
        "Paths of streams whose request is one message."
        self._hits: dict[str, Hits] = {}
        self._priorities: dict[str, Priority] = {}
        self._access: Access | None = None
        self._created: NativeListener | None = None
        self._methods: list[Any] = []
        self._on_refusals: dict[str, Callable[[int], None]] = {}
        self._followed: list[tuple[int, Callable[[int], None]]] = []
        "The same by the methods' indexes."
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._max_descriptors = descriptors.of_clients(settings)
        self._is_draining = False
        self._empty = asyncio.Event()

    # As every engine

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Does nothing: generated code also calls `add_registered_method_handlers`, with the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Registers the handlers of a service's methods."""
        self._private.add_registered_method_handlers(service, handlers)
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items() if handler.unary_unary}
        self._one_message |= {f"/{service}/{name}" for name, handler in handlers.items() if handler.unary_stream}

    def check_headers(self, method: str, check: Check) -> None:
        """Has `check` end calls of `SERVICE/METHOD` whose callers may not make them, before their message comes."""
        self._private.check_headers(method, check)

    def add_insecure_port(self, address: str) -> int:
        """Listens on host:port or unix:path, and returns the port. Raises RuntimeError."""
        try:
            if address.startswith("unix:"):
                self._bind_unix(address.removeprefix("unix:"))
                return 1
            return self._bind_tcp(*split_address(address))
        except OSError as error:
            raise RuntimeError(f"cannot listen on {address}: {error}") from None

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """As `add_insecure_port` for host:port, with TLS. Raises SettingsError for an invalid certificate."""
        try:
            served = _native.Tls(*tls.pem)
        except ValueError as error:
            raise SettingsError(f"listen_tls_cert and listen_tls_key cannot be used: {error}") from None
        tls.follow(lambda pem: served.replace(*pem))
        try:
            return self._bind_tcp(*split_address(address), tls=served)
        except OSError as error:
            raise RuntimeError(f"cannot listen on {address}: {error}") from None

    def _bind_tcp(self, host: str, port: int, tls: _native.Tls | None = None) -> int:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for address in dict.fromkeys(str(entry[4][0]) for entry in found):
            port = self._listener.bind_tcp(address, port, tls)  # with port 0 all get the one that the first got
        return port

    def _bind_unix(self, path: str) -> None:
        if Path(path).is_socket():
            Path(path).unlink()
        self._listener.bind_unix(path)

    async def start(self) -> None:
        """Starts serving."""
        self._private.add_insecure_port(f"unix:{self._folder.socket}")
        await self._private.start()
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._on_wakeup)
        self._clock.follow(self._listener.set_time)
        if self._access is not None:
            self._access.follow_tokens(self._listener.set_tokens)
            self._access.follow_clients(self._listener.set_allowed)
            self._access.follow_revocations(self._listener.set_revoked)
        self._listener.start()

    async def stop(self, grace: float | None) -> None:
        """Stops accepting calls, and gives those in progress so many seconds to finish."""
        if self._created is not None:
            self._is_draining = True
            self._created.drain()
            self._check_empty()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace or 0)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._created is not None:
            asyncio.get_running_loop().remove_reader(self._created.fileno())
            await asyncio.to_thread(self._created.close)
        await self._private.stop(0)
        self._folder.remove()

    # Native features

    def answer_hits(
        self, service: str, methods: Iterable[str], *, dataset: Dataset, l1: L1, freshness_lease: FreshnessLease
    ) -> None:
        """Answers hits of these methods without Python, from a dataset's L1, which must be a `NativeL1`.

        To be called before the first port is added.
        """
        assert isinstance(l1, NativeL1)
        hits = Hits(dataset, l1.memory, freshness_lease)
        freshness_lease.follow(partial(l1.memory.set_trusted_until, clock=freshness_lease.clock))
        self._hits |= {f"/{service}/{name}": hits for name in methods}
        self.apply_policies()

    def apply_policies(self) -> None:
        """Applies the policies now in effect."""
        for dataset, memory, _ in self._hits.values():
            policy = dataset.policy()
            is_on = policy.native_hits and not policy.shadow
            hard_ttl = policy.l1_hard_ttl if is_on else -math.inf
            memory.set_rules(policy.l1_soft_ttl, hard_ttl, policy.stale_limit, dataset.sampler.interval())

    def collect_samples(self) -> None:
        """Passes the hits that were sampled on to the samplers of their datasets."""
        for hits in self._hits.values():
            for chosen, version in hits.memory.take_samples():
                hits.dataset.sampler.add(Sample(chosen, version, is_there=True))

    def prioritize(self, name: str, priority: Priority) -> None:
        """Limits the unary calls of a service or a `service/method`; others have no limit. Before the first port."""
        self._priorities[name] = priority

    def follow_refusals(self, path: str, on_refusals: Callable[[int], None]) -> None:
        """Calls `on_refusals` with the number of calls of a method that were refused under overload since the last time."""
        self._on_refusals[path] = on_refusals

    def limit_access(self, access: Access) -> None:
        """Answers hits only to callers that `access` admits. To be called before `start`."""
        self._access = access

    def trace_hits(self, ratio: float, record: RecordHit) -> Callable[[], int]:
        """Keeps the hits that are traced; see `Engine`."""
        self._listener.trace_hits(ratio)
        paths = list(self._handlers)

        def take() -> int:
            hits, lost = self._listener.take_traced()
            for method, traceparent, tracestate, began, ended in hits:
                record(paths[method].removeprefix("/"), traceparent, tracestate, began, ended)
            return lost

        return take

    def hits(self) -> dict[str, tuple[list[int], float]]:
        """Returns, by path, the durations of the calls answered without Python: counts by `call_stats.BOUNDS`, and the sum."""
        return self._listener.hits()

    def refusals(self) -> dict[str, Refusals]:
        """Returns, by path, the unary calls that were refused without Python since the start."""
        counts = zip(self._handlers, self._listener.all_refused(), strict=True)
        return {path: Refusals(*refused) for path, refused in counts if any(refused)}

    def counters(self) -> dict[str, int]:
        """Returns what `native/src/counters.rs` counts."""
        return self._listener.counters()

    # Calls

    @property
    def _listener(self) -> NativeListener:
        """The server in Rust, created when the methods are known."""
        if self._created is None:
            numbers = {name: number for number, name in enumerate(self._priorities)}
            methods = [
                Method(
                    path,
                    service=numbers.get(path[1:], numbers.get(path[1:].partition("/")[0])),
                    hit_path=self._hit_path(path),
                )
                for path in self._handlers
            ]
            self._followed = [
                (number, self._on_refusals[path]) for number, path in enumerate(self._handlers) if path in self._on_refusals
            ]
            self._methods = [aio.of_bytes(handler) for handler in self._handlers.values()]
            overloaded, late = _refusals()
            self._created = NativeListener(
                self._folder.socket,
                max_message=self._settings.max_message_bytes,
                max_proxied=MAX_PROXIED_CALLS + MAX_ROLES * self._settings.max_streams,
                methods=methods,
                one_message=self._one_message,
                services=[self._limits(priority) for priority in self._priorities.values()],
                overloaded=overloaded,
                late=late,
                lifetimes=_lifetimes(self._settings),
                bounds=BOUNDS,
            )
            # A quarter of them is for streams and other calls that are proxied to grpc.aio, on connections within this process.
            clients = min(self._settings.max_connections, self._max_descriptors * 3 // 4)
            self._created.limit_descriptors(self._max_descriptors, clients)
        return self._created

    def _limits(self, priority: Priority) -> ServiceLimits:
        limit, own = self._settings.max_concurrent_calls, self._settings.max_dataset_calls
        return ServiceLimits(
            priority=list(Priority).index(priority), own=min(own, limit), all=math.ceil(limit * priority.value)
        )

    def _caller(self, connection: int) -> Client | None:
        return self._listener.client(connection)

    def _hit_path(self, path: str) -> HitPath | None:
        hits = self._hits.get(path)
        return None if hits is None else _hit_path(path, hits.memory)

    def _on_wakeup(self) -> None:
        calls, given_up = self._listener.take(MAX_AT_ONCE)
        loop = asyncio.get_running_loop()
        for id, number, data, call in calls:
            self._tasks[id] = loop.create_task(self._answer(id, self._methods[number], data, call))
        for id in given_up:
            if task := self._tasks.get(id):
                task.cancel()
        for number, on_refusals in self._followed:
            if count := self._listener.take_refused(number):
                on_refusals(count)
        for hits in self._hits.values():
            hits.freshness_lease.check()
            for wanted in hits.memory.take_wanted():
                hits.dataset.refresh(wanted)
        self.collect_samples()
        self._check_empty()

    def _check_empty(self) -> None:
        if self._is_draining and self._listener.connections() == 0:
            self._empty.set()

    async def _answer(self, id: int, behaviour: Any, data: bytes, call: Call) -> None:
        context = Context(call)
        try:
            reply = await behaviour(data, context)
            if context.code is grpc.StatusCode.OK:
                call.reply(reply, _encode_all(context.initial), _encode_all(context.trailing))
            else:
                context.fail()
        except _Aborted:
            context.fail()
        except asyncio.CancelledError:
            call.fail(grpc.StatusCode.UNAVAILABLE.value[0], "the sidecar is stopping", [], [])
            raise
        except Exception as error:  # noqa: BLE001  # as grpc.aio does
            if context.code is grpc.StatusCode.OK:
                telemetry.log.error("call failed", exc_info=error)
                context.code, context.details = grpc.StatusCode.UNKNOWN, "the method failed"
            context.fail()
        finally:
            del self._tasks[id]


class _Aborted(Exception):
    """A call was aborted; its context has the status."""


class Context:
    """The call as services see it: the part of `grpc.aio.ServicerContext` that both engines implement."""

    __slots__ = ("_call", "code", "details", "initial", "trailing")

    def __init__(self, call: Call) -> None:
        self._call = call
        self.code = grpc.StatusCode.OK
        self.details = ""
        self.initial: Metadata = ()
        self.trailing: Metadata = ()

    def time_remaining(self) -> float | None:
        """Returns the seconds to the deadline; None without one."""
        return self._call.time_remaining()

    def invocation_metadata(self) -> Metadata:
        """Returns the caller's metadata."""
        return tuple(self._call.metadata())

    def header(self, name: str) -> str | None:
        """Returns the value of one that occurs once, else None; faster than `invocation_metadata`."""
        return self._call.header(name)

    def peer(self) -> str:
        """Returns the caller's address, as `ipv4:127.0.0.1:4711` or `unix:` and a process id."""
        return self._call.client().peer()

    def peer_identities(self) -> list[bytes] | None:
        """Returns the alternative names of the caller's certificate, or else its common name; None without one."""
        return self._call.client().peer_identities()

    def peer_identity_key(self) -> str | None:
        """Returns the property of `auth_context` that they are from."""
        return self._call.client().peer_identity_key()

    def auth_context(self) -> dict[str, list[bytes]]:
        """Returns properties of the connection and the caller's certificate, with C-core's names."""
        return self._call.client().auth_context()

    def cancelled(self) -> bool:
        """Returns whether the caller has cancelled."""
        return self._call.is_given_up()

    async def send_initial_metadata(self, initial: Metadata) -> None:
        """Sets the initial metadata, which is sent together with the reply."""
        self.initial = initial

    def set_code(self, code: grpc.StatusCode) -> None:
        """Sets the status; unless it is OK, what the method returns or raises is not sent."""
        self.code = code

    def set_details(self, details: str) -> None:
        """Sets the message of the status."""
        self.details = details

    def set_trailing_metadata(self, trailing: Metadata) -> None:
        """Sets the trailing metadata."""
        self.trailing = trailing

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with a status."""
        self.code, self.details, self.trailing = code, details, trailing_metadata or self.trailing
        raise _Aborted

    def fail(self) -> None:
        """Sends the status."""
        self._call.fail(self.code.value[0], self.details, _encode_all(self.initial), _encode_all(self.trailing))


def _encode_all(metadata: Metadata) -> list[tuple[str, bytes]]:
    """Returns metadata as on the wire: binary values in base64, without padding."""
    return [(key, _encode(key, value.encode() if isinstance(value, str) else value)) for key, value in metadata]


def _encode(key: str, value: bytes) -> bytes:
    return base64.b64encode(value).rstrip(b"=") if key.endswith("-bin") else value


def _hit_path(path: str, memory: Memory) -> HitPath:
    """Returns the fields that the hit path of a method reads and writes, from the method's descriptor."""
    method = descriptor_pool.Default().FindMethodByName(path[1:].replace("/", "."))
    # The first: a request with any other field is left to Python.
    ids = min((field for field in method.input_type.fields if field.type == FieldDescriptor.TYPE_STRING), key=_number)
    (options,) = _fields(method.input_type, "ReadOptions")
    caches = {field.is_repeated: field.number for field in _fields(method.output_type, "CacheMetadata")}
    return HitPath(
        memory,
        ids=ids.number,
        options=options.number,
        cache=caches[False],
        item_caches=caches.get(True, 0),
        max_ids=MAX_IDS if ids.is_repeated else 1,
    )


def _number(field: FieldDescriptor) -> int:
    return int(field.number)


def _fields(message: Descriptor, kind: str) -> Iterable[FieldDescriptor]:
    return [field for field in message.fields if field.message_type and field.message_type.name == kind]


def log_panics() -> None:
    """Logs panics in Rust."""
    on_panic(lambda report: telemetry.log.critical("the native engine panicked", error=report))


def create(settings: Settings, clock: Clock) -> NativeServer:
    """Returns a server with no services and no ports yet."""
    log_panics()
    folder = PrivateDir(selection.place_for_socket(settings.listen_socket or settings.probe_socket))
    return NativeServer(aio.create(settings, is_private=True), clock, folder=folder, settings=settings)


def _refusals() -> tuple[list[Refusal], Refusal]:
    """Returns the statuses of calls refused without Python: for overload, with different delays, and for late calls."""

    def refusal(error: Exception) -> Refusal:
        found = status.of(error)
        details = _encode(status.DETAILS_KEY, found.SerializeToString())
        return Refusal(code=found.code, message=found.message, details=details)

    delays = (RETRY_AFTER * (0.5 + (number + 0.5) / DELAYS) for number in range(DELAYS))
    overloaded = [refusal(Overloaded("calls wait too long", retry_after=delay)) for delay in delays]
    return overloaded, refusal(DeadlineExceeded())


def _lifetimes(settings: Settings) -> Lifetimes:
    return Lifetimes(
        max_age=settings.max_connection_age,
        grace=settings.max_connection_age_grace,
        max_idle=settings.max_connection_idle,
        keepalive_time=settings.keepalive_time,
        keepalive_timeout=settings.keepalive_timeout,
    )
