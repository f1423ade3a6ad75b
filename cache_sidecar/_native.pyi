"""The Rust extension, see native/README.md. It is there when the package was built with cargo."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, final

Pairs: TypeAlias = list[tuple[str, bytes]]

def on_panic(report: Callable[[str], None]) -> None:
    """Has panics of any thread told, with what and where, instead of written to standard error."""

@final
class Memory:
    """The memory of one dataset; what its methods do is written at `tiers.ports.L1`."""

    def __new__(cls, max_bytes: int, max_entries: int, max_tombstones: int) -> Memory: ...
    def get(self, id: str) -> tuple[int, float, bytes | None, float, int, int] | None:
        """Returns version, read_at, value, timer, partition and cost."""

    def generation(self, id: str) -> int: ...
    def put(self, id: str, version: int, read_at: float, value: bytes | None, generation: int, timer: float) -> bool: ...
    def drop(self, id: str, version: int) -> None: ...
    def drop_partition(self, partition: int) -> None: ...
    def clear(self) -> None: ...
    def set_trusted(self, partition: int, trusted: bool, now: float) -> None: ...
    def resize(self, max_bytes: int, max_entries: int) -> None: ...
    def set_behind(self, partition: int, behind: bool) -> None: ...
    def set_trusted_until(self, moment: float, clock: Callable[[], float]) -> None:
        """Says when trust ends by itself, on that clock; infinity for never."""

    def set_rules(self, soft: float, hard: float, stale_limit: float, sample_every: int) -> None:
        """Says how long entries are served without Python, in seconds, and one of how many hits is a sample; 0 for none.

        As made, and with `hard` negative infinity, none is served.
        """

    def take_wanted(self) -> list[str]:
        """Returns the ids that were served and are due for a refresh, each once."""

    def take_samples(self) -> list[tuple[str, int]]:
        """Returns ids that were served, each with the version, chosen at random to be compared with what is so."""

    def stats(self) -> tuple[int, int, int, int, int, int]:
        """Returns entries, bytes, fills, refused, evictions, and the hits served without Python."""

@final
class Client:
    """Who calls, in the words of `grpc.aio.ServicerContext`."""

    def peer(self) -> str: ...
    def peer_identities(self) -> list[bytes] | None: ...
    def peer_identity_key(self) -> str | None: ...
    def auth_context(self) -> dict[str, list[bytes]]: ...

@final
class Tls:
    """What a listener shows, and whom it trusts."""

    def __new__(cls, cert: bytes, key: bytes, client_ca: bytes) -> Tls:
        """Takes PEM; without authorities clients need no certificate. Raises ValueError, as `replace` does."""

    def replace(self, cert: bytes, key: bytes, client_ca: bytes) -> None:
        """Counts from the next handshake on."""

@final
class Call:
    """A unary call that waits for its answer. Only the first answer counts."""

    def reply(self, message: bytes, initial: Pairs, trailers: Pairs) -> None: ...
    def fail(self, code: int, details: str, initial: Pairs, trailers: Pairs) -> None: ...
    def metadata(self) -> list[tuple[str, str]]: ...
    def client(self) -> Client: ...
    def time_remaining(self) -> float | None:
        """Returns seconds; None without a deadline."""

    def is_given_up(self) -> bool:
        """Says whether the caller is gone, or its deadline has passed."""

Hits: TypeAlias = tuple[Memory, int, int, int, int, int]
"""An L1; the numbers of the fields with the ids, the ReadOptions, the CacheMetadata, the CacheMetadata of each item (0 for
none); and how many ids a request may name."""

Bounds: TypeAlias = tuple[int, int, int]
"""A service's priority, 0 for the highest; its calls in progress at once; those of all services at which it gets no more."""

Status: TypeAlias = tuple[int, str, bytes]
"""Code, message, and google.rpc.Status as it travels."""

Lifetimes: TypeAlias = tuple[float, float, float, float, float]
"""A connection's maximum age, the grace after it, its maximum idle time, how often a silent one is asked whether it is alive,
and how long it has to say so; seconds, 0 for no maximum."""

@final
class Front:
    """The server."""

    def __new__(
        cls,
        private: str | Path,
        max_message: int,
        methods: list[tuple[str, Hits | None, int | None]],
        services: list[Bounds],
        refusals: tuple[list[Status], Status],
        lifetimes: Lifetimes,
    ) -> Front:
        """Takes the unix socket of grpc.aio, the bytes a request may have, and the paths of the unary methods.

        Beside a path stands the number of its service, or None when its calls are never bounded. The refusals are of calls that
        wait too long, used in turn, and of those whose deadline cannot be met.
        """

    def bind_tcp(self, address: str, port: int, tls: Tls | None = None) -> int:
        """Returns the port. Raises OSError, as `bind_unix` does."""

    def set_tokens(self, tokens: list[bytes]) -> None:
        """Has hits answered from now on only to calls with one of these tokens; Python refuses the others."""

    def set_allowed(self, names: list[str]) -> None:
        """The same for clients of TCP that connect from now on, by names in their certificates."""

    def bind_unix(self, path: str | Path) -> None: ...
    def start(self) -> None:
        """Serves from a thread of its own."""

    def drain(self) -> None:
        """Accepts no more connections and calls; connections end with their calls."""

    def close(self) -> None:
        """Ends everything, and waits for the thread."""

    def fileno(self) -> int:
        """Returns what is readable when there is something to take, every 250 ms, and when a connection has ended."""

    def take(self, limit: int) -> tuple[list[tuple[int, int, bytes, Call]], list[int]]:
        """Returns up to so many calls (id, number of the method, message, call), and the ids of those given up since."""

    def calls(self) -> dict[str, tuple[int, int, int]]:
        """Returns, by path, how many calls wait, how many are in progress, and how many may be."""

    def connections(self) -> int:
        """Returns how many are open."""

    def client(self, connection: int) -> Client | None:
        """Returns the client of a connection, by its number; None when it is closed."""

    def set_time(self, now: float) -> None:
        """Sets the time, in seconds since the epoch; the machine's counts until then."""

    def counters(self) -> dict[str, int]:
        """Returns what `native/src/counters.rs` names."""

    def hits(self) -> dict[str, tuple[int, list[int], float]]:
        """Returns, by path, the calls answered from memory, how many took up to 2**n microseconds, and seconds in all."""
