"""`cache-sidecar verify`: compares everything that Redis holds with PostgreSQL.

Rows change during the comparison, and PostgreSQL does not record when they were committed. So entries that differ are compared
again after the staleness bound: only one that still differs and has not changed in Redis has been outdated for longer.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cache_sidecar.config import policy
from cache_sidecar.config.policy import Policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import ServerUnreachable, SettingsError, Tier, TierFailed
from cache_sidecar.datasets import ALL, DatasetSpec
from cache_sidecar.store.database import Database
from cache_sidecar.store.versions import versions
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.scan import PAGE, KeyScan, Kind, StoredKey
from cache_sidecar.tiers.resilience.guard import Guard

# Maximum number of differences kept for the second comparison; when it is reached, they are compared at once, to bound memory.
MAX_DOUBTS = 10_000
# Maximum number of differences reported with their IDs.
SHOWN = 5

Progress = Callable[[str, int], None]
"""Called with the name of a dataset and the number of keys read so far."""


class Verdict(StrEnum):
    """How an entry in Redis compares with PostgreSQL."""

    SAME = "same"
    OLDER = "older"
    NEWER = "newer"
    MISSING = "missing in PostgreSQL"
    MARK = "marks"
    UNREADABLE = "unreadable"


_DIFFERENCES = frozenset({Verdict.OLDER, Verdict.NEWER, Verdict.MISSING})


@dataclass
class Report:
    """The result for one dataset."""

    dataset: str
    bound: float
    "The staleness bound in seconds."
    found: Counter[Verdict] = field(default_factory=Counter)
    overdue: Counter[Verdict] = field(default_factory=Counter)
    "Entries that differed for longer than the bound."
    shown: list[str] = field(default_factory=list)
    "Descriptions of some of them."

    def lines(self) -> Iterator[str]:
        """Yields the lines to print."""
        counts = ", ".join(f"{self.found[verdict]:,} {verdict}" for verdict in Verdict)
        yield f"{self.dataset}: {self.found.total():,} keys: {counts}"
        if self.overdue:
            counts = ", ".join(f"{self.overdue[verdict]:,} {verdict}" for verdict in Verdict if self.overdue[verdict])
            yield f"  different for more than {self.bound:g} s: {counts}"
            yield from (f"  {line}" for line in self.shown)


async def verify(
    settings: Settings,
    datasets: Sequence[str],
    *,
    progress: Progress,
    wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    specs: Sequence[DatasetSpec] = ALL,
    default_policy: Policy | None = None,
) -> list[Report]:
    """Compares datasets, or all if none is named. Raises SettingsError for an unknown one, and ServerUnreachable."""
    known = {spec.name: spec for spec in specs}
    if unknown := next((name for name in datasets if name not in known), None):
        raise SettingsError(f"there is no dataset {unknown!r}; there are: {', '.join(known)}")
    bounds = policy.load(settings.policy_file, default_policy)
    connection = RedisClient(settings)
    sweep = KeyScan(connection, KeyNames(settings.namespace), macs=Macs.of(settings))
    databases = {dsn: _database(settings, dsn) for dsn in settings.databases()}
    try:
        for database in databases.values():
            await database.open()
        reports = []
        for name in datasets or known:
            spec = known[name]
            report = Report(name, bounds[name].staleness_bound)
            await _Comparison(sweep, databases[settings.database(spec.role)], spec, report, wait).run(progress)
            reports.append(report)
    except TierFailed as error:
        raise ServerUnreachable(str(error)) from None
    finally:
        await connection.close()
        for database in databases.values():
            await database.close()
    return reports


def _database(settings: Settings, dsn: str) -> Database:
    timeout = settings.postgres_timeout
    guard = Guard(Tier.STORE, timeout=timeout, max_running=1, max_waiting=1)
    return Database(dsn, size=1, timeout=timeout, prepare=settings.postgres_prepare, guard=guard)


class _Comparison:
    """The comparison of one dataset."""

    def __init__(
        self, sweep: KeyScan, database: Database, spec: DatasetSpec, report: Report, wait: Callable[[float], Awaitable[None]]
    ) -> None:
        self._sweep = sweep
        self._database = database
        self._spec = spec
        self._report = report
        self._wait = wait
        self._doubts: list[StoredKey] = []

    async def run(self, progress: Progress) -> None:
        async for page in self._sweep.pages(self._report.dataset):
            for held, verdict, _ in await self._compare(page):
                self._report.found[verdict] += 1
                if verdict in _DIFFERENCES:
                    self._doubts.append(held)
            progress(self._report.dataset, self._report.found.total())
            if len(self._doubts) >= MAX_DOUBTS:
                await self._compare_again()
        await self._compare_again()

    async def _compare(self, page: Sequence[StoredKey]) -> list[tuple[StoredKey, Verdict, int | None]]:
        """Compares a page with PostgreSQL.

        PostgreSQL is read after Redis: in the other order, a write in between would make the entry in Redis look newer.
        """
        stored = await versions(self._database, self._spec.table, [held.id for held in page])
        return [(held, self._verdict_on(held, stored.get(held.id)), stored.get(held.id)) for held in page]

    def _verdict_on(self, held: StoredKey, version: int | None) -> Verdict:
        verdict = _verdict(held, version)
        is_made = self._spec.values_without_rows and held.version == 0
        return Verdict.SAME if verdict is Verdict.MISSING and is_made else verdict

    async def _compare_again(self) -> None:
        if not self._doubts:
            return
        await self._wait(self._report.bound)
        doubts, self._doubts = self._doubts, []
        for first in range(0, len(doubts), PAGE):
            before = set(doubts[first : first + PAGE])
            now = await self._sweep.read(self._report.dataset, [held.id for held in before])
            for held, verdict, version in await self._compare([held for held in now if held in before]):
                if verdict in _DIFFERENCES:
                    self._report.overdue[verdict] += 1
                    self._show(held, version)

    def _show(self, held: StoredKey, version: int | None) -> None:
        if self._spec.is_private or len(self._report.shown) >= SHOWN:
            return
        redis = "none" if held.kind is Kind.NONE else f"version {held.version}"
        postgres = "none" if version is None else f"version {version}"
        self._report.shown.append(f"{held.id!r}: {redis} in Redis, {postgres} in PostgreSQL")


def _verdict(held: StoredKey, version: int | None) -> Verdict:
    if held.kind is Kind.MARK:
        return Verdict.MARK
    if held.kind is Kind.UNREADABLE:
        return Verdict.UNREADABLE
    if version is None:
        return Verdict.SAME if held.kind is Kind.NONE else Verdict.MISSING
    if version == held.version:
        return Verdict.SAME
    return Verdict.OLDER if held.version < version else Verdict.NEWER
