"""What the clients of a consistency run share: calling, counting, and repeating calls of unknown outcome."""

import asyncio
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc

from cache_sidecar.v1.cache_pb2 import Source
from tests.consistency.rulebook import Rulebook
from tests.consistency.rules.versions import Read
from tests.support.launch import without_retries

CALM = "calm"
READ_SECONDS, WRITE_SECONDS = 2.0, 5.0
# Seconds between two attempts of a client; and after which the whole run is aborted, as nothing recovers.
AGAIN, GIVEN_UP = 0.2, 180.0
# Statuses after which a call may have taken effect.
UNKNOWN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


@dataclass(kw_only=True)
class Tally:
    """The outcomes of the calls for one dataset during one fault, or none."""

    calls: int = 0
    failed: int = 0
    reads: int = 0
    "Products, carts, stocks or sessions in replies."
    stale: int = 0
    "Of those, marked stale."
    writes: int = 0
    "Acknowledged."
    failed_writes: int = 0
    "Attempts."
    behind: float = 0.0
    "Seconds that a read was behind what was known when it was called, at most; of those not marked stale."
    stale_behind: float = 0.0
    "The same of those marked stale."
    reasons: Counter[str] = field(default_factory=Counter)
    "Calls that failed, by status."

    def add(self, other: "Tally") -> None:
        """Adds the counts of another one."""
        for name in ("calls", "failed", "reads", "stale", "writes", "failed_writes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.behind = max(self.behind, other.behind)
        self.stale_behind = max(self.stale_behind, other.stale_behind)
        self.reasons.update(other.reasons)

    def took(self, *, stale: bool, behind: float) -> None:
        """Counts a read."""
        self.reads += 1
        if stale:
            self.stale += 1
            self.stale_behind = max(self.stale_behind, behind)
        else:
            self.behind = max(self.behind, behind)


class Outcome(NamedTuple):
    """The outcome of a call."""

    reply: Any
    "None when it failed."
    error: grpc.aio.AioRpcError | None
    called: float
    replied: float
    process: int
    "The process that replied: a unique number. Negative if it is not known which of two it was."
    tally: Tally
    "Where to count it."
    attempts: int = 1

    def acknowledged(self) -> dict[str, Any]:
        """Returns what the rule of versions wants to know of a write."""
        return {"sidecar": self.process, "at": self.replied, "called": self.called, "replied": self.replied}

    @property
    def code(self) -> grpc.StatusCode:
        """The status."""
        return grpc.StatusCode.OK if self.error is None else self.error.code()


class Load:
    """All clients of all sidecars."""

    def __init__(
        self, rules: Rulebook, *, dsn: str, sidecars: Sequence[str], incarnations: Sequence[int], idle: int = 0
    ) -> None:
        """`sidecars` are addresses, of which the last `idle` are called now and then; `incarnations` gives each one's process a
        number that no other one had."""
        self.rules = rules
        self.dsn = dsn
        self.tallies: dict[str, dict[str, Tally]] = {}
        "What happened, by fault and dataset."
        self.seconds: Counter[str] = Counter()
        "How long each fault lasted."
        self.sessions: deque[str] = deque(maxlen=300)
        "The session_ids of late, for who asks about any."
        self.carts: deque[int] = deque(maxlen=40)
        "The carts that were changed of late."
        self.visits = asyncio.Event()
        "Set when the idle sidecars are to be called now."
        self.busy = range(len(sidecars) - idle)
        self.idle = range(len(sidecars) - idle, len(sidecars))
        self._sidecars = sidecars
        self._incarnations = incarnations
        self._tally: dict[str, Tally] = defaultdict(Tally)
        self._stopping = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether clients are to finish what they are at."""
        return self._stopping.is_set()

    async def pause(self, seconds: float) -> bool:
        """Waits, and returns whether clients should continue."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return not self.is_stopping

    @contextmanager
    def during(self, fault: str) -> Iterator[None]:
        """Counts calls from now on under the name of a fault."""
        log = self.rules.log
        before, self._tally = (self._tally, log.during), self.tallies.setdefault(fault, defaultdict(Tally))
        log.during = fault
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[fault] += time.monotonic() - start
            self._tally, log.during = before

    async def run(self, clients: Sequence[Callable[[], Coroutine[Any, Any, None]]], body: Awaitable[None]) -> None:
        """Runs the clients while the body runs, and waits until each knows the outcome of its calls."""
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client())
            try:
                await body
            finally:
                self._stopping.set()

    def channel(self, sidecar: int) -> grpc.aio.Channel:
        """Opens a channel to a sidecar."""
        return without_retries(self._sidecars[sidecar])

    def incarnation(self, sidecar: int) -> int:
        """Returns the number of a sidecar's present process."""
        return self._incarnations[sidecar]

    async def call(self, dataset: str, sidecar: int, method: Any, request: Any, *, is_write: bool = False) -> Outcome:
        """Calls a sidecar once."""
        tally, process = self._tally[dataset], self.incarnation(sidecar)
        tally.calls += 1
        reply, error = None, None
        called = time.monotonic()
        try:
            reply = await method(request, timeout=WRITE_SECONDS if is_write else READ_SECONDS)
        except grpc.aio.AioRpcError as failed:
            error = failed
            if failed.code() in UNKNOWN:
                tally.failed += 1
                tally.failed_writes += is_write
                tally.reasons[failed.code().name] += 1
        replied = time.monotonic()
        tally.writes += is_write and error is None
        return Outcome(reply, error, called, replied, process if process == self.incarnation(sidecar) else -1, tally)

    async def until_known(
        self, dataset: str, methods: Sequence[Any], request: Any, chance: random.Random, *, first: int | None = None
    ) -> Outcome:
        """Repeats a write, on any sidecar that is not idle, until it is known what became of it, as a client does that wants to
        know. The call of the outcome is the first one. `methods` are the sidecars' own; `first` is the sidecar asked first.
        """
        sidecar = chance.choice(self.busy) if first is None else first
        called, attempts = time.monotonic(), 1
        while (outcome := await self.call(dataset, sidecar, methods[sidecar], request, is_write=True)).code in UNKNOWN:
            if outcome.replied - called > GIVEN_UP:
                raise TimeoutError(f"nobody knows what became of a {type(request).__name__}: {outcome.error}")
            await asyncio.sleep(AGAIN)
            sidecar = chance.choice(self.busy)
            attempts += 1
        return outcome._replace(called=called, attempts=attempts)


def read_of(outcome: Outcome, key: int, version: int, cache: Any, state: Hashable = None) -> Read:
    """Returns what one resource in a reply says, to be judged; `cache` is its metadata."""
    age = cache.age.seconds + cache.age.nanos / 1e9
    source = Source.Name(cache.source).removeprefix("SOURCE_").lower()
    return Read(outcome.process, key, outcome.called, version, age, cache.stale, state, source)
