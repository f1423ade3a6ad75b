"""The native engine: a server in Rust, that answers hits itself, hands unary calls over as bytes, and passes the rest on.

The rest, such as streams and compressed requests, is served by grpc.aio on a socket that nobody else can reach. Both host the
same handlers. `native/README.md` shows a call's way.
"""

import asyncio
import base64
import contextlib
import math
import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cache_sidecar import _native
from cache_sidecar._native import Call, Client, Front, Memory, on_panic
from cache_sidecar.config.settings import Settings, split_address
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import RETRY_AFTER, DeadlineExceeded, Overloaded, SettingsError
from cache_sidecar.server import status
from cache_sidecar.server.auth import Access
from cache_sidecar.server.engines import aio, selection
from cache_sidecar.server.engines.private_dir import PrivateFolder
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.tls import Tls
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.memory.native import NativeL1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.sampler import Sample
from cache_sidecar.tiers.ports import L1

# Calls begun in one turn of the event loop: with 20 us each, others wait little more than a millisecond.
MAX_AT_ONCE = 64
# Refusals are made before, and given in turn: with so many different delays around the usual one.
DELAYS = 8
# Ids that a request of the hit path may name; as in the protos.
MAX_IDS = 500

Metadata = Sequence[tuple[str, str | bytes]]


class Hits(NamedTuple):
    """What answers a method's hits."""

    dataset: Dataset
    memory: Memory
    freshness_lease: FreshnessLease


class NativeServer:
    """See `engine.Engine`."""

    def __init__(self, private: aio.AioServer, clock: Clock, *, folder: PrivateFolder, settings: Settings) -> None:
        """`folder` is for the private server's socket; it is removed at the end."""
        self._private = private
        self._settings = settings
        self._private.callers = self._caller
        self._clock = clock
        self._folder = folder
        self._handlers: dict[str, Any] = {}
        self._hits: dict[str, Hits] = {}
        self._priorities: dict[str, Priority] = {}
        self._access: Access | None = None
        self._made: Front | None = None
        self._methods: list[Any] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._is_draining = False
        self._empty = asyncio.Event()

    # As every engine

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Does nothing: generated code calls it beside `add_registered_method_handlers`, with the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Registers the handlers of a service's methods."""
        self._private.add_registered_method_handlers(service, handlers)
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items() if handler.unary_unary}

    def add_insecure_port(self, address: str) -> int:
        """Listens on host:port or unix:path, and returns the port. Raises RuntimeError when that is not possible."""
        try:
            if address.startswith("unix:"):
                self._bind_unix(address.removeprefix("unix:"))
                return 1
            return self._bind_tcp(*split_address(address))
        except OSError as error:
            raise RuntimeError(f"cannot listen on {address}: {error}") from None

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """As `add_insecure_port` for host:port, with TLS. Raises SettingsError when the certificate cannot be used."""
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
            port = self._front.bind_tcp(address, port, tls)  # with port 0 all get the one that the first got
        return port

    def _bind_unix(self, path: str) -> None:
        if Path(path).is_socket():
            Path(path).unlink()
        self._front.bind_unix(path)

    async def start(self) -> None:
        """Serves."""
        self._private.add_insecure_port(f"unix:{self._folder.socket}")
        await self._private.start()
        asyncio.get_running_loop().add_reader(self._front.fileno(), self._rung)
        self._clock.follow(self._front.set_time)
        if self._access is not None:
            self._access.follow(self._front.set_tokens)
            if self._access.allowed_clients:
                self._front.set_allowed(list(self._access.allowed_clients))
        self._front.start()

    async def stop(self, grace: float | None) -> None:
        """Lets calls in progress finish within so many seconds; nothing new begins."""
        if self._made is not None:
            self._is_draining = True
            self._made.drain()
            self._check_empty()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace or 0)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._made is not None:
            asyncio.get_running_loop().remove_reader(self._made.fileno())
            await asyncio.to_thread(self._made.close)
        await self._private.stop(0)
        self._folder.remove()

    # What the native engine has beside

    def answer_hits(
        self, service: str, methods: Iterable[str], *, dataset: Dataset, l1: L1, freshness_lease: FreshnessLease
    ) -> None:
        """Has hits of these methods of a service answered without Python, from a dataset's L1, which is a `NativeL1`.

        To be said before the first port is added.
        """
        assert isinstance(l1, NativeL1)
        hits = Hits(dataset, l1.memory, freshness_lease)
        freshness_lease.follow(partial(l1.memory.set_trusted_until, clock=freshness_lease.clock))
        self._hits |= {f"/{service}/{name}": hits for name in methods}
        self.policy_changed()

    def policy_changed(self) -> None:
        """Takes the policies in force from now on."""
        for dataset, memory, _ in self._hits.values():
            policy = dataset.policy()
            is_on = policy.native_hits and not policy.shadow
            hard_ttl = policy.l1_hard_ttl if is_on else -math.inf
            memory.set_rules(policy.l1_soft_ttl, hard_ttl, policy.stale_limit, policy.inspect_every)

    def prioritize(self, service: str, priority: Priority) -> None:
        """Bounds a service's unary calls; others are never bounded. To be said before the first port is added."""
        self._priorities[service] = priority

    def limit_access(self, access: Access) -> None:
        """Has hits answered to those only who may call. To be said before `start`."""
        self._access = access

    def counters(self) -> dict[str, int]:
        """Returns what `native/src/counters.rs` counts."""
        return self._front.counters()

    # Calls

    @property
    def _front(self) -> Front:
        """The server in Rust, made when the methods are known."""
        if self._made is None:
            numbers = {service: number for number, service in enumerate(self._priorities)}
            paths = [(path, self._from_memory(path), numbers.get(path[1:].partition("/")[0])) for path in self._handlers]
            self._methods = [aio.of_bytes(handler) for handler in self._handlers.values()]
            self._made = Front(
                self._folder.socket,
                self._settings.max_message_bytes,
                paths,
                [self._bounds(priority) for priority in self._priorities.values()],
                _refusals(),
                _lifetimes(self._settings),
            )
        return self._made

    def _bounds(self, priority: Priority) -> tuple[int, int, int]:
        settings = self._settings
        most = min(settings.max_dataset_calls, settings.max_concurrent_calls)
        return list(Priority).index(priority), most, math.ceil(settings.max_concurrent_calls * priority.value)

    def _caller(self, connection: int) -> Client | None:
        return self._front.client(connection)

    def _from_memory(self, path: str) -> tuple[Memory, int, int, int, int, int] | None:
        hits = self._hits.get(path)
        return None if hits is None else (hits.memory, *_shape(path))

    def _rung(self) -> None:
        calls, given_up = self._front.take(MAX_AT_ONCE)
        loop = asyncio.get_running_loop()
        for id, number, data, call in calls:
            self._tasks[id] = loop.create_task(self._answer(id, self._methods[number], data, call))
        for id in given_up:
            if task := self._tasks.get(id):
                task.cancel()
        for hits in self._hits.values():
            hits.freshness_lease.check()
            for wanted in hits.memory.take_wanted():
                hits.dataset.refresh(wanted)
            for chosen, version in hits.memory.take_samples():
                hits.dataset.sampler.add(Sample(chosen, version, is_there=True))
        self._check_empty()

    def _check_empty(self) -> None:
        if self._is_draining and self._front.connections() == 0:
            self._empty.set()

    async def _answer(self, id: int, behaviour: Any, data: bytes, call: Call) -> None:
        context = Context(call)
        try:
            reply = await behaviour(data, context)
            if context.code is grpc.StatusCode.OK:
                call.reply(reply, _sent(context.initial), _sent(context.trailing))
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
    """A call was ended with a status, which its context holds."""


class Context:
    """What a service sees of a call: of `grpc.aio.ServicerContext` what both engines have."""

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
        """Returns what the caller sent along."""
        return tuple(self._call.metadata())

    def peer(self) -> str:
        """Returns the caller's address, as `ipv4:127.0.0.1:4711` or `unix:` and a process id."""
        return self._call.client().peer()

    def peer_identities(self) -> list[bytes] | None:
        """Returns the alternative names of the caller's certificate, or else its common name; None without one."""
        return self._call.client().peer_identities()

    def peer_identity_key(self) -> str | None:
        """Returns which property of `auth_context` they are."""
        return self._call.client().peer_identity_key()

    def auth_context(self) -> dict[str, list[bytes]]:
        """Returns what is known of the connection and of the caller's certificate, by C-core's names of properties."""
        return self._call.client().auth_context()

    def cancelled(self) -> bool:
        """Says whether the caller has given up."""
        return self._call.is_given_up()

    async def send_initial_metadata(self, initial: Metadata) -> None:
        """Sets what is sent ahead of the reply, and together with it."""
        self.initial = initial

    def set_code(self, code: grpc.StatusCode) -> None:
        """Sets the status; with any but OK, what the method returns or raises is not sent."""
        self.code = code

    def set_details(self, details: str) -> None:
        """Sets the message of the status."""
        self.details = details

    def set_trailing_metadata(self, trailing: Metadata) -> None:
        """Sets what is sent behind the reply."""
        self.trailing = trailing

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with an error."""
        self.code, self.details, self.trailing = code, details, trailing_metadata or self.trailing
        raise _Aborted

    def fail(self) -> None:
        """Answers with the status."""
        self._call.fail(self.code.value[0], self.details, _sent(self.initial), _sent(self.trailing))


def _sent(metadata: Metadata) -> list[tuple[str, bytes]]:
    """Returns metadata as it travels: binary values in base64, without padding."""
    return [(key, _travelling(key, value.encode() if isinstance(value, str) else value)) for key, value in metadata]


def _travelling(key: str, value: bytes) -> bytes:
    return base64.b64encode(value).rstrip(b"=") if key.endswith("-bin") else value


def _shape(path: str) -> tuple[int, int, int, int, int]:
    """Returns the numbers of the fields that the hit path reads and writes, and how many ids it takes; see `_native.Hits`."""
    method = descriptor_pool.Default().FindMethodByName(path[1:].replace("/", "."))
    (ids,) = (field for field in method.input_type.fields if field.type == FieldDescriptor.TYPE_STRING)
    (options,) = _fields(method.input_type, "ReadOptions")
    caches = {field.is_repeated: field.number for field in _fields(method.output_type, "CacheMetadata")}
    return ids.number, options.number, caches[False], caches.get(True, 0), MAX_IDS if ids.is_repeated else 1


def _fields(message: Descriptor, kind: str) -> Iterable[FieldDescriptor]:
    return [field for field in message.fields if field.message_type and field.message_type.name == kind]


def hear_panics() -> None:
    """Has panics in Rust logged."""
    on_panic(lambda what: telemetry.log.critical("the native engine panicked", error=what))


def create(settings: Settings, clock: Clock) -> NativeServer:
    """Returns a server with no services and no ports yet."""
    hear_panics()
    folder = PrivateFolder(selection.place_for_socket(settings.listen_socket))
    return NativeServer(aio.create(settings, is_private=True), clock, folder=folder, settings=settings)


def _refusals() -> tuple[list[tuple[int, str, bytes]], tuple[int, str, bytes]]:
    """Returns the statuses of calls that Python never sees."""

    def travelling(error: Exception) -> tuple[int, str, bytes]:
        made = status.of(error)
        return made.code, made.message, _travelling(status.DETAILS_KEY, made.SerializeToString())

    delays = (RETRY_AFTER * (0.5 + (number + 0.5) / DELAYS) for number in range(DELAYS))
    overloaded = [travelling(Overloaded("calls wait longer than they may", retry_after=delay)) for delay in delays]
    return overloaded, travelling(DeadlineExceeded())


def _lifetimes(settings: Settings) -> tuple[float, float, float, float, float]:
    """Returns when connections end, see `_native.Lifetimes`."""
    return (
        settings.max_connection_age,
        settings.max_connection_age_grace,
        settings.max_connection_idle,
        settings.keepalive_time,
        settings.keepalive_timeout,
    )
