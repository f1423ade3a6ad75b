"""A dataset whose every read puts off its expiry: sessions and carts. Not kept in memory; Redis, then PostgreSQL.

A record in Redis carries its expiry, and one function reads it and puts that off. Where there is no record, the reader gets a
lease: a mark in its place that whoever changes, drops or evicts the id takes away. What is then read from PostgreSQL is filled
in only while the mark is there. So a session that was ended, or an older cart, does not come back, even if the mark of its end
is gone as well (Nishtala et al., Scaling Memcache at Facebook, 2013, section 3.2.1).
"""

import operator
from collections.abc import Callable, Mapping, Sequence

from cache_sidecar.clock import Clock
from cache_sidecar.policy import DatasetPolicy
from cache_sidecar.tiers.dataset import Dataset
from cache_sidecar.tiers.guard import Guard
from cache_sidecar.tiers.l1 import NoL1
from cache_sidecar.tiers.ports import Expiry, Leased, Load, Record, Row, SlidingL2, Times
from cache_sidecar.tiers.shadow import Same
from cache_sidecar.tiers.trust import Trust


class SlidingDataset(Dataset):
    """One such dataset in its tiers."""

    _is_private = True

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
        same: Same = operator.eq,
        trust: Trust | None = None,
    ) -> None:
        """With `joins`, a read may share a load that began before it: what is answered may then be as old as that."""
        super().__init__(
            name, l1=NoL1(), l2=l2, load=load, l2_guard=l2_guard, policy=policy, clock=clock, same=same, trust=trust
        )
        self._sliding_l2 = l2
        self._joins = joins

    def record(self, version: int, value: bytes | None) -> Record:
        """Returns what caches keep of an id that was changed just now."""
        return self._read_record(Row(version, value), self._clock.now())

    async def _ask_l2(self, ids: Sequence[str]) -> Leased:
        times = self._times()
        found = await self._sliding_l2.slide(self.name, ids, times)
        return found._replace(records={id: _ended(record, times) for id, record in found.records.items()})

    def _times(self) -> Times:
        policy, now = self.policy(), self._clock.now()
        window = policy.touch_window
        return Times(now, over=now - policy.l2_ttl, overdue=now - window, ttl=policy.l2_ttl + window)

    def _read_record(self, row: Row, read_at: float) -> Record:
        if row.value is None:
            return Record(row.version, read_at, None)
        return Record(row.version, read_at, row.value, row.expiry or Expiry(self._clock.now()))

    async def _put_l2(self, records: Mapping[str, Record], leases: Mapping[str, bytes], ttl: float) -> None:
        times = self._times()
        told = {id: _told(record, times) for id, record in records.items()}
        await self._sliding_l2.fill(self.name, told, leases, ttl=ttl, now=times.now, over=times.over)

    async def _prolonged(self, ttl: float) -> None:
        """Does nothing: each use says anew how long a record is kept."""

    async def _release(self, leases: Mapping[str, bytes]) -> None:
        """Does nothing: a lease is everybody's who finds it, and keeps nobody from loading."""

    def _l2_ttl(self, policy: DatasetPolicy) -> float:
        # Past its expiry a record is kept for as long as PostgreSQL may not know that it is over.
        return policy.l2_ttl + policy.touch_window


def _ended(record: Record, times: Times) -> Record:
    expiry = record.expiry
    is_over = expiry is not None and expiry.end is not None and (expiry.used <= times.over or expiry.end <= times.now)
    return record._replace(value=None) if is_over else record


def _told(record: Record, times: Times) -> Record:
    """Returns the record as it is when its reader has told PostgreSQL of a use that is overdue there."""
    expiry = record.expiry
    if expiry is None or expiry.stored > times.overdue:
        return record
    return record._replace(expiry=expiry._replace(stored=expiry.used))
