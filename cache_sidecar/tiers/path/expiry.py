"""When the records of a dataset expire: at a fixed age, or a while after they were last used (`sliding.py`).

`Dataset` and `Loader` are the same for both. What differs is how Redis is asked, what a row of PostgreSQL becomes, and what
has to be remembered or reported about uses: that is a strategy, and the dataset has one.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from cache_sidecar.tiers.path import decision
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import Answer, Leased, Record, Row


class ExpiryStrategy(Protocol):
    """How the records of one dataset expire."""

    coalesces: bool
    "Whether a read may share a load that began before the read did."
    slides: bool
    """Whether every read extends a record's life in Redis. Then a longer `l2_ttl` reaches the records with their next use, and
    leases only guard fills: they keep no other sidecar from loading, so there is no hurry to give them back."""

    def l2_ttl(self) -> float:
        """Returns for how many seconds Redis is to keep a record."""
        ...

    def to_record(self, row: Row, read_at: float) -> Record:
        """Returns what caches keep of a row."""
        ...

    async def read_l2(self, ids: Sequence[str]) -> Leased:
        """Reads ids from Redis. Raises TierFailed."""
        ...

    def find_expired(self, ids: Sequence[str]) -> Sequence[str]:
        """Returns the ids that PostgreSQL reported as absent or expired moments ago."""
        ...

    def on_load(self, records: Mapping[str, Record]) -> Mapping[str, Record]:
        """Returns what reads are to find in records that were just loaded from PostgreSQL."""
        ...

    def on_load_without_lease(self, records: Mapping[str, Record]) -> None:
        """Reports uses of records that cannot be filled into Redis, and so are not counted there."""
        ...

    def on_quarantined_answers(self, answers: Mapping[str, Answer]) -> Mapping[str, Answer]:
        """Returns what reads are answered with that were read from Redis without counting the use, and reports the uses."""
        ...

    def to_fill(self, records: Mapping[str, Record]) -> Mapping[str, Record]:
        """Returns what Redis is to keep of records that were read from PostgreSQL."""
        ...

    def to_publish(self, id: str, record: Record) -> Record:
        """Returns what Redis is to keep of a record that was just committed."""
        ...

    def forget(self, id: str) -> None:
        """Forgets what is known of an id: it has changed."""
        ...

    def forget_all(self) -> None:
        """Forgets what is known of every id: anything may have changed."""
        ...


class FixedExpiry:
    """Records expire at an age, however often they are read; see `ExpiryStrategy`."""

    coalesces = True
    slides = False

    def __init__(self, tiers: Tiers) -> None:
        self._dataset = tiers.name
        self._l2 = tiers.l2
        self._policy = tiers.policy
        self._rng = tiers.rng

    def l2_ttl(self) -> float:
        """Returns the policy's time to live with jitter, so that what was filled together does not expire together."""
        policy = self._policy()
        return decision.with_jitter(policy.l2_ttl, draw=self._rng(), ttl=policy.l2_ttl, jitter=policy.jitter)

    def to_record(self, row: Row, read_at: float) -> Record:
        """Returns the row, with the time at which it was read."""
        return Record(row.version, read_at, row.value, degraded=row.degraded)

    async def read_l2(self, ids: Sequence[str]) -> Leased:
        """Reads ids, and takes exclusive leases on those that Redis does not hold."""
        return await self._l2.read_leased(self._dataset, ids)

    def find_expired(self, ids: Sequence[str]) -> Sequence[str]:  # noqa: ARG002
        """Returns none: what is absent is cached like any other answer, for `negative_ttl`."""
        return ()

    def on_load(self, records: Mapping[str, Record]) -> Mapping[str, Record]:
        """Returns the records as they are."""
        return records

    def on_load_without_lease(self, records: Mapping[str, Record]) -> None:
        """Does nothing: uses are not counted."""

    def on_quarantined_answers(self, answers: Mapping[str, Answer]) -> Mapping[str, Answer]:
        """Returns the answers as they are."""
        return answers

    def to_fill(self, records: Mapping[str, Record]) -> Mapping[str, Record]:
        """Returns the records as they are."""
        return records

    def to_publish(self, id: str, record: Record) -> Record:  # noqa: ARG002
        """Returns the record as it is."""
        return record

    def forget(self, id: str) -> None:
        """Does nothing: nothing is remembered."""

    def forget_all(self) -> None:
        """Does nothing: nothing is remembered."""
