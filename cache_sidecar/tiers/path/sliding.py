"""Records that expire a while after they were last used: sessions and carts. Not kept in memory; Redis, then PostgreSQL.

A record in Redis carries its expiry, and one function reads the record and extends its life. Where there is no record, the
reader gets a lease: a mark in the record's place, which is removed when anybody changes or drops the id, or Redis evicts it.
What is then read from PostgreSQL is filled in only while the mark is there. So a session that was ended, or an older cart, does
not come back, even when the tombstone of its end was evicted as well (Nishtala et al., Scaling Memcache at Facebook, 2013,
section 3.2.1).

Redis alone cannot decide that a record has expired for lack of use: a failover may have lost the last use. PostgreSQL is asked.
PostgreSQL may be behind by `touch_window`; where it cannot tell for that reason, Redis decides, provided that it counted the
last use under the history that its node still has: then it lost none. What has expired is remembered for a while, so that
repeated reads of it cost PostgreSQL one query.

For that, every use that Redis did not count, because it was down or bypassed, has to be written to PostgreSQL: the history
alone does not show that there were any.
"""

from collections.abc import Callable, Mapping, Sequence

from cache_sidecar.tiers.path.expired import RecentlyExpired
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import Answer, Expiry, Leased, Record, Row, Times


class SlidingExpiry:
    """Records expire `l2_ttl` seconds after their last use; see `expiry.ExpiryStrategy`."""

    slides = True

    def __init__(self, tiers: Tiers, *, coalesces: bool, remembers_expired: bool = False) -> None:
        """With `coalesces`, a read may share a load that began before it, and get an answer as old as that load.

        With `remembers_expired`, what PostgreSQL reported as absent or expired is answered so for seconds, without a query.
        """
        self.coalesces = coalesces
        self._remembers_expired = remembers_expired
        self._dataset = tiers.name
        self._l2 = tiers.l2
        self._policy = tiers.policy
        self._clock = tiers.clock
        self._expired_in_store = RecentlyExpired(tiers.clock)
        "What PostgreSQL reported as absent or expired."
        self._expired_in_l2 = RecentlyExpired(tiers.clock)
        "What expired by the uses that Redis counted, and Redis lost none of them."
        self.on_uncounted: Callable[[Mapping[str, float]], None] = _ignore
        "Called with uses that Redis did not count: when each id was used, in seconds since the epoch."

    def l2_ttl(self) -> float:
        """Returns how long Redis keeps a record: past its expiry, for as long as PostgreSQL may not know of the last use."""
        policy = self._policy()
        return policy.l2_ttl + policy.touch_window

    def to_record(self, row: Row, read_at: float) -> Record:
        """Returns the row with its expiry; without one of its own, the reading is its use."""
        expiry = None if row.value is None else row.expiry or Expiry(self._clock.now())
        return Record(row.version, read_at, row.value, expiry)

    async def read_l2(self, ids: Sequence[str]) -> Leased:
        """Reads ids and counts the uses. Leaves out, with no lease, what has expired by the uses that Redis counted.

        With MACs, it also leaves out what was read from PostgreSQL `l2_ttl` seconds ago, however much it was used since.
        """
        times = self._times()
        found = await self._l2.touch(self._dataset, ids, times, None)
        records = dict(found.records)
        for id, record in found.records.items():
            expiry = record.expiry
            if self._l2.signs and record.read_at <= times.expired_before:
                # Earlier versions of the row were signed, too. Whoever puts one back into Redis, say after a log-out, has it
                # believed no longer than a record that does not slide.
                del records[id]
                continue
            if expiry is None or expiry.end is None or (expiry.used > times.expired_before and expiry.end > times.now):
                continue
            del records[id]
            history = self._l2.history(id)
            if history and expiry.history == history:
                self._expired_in_l2.remember(id)
        return found._replace(records=records)

    def find_expired(self, ids: Sequence[str]) -> Sequence[str]:
        """Returns the ids that PostgreSQL reported as absent or expired moments ago."""
        return [id for id in ids if self._expired_in_store.holds(id)] if self._remembers_expired else ()

    def on_load(self, records: Mapping[str, Record]) -> Mapping[str, Record]:
        """Returns the records without those that have expired although PostgreSQL does not know it yet.

        Such a record's last use in PostgreSQL is too old, but there may have been one in the last `touch_window` seconds. Redis
        would have counted that use; if it lost none, there was none.
        """
        found, expired_before = dict(records), self._times().expired_before
        for id, record in records.items():
            expiry = record.expiry
            if (
                expiry is not None
                and expiry.end is not None
                and expiry.stored <= expired_before
                and self._expired_in_l2.holds(id)
            ):
                found[id] = record._replace(version=0, value=None, expiry=None)
            if self._remembers_expired and found[id].value is None:
                self._expired_in_store.remember(id)
        return found

    def on_load_without_lease(self, records: Mapping[str, Record]) -> None:
        """Reports the uses. With a lease, as while Redis answers, the use is filled in with the record instead."""
        self._report({id: record.expiry for id, record in records.items()})

    def on_quarantined_answers(self, answers: Mapping[str, Answer]) -> Mapping[str, Answer]:
        """Returns the answers as used now, and reports the uses."""
        now = self._clock.now()
        used = {
            id: answer if answer.expiry is None else answer._replace(expiry=answer.expiry._replace(used=now))
            for id, answer in answers.items()
        }
        self._report({id: answer.expiry for id, answer in used.items()})
        return used

    def _report(self, expiries: Mapping[str, Expiry | None]) -> None:
        uses = {id: expiry.used for id, expiry in expiries.items() if expiry is not None and expiry.end is not None}
        if uses:
            self.on_uncounted(uses)

    def to_fill(self, records: Mapping[str, Record]) -> Mapping[str, Record]:
        """Returns the records as they are once the reader has written an overdue use to PostgreSQL."""
        flush_before, filled = self._times().flush_before, {}
        for id, record in records.items():
            expiry = record.expiry
            if expiry is not None and expiry.stored <= flush_before:
                record = record._replace(expiry=expiry._replace(stored=expiry.used))  # noqa: PLW2901
            filled[id] = self.to_publish(id, record)
        return filled

    def to_publish(self, id: str, record: Record) -> Record:
        """Returns the record with the history of the node that will hold it: a change counts as a use, and is counted there."""
        if record.expiry is None:
            return record
        return record._replace(expiry=record.expiry._replace(history=self._l2.history(id)))

    def forget(self, id: str) -> None:
        """Forgets that an id had expired: it has changed."""
        self._expired_in_store.forget(id)
        self._expired_in_l2.forget(id)

    def forget_all(self) -> None:
        """Forgets everything that had expired: anything may have changed."""
        self._expired_in_store.clear()
        self._expired_in_l2.clear()

    def _times(self) -> Times:
        policy, now = self._policy(), self._clock.now()
        window = policy.touch_window
        return Times(now, expired_before=now - policy.l2_ttl, flush_before=now - window, ttl=policy.l2_ttl + window)


def _ignore(_uses: Mapping[str, float]) -> None:
    """Does nothing, until a service asks for uncounted uses."""
