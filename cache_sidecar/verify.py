"""`cache-sidecar verify`: compares everything that Redis holds with PostgreSQL.

Changes are under way while it looks, and when they were committed nobody tells. So what differs is looked at once more when
the staleness bound has passed: only what still differs then, and is still the same in Redis, is older than the bound.
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
from cache_sidecar.store.pool import Database
from cache_sidecar.store.versions import versions
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.scan import PAGE, KeyScan, Kind, StoredKey
from cache_sidecar.tiers.resilience.guard import Guard

# Differences that wait for their second look; with more of them it comes at once, so that memory stays constant.
MAX_DOUBTS = 10_000
# Differences whose ids are reported.
SHOWN = 5

Progress = Callable[[str, int], None]
"""Hears of a dataset how many keys were read."""


class Verdict(StrEnum):
    """How what Redis holds compares with PostgreSQL."""

    SAME = "same"
    OLDER = "older"
    NEWER = "newer"
    MISSING = "missing in PostgreSQL"
    MARK = "marks"
    UNREADABLE = "unreadable"


_DIFFERENCES = frozenset({Verdict.OLDER, Verdict.NEWER, Verdict.MISSING})


@dataclass
class Report:
    """What was found of one dataset."""

    dataset: str
    bound: float
    "Seconds that a change may take."
    found: Counter[Verdict] = field(default_factory=Counter)
    overdue: Counter[Verdict] = field(default_factory=Counter)
    "Differences that are older than the bound."
    shown: list[str] = field(default_factory=list)
    "Some of those, each in a few words."

    def lines(self) -> Iterator[str]:
        """Yields the report for a terminal."""
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
    """Compares datasets, or all if none is named. Raises SettingsError for one that is not there, ServerUnreachable."""
    known = {spec.name: spec for spec in specs}
    if unknown := next((name for name in datasets if name not in known), None):
        raise SettingsError(f"there is no dataset {unknown!r}; there are: {', '.join(known)}")
    bounds = policy.load(settings.policy_file, default_policy)
    connection = RedisClient(settings)
    sweep = KeyScan(connection, KeyNames(settings.namespace))
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
    """Of one dataset."""

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
            for held, verdict, _ in await self._compared(page):
                self._report.found[verdict] += 1
                if verdict in _DIFFERENCES:
                    self._doubts.append(held)
            progress(self._report.dataset, self._report.found.total())
            if len(self._doubts) >= MAX_DOUBTS:
                await self._look_again()
        await self._look_again()

    async def _compared(self, page: Sequence[StoredKey]) -> list[tuple[StoredKey, Verdict, int | None]]:
        """Compares with PostgreSQL as it is now, which is after Redis was read: so nothing in Redis can be newer."""
        stored = await versions(self._database, self._spec.table, [held.id for held in page])
        return [(held, _verdict(held, stored.get(held.id)), stored.get(held.id)) for held in page]

    async def _look_again(self) -> None:
        if not self._doubts:
            return
        await self._wait(self._report.bound)
        doubts, self._doubts = self._doubts, []
        for first in range(0, len(doubts), PAGE):
            before = set(doubts[first : first + PAGE])
            now = await self._sweep.read(self._report.dataset, [held.id for held in before])
            for held, verdict, version in await self._compared([held for held in now if held in before]):
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
