"""THE read and write path of a cached dataset. Read it downward: `get`, then what it calls.

A read asks L1, then Redis, then PostgreSQL, and fills on the way back. Reads that miss are coalesced per id, and go out in
batches: `loader.py`. A write is PostgreSQL's; `committed` takes what it did to the caches.

    get -> _from_l1
        -> _read_on -> _read_tiers -> _from_l2    -> Batch -> _read_l2    -> L1
                                   -> _from_elsewhere -> Leases: what another sidecar is loading
                                   -> _from_store -> Batch -> _read_store -> L1, and behind the reply L2
                    -> _from_store_alone          -> Batch -> _read_alone -> behind the reply, in shadow: _would_answer

What a tier's failure leads to stands in `failure.py`, what an entry's age leads to in `decision.py`. A key that is not in the
policy's rollout, and every key in shadow, is read from PostgreSQL alone. What is in memory answers whatever the policy says:
`policy_changed` drops what must not. Writes tell every cache at every setting, so none has anything to catch up on later.
"""

import asyncio
import operator
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import DataLoss, DeadlineExceeded, Failure, Operation, Overloaded, RequestError, TierFailed
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.memory.clock import NO_L1
from cache_sidecar.tiers.path import decision
from cache_sidecar.tiers.path.counters import TierStats
from cache_sidecar.tiers.path.decision import Verdict
from cache_sidecar.tiers.path.loader import MAX_BATCH, MAX_WAITING, NOTHING, STORE_BATCHES, Loader
from cache_sidecar.tiers.path.rollout import Rollout, empties_memory
from cache_sidecar.tiers.path.sampler import HitSampler, Sample
from cache_sidecar.tiers.path.shadow import Same
from cache_sidecar.tiers.ports import (
    ANY,
    L1,
    L2,
    PARTITIONS,
    Answer,
    Freshness,
    Load,
    Record,
    Row,
    Source,
    UnreadableRow,
    partition_of,
)
from cache_sidecar.tiers.resilience.failure import Action, action
from cache_sidecar.tiers.resilience.guard import Guard

# Each drop is a message to every sidecar: fewer of them fit into the time that one command of Redis may take.
MAX_DROPS = 100


class Dataset(Loader):
    """One dataset in its tiers."""

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
        rollout_key: Callable[[str], str] = str,
        same: Same = operator.eq,
        freshness_lease: FreshnessLease | None = None,
        is_private: bool = False,
    ) -> None:
        """`rollout_key` says what an id is rolled out by, itself if nothing is said; `same` when two values say the same.

        `freshness_lease` is what `set_trusted` follows, if it may lapse. With `is_private` ids are people's, and never logged.
        """
        super().__init__(name, l1=l1, l2=l2, load=load, l2_guard=l2_guard, policy=policy, clock=clock, unit=unit)
        self._freshness_lease = freshness_lease or FreshnessLease()
        self.rollout = Rollout(
            name,
            self._read_alone,
            policy=policy,
            key=rollout_key,
            ask_caches=self._would_answer,
            same=same,
            shows_ids=not is_private,
            max_ids=MAX_BATCH,
            max_running=STORE_BATCHES,
            max_waiting=MAX_WAITING,
        )
        self._serving: L1 = NO_L1 if policy().shadow else l1
        "What answers from memory: in shadow nothing does, whatever there is."
        self._behind_in = [False] * PARTITIONS
        "Of each partition, whether Redis is told of changes too late."
        self.on_refusal: Callable[[Iterable[str]], None] = _nobody
        "Hears of the ids whose change Redis refused to hear of."
        self.sampler = HitSampler(lambda: policy().inspect_every, unit)
        self._l1_counters = self.counters[Source.L1]

    # Reads

    def hit(self, id: str) -> tuple[Record, float] | None:
        """Returns a fresh record from L1, and its age in seconds; None when `get` has to look further. Waits for nothing."""
        if self._freshness_lease.clock() >= self._freshness_lease.until:
            return None
        entry = self._serving.get(id)
        now = self._clock.now()
        if entry is None or not decision.is_fresh(entry, now=now, policy=self.policy()):
            return None
        record = entry.record
        counters = self._l1_counters
        counters.hits = number = counters.hits + 1
        if number == self.sampler.due:
            self.sampler.take(Sample(id, record.version, is_there=True))
        return record, max(0.0, now - record.read_at)

    async def get(self, id: str, wanted: Freshness = ANY) -> Answer:
        """Returns what there is of an id.

        Raises TierFailed when no tier can tell, Overloaded when too many ids wait, DataLoss for a row that cannot be read.
        """
        answer = self._from_l1(id, wanted) or (await self._read_on([id], wanted)).get(id)
        if answer is None:
            raise DataLoss(self.name, id)
        return answer

    async def get_many(self, ids: Iterable[str], wanted: Freshness = ANY) -> dict[str, Answer]:
        """Returns what there is of each id, and leaves out those whose rows cannot be read; other errors as of `get`."""
        answers: dict[str, Answer] = {}
        missed = []
        for id in dict.fromkeys(ids):
            if answer := self._from_l1(id, wanted):
                answers[id] = answer
            else:
                missed.append(id)
        return answers | await self._read_on(missed, wanted) if missed else answers

    def _from_l1(self, id: str, wanted: Freshness) -> Answer | None:
        answer = None if wanted.bypass or self._serving is not self._l1 else self._look(id, wanted)
        if answer is None:
            self._l1_counters.misses += 1
        else:
            self._l1_counters.hits += 1
            if self._l1_counters.hits == self.sampler.due:
                self.sampler.take(None if answer.stale else Sample(id, answer.version, answer.value is not None))
        return answer

    def _look(self, id: str, wanted: Freshness) -> Answer | None:
        self._freshness_lease.check()
        entry = self._l1.get(id)
        if entry is None:
            return None
        now = self._clock.now()
        verdict = decision.of_entry(entry, now=now, policy=self.policy(), wanted=wanted)
        if verdict is Verdict.MISS:
            return None
        if verdict is Verdict.SERVE_AND_REFRESH:
            self.refresh(id)
        return _answer(entry.record, Source.L1, now, stale=verdict is Verdict.SERVE_STALE)

    async def _read_on(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        past = self.rollout.past(ids)
        if not past:
            return await self._read_tiers(ids, wanted)
        self._l1_counters.misses -= len(past)
        answers = await self._from_store_alone(past)
        rest = [id for id in ids if id not in answers]
        return answers | await self._read_tiers(rest, wanted) if rest else answers

    async def _read_tiers(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        if wanted.bypass:
            return await self._from_store(ids, wanted)
        answers = await self._from_l2(ids, wanted)
        for id in ids:
            # A second look: while this read asked Redis, another's load may have ended and filled L1. Without it, callers of
            # one cold id that are overtaken here would each start a load of their own.
            if id not in answers and (answer := self._look(id, wanted)):
                answers[id] = answer
        rest = [id for id in ids if id not in answers]
        if elsewhere := self._leases.elsewhere(rest):
            answers |= await self._from_elsewhere(elsewhere, wanted)
            rest = [id for id in rest if id not in answers]
        return answers | await self._from_store(rest, wanted) if rest else answers

    async def _from_l2(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        if not self.policy().l2_enabled:
            self._leases.note(ids, NOTHING)
            return {}
        try:
            records = await self._l2.get(ids, fresh=not self._joins, until=wanted.half(_now(), longest=self._l2_guard.timeout))
        except TimeoutError:
            # What Redis does not say in half of the caller's time, PostgreSQL is to say in the other half.
            records = {}
        answers = self._answers_of_l2(records, wanted)
        self.counters[Source.L2].misses += len(ids) - len(answers)
        return answers

    def _answers_of_l2(self, records: Mapping[str, Record], wanted: Freshness) -> dict[str, Answer]:
        now, policy = self._clock.now(), self.policy()
        answers = {
            id: _answer(record, Source.L2, now, stale=self._behind_in[partition_of(id)])
            for id, record in records.items()
            if decision.l2_serves(record, now=now, policy=policy, wanted=wanted)
        }
        self.counters[Source.L2].hits += len(answers)
        return answers

    async def _from_elsewhere(self, ids: Sequence[str], wanted: Freshness) -> dict[str, Answer]:
        """Returns what L1 still holds, marked stale, or what the sidecars that are loading these ids put into Redis."""
        answers = {id: answer for id in ids if (answer := self._stale(id, wanted))}
        records = await self._leases.outcome([id for id in ids if id not in answers], until=wanted.half(_now()))
        return answers | self._answers_of_l2(records, wanted)

    async def _from_store(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        try:
            fresh = not self._joins or wanted.bypass or wanted.max_age is not None
            records = await self._store.get(ids, fresh=fresh, until=wanted.in_time)
        except TimeoutError:
            self.counters[Source.STORE].errors += 1
            return await self._without_store(ids, wanted, DeadlineExceeded())
        except Overloaded as error:
            self.counters[Source.STORE].errors += 1
            return await self._without_store(ids, wanted, error)
        except TierFailed as error:  # counted by the load
            return await self._without_store(ids, wanted, error)
        now = self._clock.now()
        self.counters[Source.STORE].hits += len(records)
        return {id: _answer(record, Source.STORE, now) for id, record in records.items()}

    async def _from_store_alone(self, ids: list[str]) -> dict[str, Answer]:
        records = await self.rollout.read(ids)
        now = self._clock.now()
        self.counters[Source.STORE].hits += len(records)
        return {id: _answer(record, Source.STORE, now) for id, record in records.items()}

    async def read_together(self, load: Callable[[], Awaitable[Mapping[str, Row | UnreadableRow]]]) -> dict[str, Answer | None]:
        """Returns what one load of the caller's own finds, all of it as of one moment; errors as of the load.

        None stands for a row that cannot be read.

        What Redis holds of that in an older version is replaced behind the reply. What it does not hold it still lacks: without
        a lease, nobody knows whether that is out of date by the time it gets there.
        """
        read_at = self._clock.now()
        try:
            rows = await load()
        except TierFailed:
            self.counters[Source.STORE].errors += 1
            raise
        self.counters[Source.STORE].hits += len(rows)
        records: dict[str, Record] = {}
        for id, row in rows.items():
            if isinstance(row, UnreadableRow):
                self.note_unreadable(row)
            else:
                records[id] = self._read_record(row, read_at)
        unread = set(self.rollout.past(list(records)))
        self._behind.start(self._fill_l2({id: record for id, record in records.items() if id not in unread}, {}))
        now = self._clock.now()
        return dict.fromkeys(rows) | {id: _answer(record, Source.STORE, now) for id, record in records.items()}

    async def _would_answer(self, ids: list[str]) -> dict[str, Answer]:
        """Returns what reads are answered with when it is not PostgreSQL alone that answers."""
        answers = {id: answer for id in ids if (answer := self._look(id, ANY))}
        self._l1_counters.hits += len(answers)
        self._l1_counters.misses += len(ids) - len(answers)
        rest = [id for id in ids if id not in answers]
        return answers | await self._read_tiers(rest, ANY) if rest else answers

    async def _without_store(self, ids: list[str], wanted: Freshness, error: TierFailed | RequestError) -> dict[str, Answer]:
        """Returns what there is, marked stale; raises the error if that is not all."""
        answers: dict[str, Answer] = {}
        if isinstance(error, RequestError) or action(error, Operation.READ) is Action.SERVE_STALE:
            answers = {id: answer for id in ids if (answer := self._stale(id, wanted))}
            answers |= await self._in_doubt([id for id in ids if id not in answers], wanted)
        if len(answers) < len(ids):
            raise error
        return answers

    async def _in_doubt(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        """Returns what Redis holds and would be passed over, since it may be out of date; PostgreSQL cannot tell."""
        if wanted.bypass or not ids or not self.policy().l2_enabled:
            return {}
        try:
            found = await self._l2_guard.run(partial(self._l2_tier.read_quarantined, self.name, ids))
        except TierFailed:
            return {}
        records = {id: record for id, record in found.items() if record.value and not self._written.outruns(id, record)}
        return {id: answer._replace(stale=True) for id, answer in self._answers_of_l2(records, wanted).items()}

    def _stale(self, id: str, wanted: Freshness) -> Answer | None:
        entry, now = self._l1.get(id), self._clock.now()
        if entry is None or not decision.stale_serves(entry, now=now, policy=self.policy(), wanted=wanted):
            return None
        return _answer(entry.record, Source.L1, now, stale=True)

    def refresh(self, id: str) -> None:
        """Reads an id anew, behind the replies."""
        self._behind.once("memory", self._refreshed, id)

    async def _refreshed(self, id: str) -> None:
        """Refreshes what L1 holds."""
        # Without the second look of `_read_tiers`: it would find the very entry that is to be refreshed.
        if not await self._from_l2([id], ANY) and not self._leases.elsewhere([id]):
            await self._from_store([id], ANY)

    # Writes

    async def committed(self, id: str, version: int, value: bytes | None) -> None:
        """Takes a committed change to the caches; see `told`."""
        await self.told({id: self.record(version, value)})

    def record(self, version: int, value: bytes | None) -> Record:
        """Returns what caches keep of an id that was changed just now."""
        return Record(version, self._clock.now(), value)

    async def told(self, changes: Mapping[str, Record | int]) -> bool:
        """Takes committed changes to the caches, and returns whether Redis heard of them; if not, the relay tells it later.

        A bare version instead of a record says only what is out of date. Never fails: from here on no reply of this sidecar
        is older, whatever Redis still holds.
        """
        versions = {id: change if isinstance(change, int) else change.version for id, change in changes.items()}
        if not changes:
            return True
        for id, version in versions.items():
            self._written.remember(id, version)
            self.changed(id, version)
        stored = self.rollout.without_unread(changes)
        try:
            ttl, footing = self._l2_ttl(self.policy()), self._l2_tier.footing(versions)
            await self._l2_guard.run(lambda: self._l2_tier.change(self.name, stored, ttl=ttl), Operation.CHANGE)
        except TierFailed as error:
            self.counters[Source.L2].errors += 1
            if action(error, Operation.CHANGE) is not Action.LEAVE_TO_RELAY:
                raise
            if error.failure is Failure.REFUSED:
                self.on_refusal(versions)
            return False
        # An old primary takes what it is told, too, and nobody reads it there.
        return None not in footing and footing == self._l2_tier.footing(versions)

    async def drop(self, ids: Sequence[str]) -> None:
        """Drops ids from every cache. Raises TierFailed when only this sidecar's memory could be emptied."""
        for id in ids:
            self.changed(id, 0)
        for first in range(0, len(ids), MAX_DROPS):
            part = ids[first : first + MAX_DROPS]
            await self._l2_guard.run(partial(self._l2_tier.drop, self.name, part), Operation.WRITE)
        for id in ids:
            self.changed(id, 0)  # what was read from Redis meanwhile

    async def drop_all(self) -> int:
        """Drops everything from every cache, and returns how many keys Redis held; errors as of `drop`."""
        self._everything_changed()
        removed = await self._l2_tier.drop_all(self.name)
        self._everything_changed()  # what was read from Redis meanwhile
        return removed

    def _everything_changed(self) -> None:
        for partition in range(PARTITIONS):
            self.on_partition_reset(partition)

    # What other sidecars, the relay and the connection to Redis tell

    def changed(self, id: str, version: int) -> None:
        """An id has a new version; 0 when it is only to be read again."""
        self._l1.drop(id, version)
        # What is being loaded may be older: callers from now on don't join it.
        self._l2.detach(id)
        self._leases.detach(id)
        self._store.detach(id)

    def on_partition_reset(self, partition: int) -> None:
        """Anything in a partition may have changed."""
        self._l1.drop_partition(partition)
        self._detach_all()

    def _detach_all(self) -> None:
        self._l2.detach_all()
        self._leases.detach_all()
        self._store.detach_all()

    def set_trusted(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Says whether every change in a partition is known to be told, and for how many seconds that has been so."""
        self._l1.set_trusted(partition, trusted, now=self._clock.now() - late)
        if not trusted:
            # What is being loaded may have changed meanwhile: callers from now on don't join it.
            self._detach_all()

    def policy_changed(self, old: DatasetPolicy) -> None:
        """Takes another policy, in force from now on, to what was cached under the old one."""
        policy = self.policy()
        self._serving = NO_L1 if policy.shadow else self._l1
        if empties_memory(old, policy):
            self._l1.clear()
            self._detach_all()
        if policy.l2_ttl > old.l2_ttl:
            self._behind.start(self._extend_ttl(policy.l2_ttl))

    def set_behind(self, partition: int, behind: bool) -> None:
        """Says whether a partition's caches are told of changes too late: replies from them then say stale."""
        self._behind_in[partition] = behind
        self._l1.set_behind(partition, behind)

    # Looking in

    @property
    def l1_hits(self) -> int:
        """Reads answered from L1 since the start."""
        return self._l1_counters.hits

    def peek(self, id: str) -> Record | None:
        """Returns what a read that is answered from L1, and not marked stale, would be answered with now."""
        self._freshness_lease.check()
        entry = self._serving.get(id)
        if entry is None:
            return None
        verdict = decision.of_entry(entry, now=self._clock.now(), policy=self.policy(), wanted=ANY)
        return entry.record if verdict in (Verdict.SERVE, Verdict.SERVE_AND_REFRESH) else None

    def stats(self) -> dict[Source, TierStats]:
        """Returns the counters of each tier."""
        l1 = self._l1.stats()
        loads = {Source.L2: self._l2.loads, Source.STORE: self._store.loads + self.rollout.batch.loads}
        coalesced = {Source.L2: self._l2.coalesced, Source.STORE: self._store.coalesced + self.rollout.batch.coalesced}
        return {
            source: TierStats(
                replace(counters, hits=counters.hits + l1.hits) if source is Source.L1 else counters,
                entries=l1.entries if source is Source.L1 else 0,
                bytes=l1.bytes if source is Source.L1 else 0,
                evictions=l1.evictions if source is Source.L1 else 0,
                loads=loads.get(source, 0),
                coalesced=coalesced.get(source, 0),
                unreadable=self._l2_tier.unreadable.get(self.name, 0) if source is Source.L2 else counters.unreadable,
            )
            for source, counters in self.counters.items()
        }

    async def close(self) -> None:
        """Waits for what goes on behind the replies."""
        await self.rollout.close()
        await self._behind.ended()
        await self._leases.close()
        await self._l2.close()
        await self._store.close()
        await self._behind.ended()  # what those loads left to be filled


def _nobody(_ids: Iterable[str]) -> None:
    """Hears of nothing."""


def _answer(record: Record, source: Source, now: float, *, stale: bool = False) -> Answer:
    return Answer(record.value, source, record.version, max(0.0, now - record.read_at), stale, record.expiry)


def _now() -> float:
    return asyncio.get_running_loop().time()
