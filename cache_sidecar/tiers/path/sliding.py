"""A dataset whose every read puts off its expiry: sessions and carts. Not kept in memory; Redis, then PostgreSQL.

A record in Redis carries its expiry, and one function reads it and puts that off. Where there is no record, the reader gets a
lease: a mark in its place that whoever changes, drops or evicts the id takes away. What is then read from PostgreSQL is filled
in only while the mark is there. So a session that was ended, or an older cart, does not come back, even if the mark of its end
is gone as well (Nishtala et al., Scaling Memcache at Facebook, 2013, section 3.2.1).

That something is over for want of use Redis cannot say alone: a failover may have taken the last use with it. PostgreSQL is
asked. It may be behind by `touch_window`, and where it cannot tell for that reason, Redis decides if it counted the last use
under the history that its node still has: then it lost none. What is over is remembered for a while, so that asking for it
again and again asks PostgreSQL once.

So PostgreSQL has to hear of every use that Redis did not count, since it was away or passed over: the history alone does not
tell that there were any.
"""

import operator
from collections.abc import Callable, Mapping, Sequence

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.memory.clock import NO_L1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.expired import RecentlyExpired
from cache_sidecar.tiers.path.shadow import Same
from cache_sidecar.tiers.ports import Answer, Expiry, Freshness, Leased, Load, Record, Row, SlidingL2, Source, Times
from cache_sidecar.tiers.resilience.guard import Guard


class SlidingDataset(Dataset):
    """One such dataset in its tiers."""

    def __init__(
        self,
        name: str,
        *,
        l2: SlidingL2,
        load: Load,
        l2_guard: Guard,
        policy: Callable[[], DatasetPolicy],
        clock: Clock,
        joins: bool,
        remembers_over: bool = False,
        same: Same = operator.eq,
        freshness_lease: FreshnessLease | None = None,
        is_private: bool = True,
    ) -> None:
        """With `joins`, a read may share a load that began before it: what is answered may then be as old as that.

        With `remembers_over`, PostgreSQL is not asked again at once for what it said is not there, or over.
        """
        super().__init__(
            name,
            l1=NO_L1,
            l2=l2,
            load=load,
            l2_guard=l2_guard,
            policy=policy,
            clock=clock,
            same=same,
            freshness_lease=freshness_lease,
            is_private=is_private,
        )
        self._sliding_l2 = l2
        self._joins = joins
        self._remembers_over = remembers_over
        self._over = RecentlyExpired(clock)
        "What PostgreSQL says is over."
        self._unused = RecentlyExpired(clock)
        "What Redis says is over, and lost no use of."
        self.on_uncounted: Callable[[Mapping[str, float]], None] = _nobody
        "Hears of uses that Redis did not count, in seconds since the epoch."

    def record(self, version: int, value: bytes | None) -> Record:
        """Returns what caches keep of an id that was changed just now."""
        return self._read_record(Row(version, value), self._clock.now())

    async def _read_tiers(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        if not self._remembers_over or wanted.bypass or wanted.max_age is not None:
            return await super()._read_tiers(ids, wanted)
        over = {id: Answer(None, Source.STORE, 0, 0.0, stale=False) for id in ids if self._over.holds(id)}
        rest = [id for id in ids if id not in over]
        return over | await super()._read_tiers(rest, wanted) if rest else over

    async def _ask_l2(self, ids: Sequence[str]) -> Leased:
        times = self._times()
        found = await self._sliding_l2.slide(self.name, ids, times, None)
        unused = [id for id, record in found.records.items() if _is_unused(record, times)]
        if not unused:
            return found
        for id in unused:
            history, expiry = self._sliding_l2.history(id), found.records[id].expiry
            if expiry is not None and history and expiry.history == history:
                self._unused.remember(id)
        return found._replace(records={id: record for id, record in found.records.items() if id not in unused})

    def _times(self) -> Times:
        policy, now = self.policy(), self._clock.now()
        window = policy.touch_window
        return Times(now, over=now - policy.l2_ttl, overdue=now - window, ttl=policy.l2_ttl + window)

    async def _read_store(self, ids: Sequence[str]) -> Mapping[str, Record]:
        # Where Redis answers, whoever finds nothing has a lease, and fills the use in with the record.
        uncounted = self._leases.lacking(ids) if self.policy().l2_enabled else []
        records = await super()._read_store(ids)
        self._tell_uncounted({id: records[id].expiry for id in uncounted if id in records})
        return records

    async def _in_doubt(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        answers, now = await super()._in_doubt(ids, wanted), self._clock.now()
        for id, answer in answers.items():
            if answer.expiry is not None:
                answers[id] = answer._replace(expiry=answer.expiry._replace(used=now))
        self._tell_uncounted({id: answer.expiry for id, answer in answers.items()})
        return answers

    def _tell_uncounted(self, expiries: Mapping[str, Expiry | None]) -> None:
        uses = {id: expiry.used for id, expiry in expiries.items() if expiry is not None and expiry.end is not None}
        if uses:
            self.on_uncounted(uses)

    async def _read_alone(self, ids: Sequence[str]) -> Mapping[str, Record]:
        records, over = dict(await super()._read_alone(ids)), self._times().over
        for id, record in records.items():
            expiry = record.expiry
            if expiry is not None and expiry.end is not None and expiry.stored <= over and self._unused.holds(id):
                records[id] = record._replace(version=0, value=None, expiry=None)
        if self._remembers_over:
            for id, record in records.items():
                if record.value is None:
                    self._over.remember(id)
        return records

    def _read_record(self, row: Row, read_at: float) -> Record:
        if row.value is None:
            return Record(row.version, read_at, None)
        return Record(row.version, read_at, row.value, row.expiry or Expiry(self._clock.now()))

    async def _put_l2(self, records: Mapping[str, Record], leases: Mapping[str, bytes], ttl: float) -> None:
        times = self._times()
        told = {id: self._counted(id, _told(record, times)) for id, record in records.items()}
        await self._sliding_l2.fill(self.name, told, leases, ttl=ttl)

    async def told(self, changes: Mapping[str, Record | int]) -> bool:
        """Takes committed changes to the caches; see `Dataset.told`. A change is a use."""
        return await super().told(
            {id: change if isinstance(change, int) else self._counted(id, change) for id, change in changes.items()}
        )

    def _counted(self, id: str, record: Record) -> Record:
        """Returns the record as it is when the node that holds it has counted its last use."""
        if record.expiry is None:
            return record
        return record._replace(expiry=record.expiry._replace(history=self._sliding_l2.history(id)))

    def changed(self, id: str, version: int) -> None:
        """An id has a new version; 0 when it is only to be read again."""
        super().changed(id, version)
        self._over.forget(id)
        self._unused.forget(id)

    def on_partition_reset(self, partition: int) -> None:
        """Anything in a partition may have changed."""
        super().on_partition_reset(partition)
        self._forget_over()

    def set_trusted(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Says whether every change in a partition is known to be told, and for how many seconds that has been so."""
        super().set_trusted(partition, trusted, late=late)
        self._forget_over()

    def policy_changed(self, old: DatasetPolicy) -> None:
        """Takes another policy, in force from now on, to what was cached under the old one."""
        super().policy_changed(old)
        self._forget_over()

    def _forget_over(self) -> None:
        self._over.clear()
        self._unused.clear()

    async def _extend_ttl(self, ttl: float) -> None:
        """Does nothing: each use says anew how long a record is kept."""

    async def _release(self, leases: Mapping[str, bytes]) -> None:
        """Does nothing: a lease is everybody's who finds it, and keeps nobody from loading."""

    def _l2_ttl(self, policy: DatasetPolicy) -> float:
        # Past its expiry a record is kept for as long as PostgreSQL may not know that it is over.
        return policy.l2_ttl + policy.touch_window


def _nobody(_uses: Mapping[str, float]) -> None:
    """Hears of nothing."""


def _is_unused(record: Record, times: Times) -> bool:
    """Whether it is over, as far as the uses tell that were counted."""
    expiry = record.expiry
    return expiry is not None and expiry.end is not None and (expiry.used <= times.over or expiry.end <= times.now)


def _told(record: Record, times: Times) -> Record:
    """Returns the record as it is when its reader has told PostgreSQL of a use that is overdue there."""
    expiry = record.expiry
    if expiry is None or expiry.stored > times.overdue:
        return record
    return record._replace(expiry=expiry._replace(stored=expiry.used))
