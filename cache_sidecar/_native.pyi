"""The Rust extension, see native/README.md. It exists if the package was built with cargo."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, final

Pairs: TypeAlias = list[tuple[str, bytes]]

def on_panic(report: Callable[[str], None]) -> None:
    """Reports panics of any thread, with message and location, instead of writing them to standard error."""

@final
class Memory:
    """The L1 of one dataset; `tiers.ports.L1` documents its methods."""

    def __new__(cls, max_bytes: int, max_entries: int, max_tombstones: int) -> Memory: ...
    def get(self, id: str) -> tuple[int, float, bytes | None, float, int, int] | None:
        """Returns version, read_at, value, timer, partition and cost.

        A tuple, because it is on the path of every read in Python: a class with attributes costs three times as much.
        """

    def generation(self, id: str) -> int: ...
    def put(self, id: str, version: int, read_at: float, value: bytes | None, generation: int, timer: float) -> bool: ...
    def drop(self, id: str, version: int) -> None: ...
    def newest(self, id: str) -> int: ...
    def retract(self, id: str, version: int, newest: int) -> None: ...
    def drop_partition(self, partition: int) -> None: ...
    def clear(self) -> None: ...
    def set_trusted(self, partition: int, trusted: bool, now: float) -> None: ...
    def resize(self, max_bytes: int, max_entries: int) -> None: ...
    def set_behind(self, partition: int, behind: bool) -> None: ...
    def set_trusted_until(self, moment: float, clock: Callable[[], float]) -> None:
        """Sets when the freshness lease expires, on that clock; infinity for never."""

    def set_rules(self, soft: float, hard: float, stale_limit: float, sample_every: int) -> None:
        """Sets how long entries are served without Python, in seconds, and one in how many hits is sampled; 0 for none.

        Before the first call, and with `hard` negative infinity, no entry is served.
        """

    def take_wanted(self) -> list[str]:
        """Returns the ids that were served and are due for a refresh, without duplicates."""

    def take_samples(self) -> list[tuple[str, int]]:
        """Returns a random sample of the ids that were served, each with the version served."""

    def follow_reuse(
        self,
        l1: Sequence[tuple[float, float]],
        l1_ttls: Sequence[float],
        l2_ttls: Sequence[float],
        present: int,
        max_keys: int,
    ) -> None:
        """Begins to simulate alternatives; see `tiers/memory/reuse.py`, also for the next five."""

    def configure_reuse(self, entries: float, soft: float, hard: float, l2_ttl: float, slides: bool) -> None: ...
    def note_read(self, id: str, now: float) -> None: ...
    def note_change(self, id: str, version: int, now: float) -> None: ...
    def halve_reuse(self) -> None: ...
    def reuse(self) -> ReuseFigures: ...
    def stats(self) -> MemoryStats: ...

@final
class ReuseFigures:
    """See `Figures` in `tiers/memory/reuse.py`."""

    reads: float
    hits: list[float]
    refreshes: list[float]
    outdated: list[float]
    loads: list[float]
    keys: int
    rate: float
    sampled: int

@final
class MemoryStats:
    """The counters of a memory; `hits` are those served without Python."""

    entries: int
    bytes: int
    fills: int
    refused: int
    evictions: int
    hits: int

@final
class Client:
    """The caller, with the methods of `grpc.aio.ServicerContext`."""

    def peer(self) -> str: ...
    def peer_identities(self) -> list[bytes] | None: ...
    def peer_identity_key(self) -> str | None: ...
    def auth_context(self) -> dict[str, list[bytes]]: ...

@final
class Tls:
    """The certificate of a listener, and the authorities of its clients."""

    def __new__(cls, cert: bytes, key: bytes, client_ca: bytes) -> Tls:
        """The arguments are PEM; without authorities, clients need no certificate. Raises ValueError, as `replace` does."""

    def replace(self, cert: bytes, key: bytes, client_ca: bytes) -> None:
        """Takes effect with the next handshake."""

@final
class Call:
    """A unary call that waits for its answer. Only the first answer counts."""

    def reply(self, message: bytes, initial: Pairs, trailers: Pairs) -> None: ...
    def fail(self, code: int, details: str, initial: Pairs, trailers: Pairs) -> None: ...
    def metadata(self) -> list[tuple[str, str | bytes]]: ...
    def header(self, name: str) -> str | None:
        """Returns the value of a header that occurs once; None without any, and with several. Costs less than `metadata`."""

    def client(self) -> Client: ...
    def time_remaining(self) -> float | None:
        """Returns seconds; None without a deadline."""

    def is_given_up(self) -> bool:
        """Returns whether the caller has cancelled, or its deadline has passed."""

@final
class HitPath:
    """How hits of a method are answered."""

    def __new__(cls, memory: Memory, *, ids: int, options: int, cache: int, item_caches: int, max_ids: int) -> HitPath:
        """`ids`, `options` and `cache` are the numbers of the fields with the ids, the ReadOptions and the CacheMetadata.

        `item_caches` is that of the CacheMetadata of each item of a batch, 0 for a single read; a request has at most
        `max_ids` ids.
        """

@final
class Method:
    """A unary method."""

    def __new__(cls, path: str, *, service: int | None, hit_path: HitPath | None) -> Method:
        """`service` is the index of its limits; None for no limit."""

@final
class ServiceLimits:
    """Limits on the calls in progress of a service."""

    def __new__(cls, *, priority: int, own: int, all: int) -> ServiceLimits:
        """At most `own` calls of the service are in progress, and it gets no more while `all` calls of all services are.

        Priority 0 is the highest. Raises ValueError for an unknown one.
        """

@final
class Refusal:
    """The status of a refused call."""

    def __new__(cls, *, code: int, message: str, details: bytes) -> Refusal:
        """`details` is a google.rpc.Status, encoded for `grpc-status-details-bin`."""

@final
class Lifetimes:
    """When connections are closed; in seconds, 0 for no maximum."""

    def __new__(
        cls, *, max_age: float, grace: float, max_idle: float, keepalive_time: float, keepalive_timeout: float
    ) -> Lifetimes:
        """`grace` follows `max_age`. A ping is sent every `keepalive_time`, to be answered within `keepalive_timeout`."""

@final
class NativeListener:
    """The server."""

    def __new__(
        cls,
        private: str | Path,
        *,
        max_message: int,
        max_proxied: int,
        methods: list[Method],
        one_message: set[str],
        services: list[ServiceLimits],
        overloaded: list[Refusal],
        late: Refusal,
        lifetimes: Lifetimes,
        bounds: tuple[float, ...],
    ) -> NativeListener:
        """`private` is the Unix socket of grpc.aio, and `max_message` the size limit of requests and of hits, in bytes.

        At most `max_proxied` calls are at grpc.aio. `one_message` has the paths of streams whose request is one message.
        `overloaded` are used in turn for calls that waited too long, `late` for those whose deadline cannot be met.
        `bounds`, in seconds and in order, are those of the buckets in which the durations of hits are counted.
        """

    def bind_tcp(self, address: str, port: int, tls: Tls | None = None) -> int:
        """Returns the port. Raises OSError, as `bind_unix` does."""

    def limit_descriptors(self, max: int, max_clients: int) -> None:
        """Limits the file descriptors of all connections, and the number of clients.

        Further clients only get health checks answered, and soon end.
        """

    def set_revoked(self, lists: list[bytes]) -> None:
        """Replaces the revocation lists, verified and in DER; raises ValueError, without any change, if one cannot be parsed.

        From now on, clients whose certificates they contain get no hits, and their connections end.
        """

    def set_tokens(self, tokens: list[bytes], all: list[bytes]) -> None:
        """From now on, answers hits only to calls with one of `tokens`, of the role `app`; Python decides on others.

        Only calls with one of `all` may take their time to send a request.
        """

    def set_allowed(self, names: list[str], all: list[str]) -> None:
        """The same for TCP clients, by the names in their certificates."""

    def bind_unix(self, path: str | Path) -> None: ...
    def start(self) -> None:
        """Serves from a thread of its own."""

    def drain(self) -> None:
        """Stops accepting connections and calls; connections end with their calls."""

    def close(self) -> None:
        """Ends all connections, and waits for the thread."""

    def fileno(self) -> int:
        """Returns a descriptor that is readable when there is something to take, every 250 ms, and when a connection ended."""

    def take(self, limit: int) -> tuple[list[tuple[int, int, bytes, Call]], list[int]]:
        """Returns up to `limit` calls (id, index of the method, message, call), and the ids of those cancelled meanwhile."""

    def take_refused(self, method: int) -> int:
        """Returns how many calls of a method, by its index, were refused without Python since the last time."""

    def trace_hits(self, ratio: float) -> None:
        """From now on, keeps hits whose callers sample their traces, and this share of those whose callers say nothing."""

    def take_traced(self) -> tuple[list[tuple[int, str, str, int, int]], int]:
        """Returns the hits that were kept, and how many there was no room for, since the last time.

        Of each the index of its method, the caller's `traceparent` (empty if the trace begins here), `tracestate`, and when it
        began and ended, in nanoseconds since the epoch.
        """

    def all_refused(self) -> list[list[int]]:
        """Returns how many calls were refused without Python, by the method's index: overloaded, too late, and unanswered."""

    def connections(self) -> int:
        """Returns how many connections are open."""

    def client(self, connection: int) -> Client | None:
        """Returns the client of a connection, by its number; None when it is closed."""

    def set_time(self, now: float) -> None:
        """Sets the time, in seconds since the epoch, for tests."""

    def counters(self) -> dict[str, int]:
        """Returns the counters of `native/src/counters.rs`, the calls that wait, and what `room.rs` counts, in bytes."""

    def hits(self) -> dict[str, tuple[list[int], float]]:
        """Returns the durations of the calls answered from memory, by path: counts of the buckets, and the sum in seconds."""
