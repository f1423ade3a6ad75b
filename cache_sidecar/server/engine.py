"""What an engine has to implement: a part of `grpc.aio.Server`, and some hooks for native features."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cache_sidecar.server.auth import Access
from cache_sidecar.server.limiter import Priority
from cache_sidecar.server.tls import Tls
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import L1

Check = Callable[[Any], Awaitable[object]]
"""A function of a call's context that ends the call with a status, by its headers, or returns."""


class RecordHit(Protocol):
    """Makes a span of a call that was answered without Python."""

    def __call__(self, method: str, traceparent: str, tracestate: str, began: int, ended: int, /) -> None:
        """`traceparent` is the caller's, or empty; times are in nanoseconds since the epoch."""
        ...


class Refusals(NamedTuple):
    """Calls of a method that an engine has refused without its handler."""

    overloaded: int
    late: int
    "Their deadline could not be met."
    unanswered: int
    "Python took no calls."


class Engine(Protocol):
    """A server, at first without services and ports; see `engines/`. All else is added before the first port."""

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Does nothing: generated code also calls `add_registered_method_handlers`, with the same methods."""
        ...

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Registers the handlers of a service's methods."""
        ...

    def check_headers(self, method: str, check: Check) -> None:
        """Has `check` end calls of `SERVICE/METHOD` whose callers may not make them, before their message comes."""
        ...

    def prioritize(self, name: str, priority: Priority) -> None:
        """Sets the priority under overload of a service's calls, or of those of a `service/method`."""
        ...

    def answer_hits(
        self, service: str, methods: Iterable[str], *, dataset: Dataset, l1: L1, freshness_lease: FreshnessLease
    ) -> None:
        """Answers hits of these methods of a service directly from a dataset's L1, if the engine can."""
        ...

    def follow_refusals(self, path: str, on_refusals: Callable[[int], None]) -> None:
        """Calls `on_refusals` with the number of a unary method's calls that the engine has refused without its handler."""
        ...

    def limit_access(self, access: Access) -> None:
        """Restricts direct answers to the callers that `access` admits."""
        ...

    def apply_policies(self) -> None:
        """Applies the policies now in effect."""
        ...

    def trace_hits(self, ratio: float, record: RecordHit) -> Callable[[], int]:
        """From now on, keeps the hits without Python that are traced: as the caller decided, or else with this probability.

        To be called when all ports are added. Returns a function that records those kept, and returns how many were lost.
        """
        ...

    def collect_samples(self) -> None:
        """Passes the hits that were sampled on to the samplers of their datasets; calls do so, too, from time to time."""
        ...

    def hits(self) -> Mapping[str, tuple[Sequence[int], float]]:
        """Returns, by path, the durations of the calls answered without Python: counts by `call_stats.BOUNDS`, and the sum."""
        ...

    def refusals(self) -> Mapping[str, Refusals]:
        """Returns, by path, the unary calls that the engine has refused without their handlers since the start."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Returns what the engine counts besides."""
        ...

    def add_insecure_port(self, address: str) -> int:
        """Listens on host:port or unix:path, and returns the port. Raises RuntimeError."""
        ...

    def add_secure_port(self, address: str, tls: Tls) -> int:
        """As `add_insecure_port` for host:port, with TLS. Raises SettingsError for an invalid certificate."""
        ...

    async def start(self) -> None:
        """Starts serving."""
        ...

    async def stop(self, grace: float | None) -> None:
        """Stops accepting calls, and gives those in progress so many seconds to finish."""
        ...
