"""Loads records from Redis and PostgreSQL and fills the caches with them: one load per id at a time, many ids per load.

What a load began with decides what may be kept of it: the generation of the partition for L1, the lease for Redis, and what
this sidecar wrote itself. Besides the loads that reads wait for, values are refreshed before they expire, and their time to
live is extended when the policy grows it; a claim in Redis has one sidecar of the fleet do that.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import Operation, TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.tiers.path import decision
from cache_sidecar.tiers.path.batch import Batch
from cache_sidecar.tiers.path.counters import TierCounters
from cache_sidecar.tiers.path.expiry import ExpiryStrategy
from cache_sidecar.tiers.path.leases import Leases
from cache_sidecar.tiers.path.own_writes import OwnWrites
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import ANY, Leased, Newer, Record, Row, Source, UnreadableRow
from cache_sidecar.tiers.resilience.failure import Action, action

# Ids in one pipeline or query, batches that run at the same time, and ids that may wait for one.
MAX_BATCH = 500
L2_BATCHES = 1
STORE_BATCHES = 4
RECHECK_BATCHES = 1
MAX_WAITING = 20_000
# Loads from PostgreSQL at the same time where each has one id: the other connections are for other datasets.
SINGLE_LOADS = 2
# Fills and refreshes that run behind the replies; more are skipped, as no reply depends on them.
MAX_BACKGROUND = 64
# Seconds for which a claim lets one sidecar alone refresh a value in Redis before it expires there.
REFRESH_CLAIM = 3.0
# And extend the time to live of what Redis holds: all sidecars see a new policy within a second.
EXTEND_CLAIM = 10.0
# Weight of the last load in the moving average of how long a load takes.
RECENT = 0.2
# Seconds between two log lines about unreadable rows.
LOG_UNREADABLE_EVERY = 60.0
# And about versions that PostgreSQL does not have.
LOG_NEWER_EVERY = 60.0
NOTHING = Leased({}, {})


class Loader:
    """Loads one dataset's records, and fills its caches."""

    def __init__(self, tiers: Tiers, expiry: ExpiryStrategy) -> None:
        self._dataset = tiers.name
        self._l1 = tiers.l1
        self._l2 = tiers.l2
        self._l2_guard = tiers.l2_guard
        self._load = tiers.load
        self._policy = tiers.policy
        self._clock = tiers.clock
        self._rng = tiers.rng
        self._expiry = expiry
        self.l2_batch: Batch[Record] = Batch(
            self._load_from_l2,
            max_ids=MAX_BATCH,
            max_running=L2_BATCHES,
            max_waiting=MAX_WAITING,
            name=f"load of {tiers.name} from Redis",
        )
        self.store_batch: Batch[Record] = Batch(
            self._load_from_store,
            max_ids=1 if tiers.loads_singly else MAX_BATCH,
            max_running=SINGLE_LOADS if tiers.loads_singly else STORE_BATCHES,
            max_waiting=MAX_WAITING,
            gather_from=self.l2_batch,
            name=f"load of {tiers.name} from PostgreSQL",
        )
        self._recheck_batch: Batch[Row | UnreadableRow] = Batch(
            self._load,
            max_ids=MAX_BATCH,
            max_running=RECHECK_BATCHES,
            max_waiting=MAX_WAITING,
            name=f"check of {tiers.name} in PostgreSQL",
        )
        "The rows of ids of which Redis holds newer versions: writers of one row find that together, and share the query."
        self.leases = Leases(self.l2_batch.get, name=f"load of {tiers.name} elsewhere")
        self.own_writes = OwnWrites()
        self.background = BackgroundTasks(max_running=MAX_BACKGROUND)
        "Fills and refreshes that run behind the replies."
        self.counters = {source: TierCounters() for source in Source}
        self._load_seconds = 0.0
        "How long a load from PostgreSQL has been taking lately."
        self._unreadable_limit = LogLimit(every=LOG_UNREADABLE_EVERY, monotonic=self._clock.now)
        self._newer_limit = LogLimit(every=LOG_NEWER_EVERY, monotonic=self._clock.now)

    # Loading

    async def _load_from_l2(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """Reads Redis, fills L1, and notes who holds the leases of what is not there. A Redis that fails holds nothing."""
        generations = {id: self._l1.generation(id) for id in ids}
        try:
            found = await self._l2_guard.run(lambda: self._expiry.read_l2(ids))
        except TierFailed as error:
            self.counters[Source.L2].errors += 1
            if action(error, Operation.READ) is not Action.FALL_BACK:
                raise
            found = NOTHING
        self.leases.note(ids, found)
        now, policy = self._clock.now(), self._policy()
        # A reply of Redis may have been under way during a write of this sidecar, or come from a primary that lost the write. A
        # caller who has seen the write's reply must not be answered with less.
        records = {id: record for id, record in found.records.items() if not self.own_writes.supersedes(id, record)}
        for id, record in records.items():
            # Records that slide are neither kept in memory nor refreshed.
            if record.expiry is None and decision.l2_serves(record, now=now, policy=policy, wanted=ANY):
                self._fill_l1(id, record, generations[id])
                if decision.should_refresh(id, record, now=now, policy=policy, load_seconds=self._load_seconds, rng=self._rng):
                    self.background.once(("refresh early", id), self._refresh_early, id)
        return records

    async def _load_from_store(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """Reads PostgreSQL and fills L1, and Redis behind the reply. Raises TierFailed."""
        generations, known = {id: self._l1.generation(id) for id in ids}, {id: self._l1.newest(id) for id in ids}
        leases = self.leases.take(ids)
        unleased = [id for id in ids if id not in leases] if self._policy().l2_enabled else []
        try:
            records = await self.load_past_caches(ids)
        except TierFailed:
            self.background.try_spawn(self._release(leases))
            raise
        for id, record in records.items():
            # What was known before PostgreSQL was read, it has to have. A deletion leaves no row to compare with.
            if 0 < record.version < known[id]:
                self._note_newer(Source.L1, held=known[id], current=record.version)
                self._l1.retract(id, record.version, newest=known[id])
            if not record.degraded:
                self._fill_l1(id, record, generations[id])
        # A partition that was reset meanwhile may have gone through a failover, which brought this lease back and lost the
        # change that had taken it away. The row may have been read before that change, so Redis must not get it either.
        current = {
            id: record for id, record in records.items() if not record.degraded and self._l1.generation(id) == generations[id]
        }
        self.background.try_spawn(self.fill_l2(current, leases))
        self._expiry.on_load_without_lease({id: records[id] for id in unleased if id in records})
        return records

    async def load_past_caches(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """Reads PostgreSQL and fills nothing; rows that cannot be read are left out. Raises TierFailed."""
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
                # It exists, but with unknown content: no cache keeps that, and a read of this id alone fails.
                self.note_unreadable(row)
            else:
                records[id] = Record(0, read_at, None) if row is None else self._expiry.to_record(row, read_at)
        return self._expiry.on_load(records)

    def note_unreadable(self, row: UnreadableRow) -> None:
        """Counts a row that cannot be read and was left out; the first in a minute is logged."""
        self.counters[Source.STORE].unreadable += 1
        if self._unreadable_limit.should_log():
            telemetry.log.error(
                "skipping an unreadable row in PostgreSQL",
                dataset=self._dataset,
                error=row.why,
                since_start=self.counters[Source.STORE].unreadable,
            )

    def forget_in_flight(self, id: str) -> None:
        """Has later reads of an id start a load of their own: the loads under way may return what is out of date."""
        self.l2_batch.forget_in_flight(id)
        self.leases.forget_in_flight(id)
        self.store_batch.forget_in_flight(id)

    def forget_all_in_flight(self) -> None:
        """Has later reads of any id start a load of their own."""
        self.l2_batch.forget_all_in_flight()
        self.leases.forget_all_in_flight()
        self.store_batch.forget_all_in_flight()

    # Filling

    def _fill_l1(self, id: str, record: Record, generation: int) -> None:
        policy = self._policy()
        if not policy.l1_enabled:
            return
        ttl = policy.negative_ttl if decision.is_guess(record) else policy.l1_hard_ttl
        expires_from = decision.with_jitter(self._clock.now(), draw=self._rng(), ttl=ttl, jitter=policy.jitter)
        if self._l1.put(id, record, generation=generation, expires_from=expires_from):
            self.counters[Source.L1].fills += 1

    async def fill_l2(self, records: Mapping[str, Record], leases: Mapping[str, bytes]) -> None:
        """Fills Redis with what was read from PostgreSQL, and gives back the leases of what is not filled in."""
        policy = self._policy()
        if not policy.l2_enabled:
            records = {}
        guesses = {id: record for id, record in records.items() if decision.is_guess(record)}
        known = {id: record for id, record in records.items() if id not in guesses}
        newer: dict[str, int] = {}
        for group, ttl in ((known, self._expiry.l2_ttl()), (guesses, policy.negative_ttl)):
            if group and ttl > 0:
                fill = partial(self._l2.fill, self._dataset, self._expiry.to_fill(group), leases, ttl=ttl)
                newer |= await self._l2_guard.run(fill, Operation.FILL)
                self.counters[Source.L2].fills += len(group)
                leases = {id: lease for id, lease in leases.items() if id not in group}
        await self._release(leases)
        if newer:
            await self.check_newer(newer)

    async def _release(self, leases: Mapping[str, bytes]) -> None:
        if leases and not self._expiry.slides:
            await self._l2_guard.run(partial(self._l2.release, self._dataset, leases), Operation.FILL)

    # What is newer than PostgreSQL

    async def check_newer(self, newer: Mapping[str, int]) -> None:
        """Reads PostgreSQL, given newer versions that Redis holds; retracts those that it does not have.

        Raises TierFailed, and Overloaded when too many ids wait.

        Finding a newer version proves nothing by itself: the row may have been read, or locked, before another writer committed
        that version and wrote it to Redis. Every version is committed before it reaches Redis, so PostgreSQL, read now, has it,
        unless it was forged, or PostgreSQL lost it in a failover or to a backup. It decides in either case.
        """
        # Fresh: a load under way may have read the row before the version was found.
        await self.retract(newer, await self._recheck_batch.get(newer, fresh=True))

    async def retract(self, newer: Mapping[str, int], rows: Mapping[str, Row | UnreadableRow]) -> None:
        """Drops versions that rows do not have, from every cache, given the rows as read after these versions were found.

        Raises TierFailed.
        """
        found: dict[str, Newer] = {}
        for id, held in newer.items():
            row = rows.get(id)
            # Without a row it may just have been deleted. Records that slide may be absent because their last use is not known.
            if (row is None or (isinstance(row, Row) and not row.version)) and not self._expiry.slides:
                found[id] = Newer(held, None)
            elif isinstance(row, Row) and row.version < held:
                found[id] = Newer(held, row.version)
                self._note_newer(Source.L2, held=held, current=row.version)
                self._l1.retract(id, row.version, newest=held)
        if found and self._policy().l2_enabled:
            retract = partial(self._l2.retract, self._dataset, found, ttl=self._expiry.l2_ttl())
            await self._l2_guard.run(retract, Operation.CHANGE)

    def _note_newer(self, source: Source, *, held: int, current: int) -> None:
        """Counts a version that PostgreSQL does not have; the first in a minute is logged."""
        self.counters[source].newer += 1
        if self._newer_limit.should_log():
            telemetry.log.error(
                "ALARM: dropped what is newer than PostgreSQL: it was forged, or PostgreSQL lost a commit",
                dataset=self._dataset,
                tier=source.name.lower(),
                version=held,
                postgres=current,
                since_last=self._newer_limit.count,
            )

    # Behind the replies

    async def _refresh_early(self, id: str) -> None:
        """Refreshes what Redis holds before it expires there, unless another sidecar does."""
        if await self._l2_guard.run(partial(self._l2.claim, self._dataset, id, ttl=REFRESH_CLAIM), Operation.FILL):
            self.counters[Source.L2].refreshes += 1
            records = await self.store_batch.get([id], fresh=not self._expiry.coalesces)
            self.counters[Source.STORE].hits += len(records)

    async def extend_ttl(self, ttl: float) -> None:
        """Has Redis keep what it holds for `ttl` seconds, unless another sidecar does; records that slide need none of this."""
        if self._expiry.slides:
            return
        claim = partial(self._l2.claim, self._dataset, f"l2_ttl {ttl:g}", ttl=EXTEND_CLAIM)
        if await self._l2_guard.run(claim, Operation.FILL):
            await self._l2.extend_ttl(self._dataset, ttl=ttl, now=self._clock.now())

    async def close(self) -> None:
        """Waits for the loads under way, and for the fills that they leave behind."""
        await self.background.join()
        await self.leases.close()
        await self.l2_batch.close()
        await self.store_batch.close()
        await self._recheck_batch.close()
        await self.background.join()
