"""How ids get from Redis and PostgreSQL into the caches: one load per id at a time, many ids at once.

What a load began with decides what may be kept of it: the generation of the partition for L1, a lease for Redis, and what this
sidecar wrote itself. Beside the loads that reads ask for, values are refreshed before they expire, and prolonged when a policy
says so, by one sidecar each.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import Operation, TierFailed
from cache_sidecar.tiers.path import decision
from cache_sidecar.tiers.path.batch import Batch
from cache_sidecar.tiers.path.counters import TierCounters
from cache_sidecar.tiers.path.leases import Leases
from cache_sidecar.tiers.path.own_writes import OwnWrites
from cache_sidecar.tiers.path.refills import Refills
from cache_sidecar.tiers.ports import ANY, L1, L2, Leased, Load, Record, Row, Source, UnreadableRow
from cache_sidecar.tiers.resilience.failure import Action, action
from cache_sidecar.tiers.resilience.guard import Guard

# Ids in one pipeline or query, batches under way at once, and ids that may wait for one.
MAX_BATCH = 500
L2_BATCHES = 1
STORE_BATCHES = 4
MAX_WAITING = 20_000
# Seconds in which one sidecar alone may refresh a value in Redis before it expires there.
REFRESH_CLAIM = 3.0
# And in which one alone may prolong what is there: all hear of another policy within a second.
PROLONG_CLAIM = 10.0
# Weight of the last load in what a load is expected to take.
RECENT = 0.2
# Seconds between two lines in the log on rows that cannot be read.
SAY_UNREADABLE_EVERY = 60.0
NOTHING = Leased({}, {})


class Loader:
    """Loads one dataset's records, and fills the caches with them."""

    _joins = True
    "Whether a read may share a load that began before it."

    def __init__(
        self,
        name: str,
        *,
        l1: L1,
        l2: L2,
        load: Load,
        l2_guard: Guard,
        policy: Callable[[], DatasetPolicy],
        clock: Clock,
        unit: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._l1 = l1
        self._l2_tier = l2
        self._load = load
        self._l2_guard = l2_guard
        self.policy = policy
        self._clock = clock
        self._unit = unit
        self._l2: Batch[Record] = Batch(self._read_l2, max_ids=MAX_BATCH, max_running=L2_BATCHES, max_waiting=MAX_WAITING)
        self._store: Batch[Record] = Batch(
            self._read_store, max_ids=MAX_BATCH, max_running=STORE_BATCHES, max_waiting=MAX_WAITING, gather_from=self._l2
        )
        self._behind = Refills()
        self._leases = Leases(self._l2.get)
        self._written = OwnWrites()
        self._load_seconds = 0.0
        self._say_unreadable_at = 0.0
        self.counters = {source: TierCounters() for source in Source}

    async def _read_l2(self, ids: Sequence[str]) -> Mapping[str, Record]:
        generations = self._generations(ids)
        try:
            found = await self._l2_guard.run(lambda: self._ask_l2(ids))
        except TierFailed as error:
            self.counters[Source.L2].errors += 1
            if action(error, Operation.READ) is not Action.FALL_BACK:
                raise
            found = NOTHING
        self._leases.note(ids, found)
        now, policy = self._clock.now(), self.policy()
        records = {id: record for id, record in found.records.items() if not self._written.outruns(id, record)}
        for id, record in records.items():
            if decision.l2_serves(record, now=now, policy=policy, wanted=ANY):
                self._fill_l1(id, record, generations[id])
                if decision.is_due(id, record, now=now, policy=policy, load_seconds=self._load_seconds, unit=self._unit):
                    self._behind.once("redis", self._refreshed_early, id)
        return records

    async def _ask_l2(self, ids: Sequence[str]) -> Leased:
        return await self._l2_tier.read_leased(self.name, ids)

    async def _read_store(self, ids: Sequence[str]) -> Mapping[str, Record]:
        generations, leases = self._generations(ids), self._leases.take(ids)
        try:
            records = await self._read_alone(ids)
        except TierFailed:
            self._behind.start(self._release(leases))
            raise
        for id, record in records.items():
            self._fill_l1(id, record, generations[id])
        # What was dropped since may have been read before it changed.
        undropped = {id: record for id, record in records.items() if self._l1.generation(id) == generations[id]}
        self._behind.start(self._fill_l2(undropped, leases))
        return records

    async def _read_alone(self, ids: Sequence[str]) -> Mapping[str, Record]:
        read_at = self._clock.now()
        try:
            rows = await self._load(ids)
        except TierFailed:
            self.counters[Source.STORE].errors += 1
            raise
        self._load_seconds += RECENT * (self._clock.now() - read_at - self._load_seconds)
        records = {}
        for id in ids:
            row = rows.get(id)
            if isinstance(row, UnreadableRow):
                # Neither what it is nor that there is none: no cache keeps it, and who asks for it alone is told.
                self.note_unreadable(row)
            else:
                records[id] = Record(0, read_at, None) if row is None else self._read_record(row, read_at)
        return records

    def note_unreadable(self, row: UnreadableRow) -> None:
        """Counts a row that cannot be read, and was left out; the first in a minute is logged."""
        self.counters[Source.STORE].unreadable += 1
        if self._clock.now() >= self._say_unreadable_at:
            self._say_unreadable_at = self._clock.now() + SAY_UNREADABLE_EVERY
            telemetry.log.error(
                "skipping an unreadable row in PostgreSQL",
                dataset=self.name,
                error=row.why,
                since_start=self.counters[Source.STORE].unreadable,
            )

    def _read_record(self, row: Row, read_at: float) -> Record:
        return Record(row.version, read_at, row.value)

    def _generations(self, ids: Sequence[str]) -> dict[str, int]:
        return {id: self._l1.generation(id) for id in ids}

    def _fill_l1(self, id: str, record: Record, generation: int) -> None:
        policy = self.policy()
        if not policy.l1_enabled:
            return
        ttl = policy.negative_ttl if record.version == 0 and record.value is None else policy.l1_hard_ttl
        timer = decision.jittered(self._clock.now(), unit=self._unit(), ttl=ttl, jitter=policy.jitter)
        if self._l1.put(id, record, generation=generation, timer=timer):
            self.counters[Source.L1].fills += 1

    async def _fill_l2(self, records: Mapping[str, Record], leases: Mapping[str, bytes]) -> None:
        policy = self.policy()
        if not policy.l2_enabled:
            records = {}
        known = {id: record for id, record in records.items() if record.version}
        guesses = {id: record for id, record in records.items() if not record.version}
        for group, ttl in ((known, self._l2_ttl(policy)), (guesses, policy.negative_ttl)):
            if group and ttl > 0:
                await self._l2_guard.run(partial(self._put_l2, group, leases, ttl), Operation.FILL)
                self.counters[Source.L2].fills += len(group)
                leases = {id: lease for id, lease in leases.items() if id not in group}
        await self._release(leases)

    async def _put_l2(self, records: Mapping[str, Record], leases: Mapping[str, bytes], ttl: float) -> None:
        await self._l2_tier.fill(self.name, records, leases, ttl=ttl)

    async def _release(self, leases: Mapping[str, bytes]) -> None:
        if leases:
            await self._l2_guard.run(partial(self._l2_tier.release, self.name, leases), Operation.FILL)

    def _l2_ttl(self, policy: DatasetPolicy) -> float:
        return decision.jittered(policy.l2_ttl, unit=self._unit(), ttl=policy.l2_ttl, jitter=policy.jitter)

    async def _refreshed_early(self, id: str) -> None:
        """Refreshes what Redis holds before it expires there, unless another sidecar does."""
        if await self._l2_guard.run(partial(self._l2_tier.claim, self.name, id, ttl=REFRESH_CLAIM), Operation.FILL):
            records = await self._store.get([id], fresh=not self._joins)
            self.counters[Source.STORE].hits += len(records)

    async def _extend_ttl(self, ttl: float) -> None:
        """Lets Redis keep what it holds as long as is said now, unless another sidecar sees to that."""
        claim = partial(self._l2_tier.claim, self.name, f"l2_ttl {ttl:g}", ttl=PROLONG_CLAIM)
        if await self._l2_guard.run(claim, Operation.FILL):
            await self._l2_tier.extend_ttl(self.name, ttl=ttl, now=self._clock.now())
