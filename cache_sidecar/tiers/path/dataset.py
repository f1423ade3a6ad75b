"""THE read and write path of a cached dataset. Read it downward: `get`, then what it calls.

A read asks L1, then Redis, then PostgreSQL, and fills the caches on the way back. Reads that miss are coalesced per id and go
out in batches (`loader.py`). A write is PostgreSQL's; `publish` brings the caches up to date after its commit.

    hit -> L1, fresh entries only
    get -> _from_l1
        -> _read_past_l1 -> _read_tiers -> _from_l2        -> Loader: Redis -> L1
                                        -> _from_elsewhere -> Leases: what another sidecar is loading
                                        -> _from_store     -> Loader: PostgreSQL -> L1, and behind the reply Redis
                         -> Rollout: PostgreSQL alone      -> in shadow, behind the reply: _would_answer

What a tier's failure leads to is decided in `failure.py`, what an entry's age leads to in `decision.py`, when records expire in
`expiry.py`. A key that is not in the policy's rollout, and every key in shadow, is read from PostgreSQL alone. L1 answers
without looking at the rollout, so `policy_changed` drops what must not answer. Writes update every cache at every setting, so
none has anything to catch up on when a setting changes.
"""

import asyncio
import operator
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core import tracing
from cache_sidecar.core.errors import DataLoss, DeadlineExceeded, Failure, Operation, Overloaded, RequestError, TierFailed
from cache_sidecar.core.tracing import Attribute, Span
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.memory.clock import NO_L1
from cache_sidecar.tiers.path import decision
from cache_sidecar.tiers.path.counters import TierStats
from cache_sidecar.tiers.path.decision import Verdict
from cache_sidecar.tiers.path.expiry import ExpiryStrategy, FixedExpiry
from cache_sidecar.tiers.path.held import Held
from cache_sidecar.tiers.path.loader import NOTHING, Loader
from cache_sidecar.tiers.path.rollout import Rollout, empties_memory
from cache_sidecar.tiers.path.sampler import HitSampler, Sample
from cache_sidecar.tiers.path.shadow import Same
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import (
    ANY,
    L1,
    PARTITIONS,
    Answer,
    Freshness,
    L1Stats,
    Record,
    Row,
    Source,
    UnreadableRow,
    partition_of,
)
from cache_sidecar.tiers.resilience.failure import Action, action

# Ids per call that drops them: each one is a message to every sidecar, and all have to fit into the time limit of a command.
MAX_DROPS = 100


class Dataset:
    """One dataset in its tiers: what is read and written, and what coherence and operators change."""

    def __init__(
        self,
        tiers: Tiers,
        expiry: ExpiryStrategy | None = None,
        *,
        rollout_key: Callable[[str], str] = str,
        same: Same = operator.eq,
        freshness_lease: FreshnessLease | None = None,
        is_private: bool = False,
    ) -> None:
        """`expiry` is a fixed age by default.

        `rollout_key` returns what an id is rolled out by, the id itself by default; `same` compares two values. Coherence ends
        the trust in L1 through `set_trusted`, and `freshness_lease` when that comes too late. With `is_private`, ids are
        personal data and never logged.
        """
        self.name = tiers.name
        self.is_private = is_private
        self.policy = tiers.policy
        self._l1 = tiers.l1
        self._l2 = tiers.l2
        self._l2_guard = tiers.l2_guard
        self._load = tiers.load
        self._clock = tiers.clock
        self.expiry = expiry or FixedExpiry(tiers)
        self.loader = Loader(tiers, self.expiry)
        self.rollout = Rollout(
            tiers,
            self.loader.load_past_caches,
            ask_caches=self._would_answer,
            key=rollout_key,
            same=same,
            shows_ids=not is_private,
        )
        self._freshness_lease = freshness_lease or FreshnessLease()
        self._serving: L1 = NO_L1 if tiers.policy().shadow else tiers.l1
        "L1 as far as it answers reads: nothing in shadow, whatever it holds."
        self._lagging = [False] * PARTITIONS
        "By partition, whether the relay publishes changes too late."
        self.on_refusal: Callable[[Iterable[str]], None] = _ignore
        "Called with the ids whose invalidation Redis refused to publish."
        self.sampler = HitSampler(lambda: tiers.policy().inspect_every, tiers.rng)
        self.reuse = tiers.reuse
        self.counters = self.loader.counters
        self._l1_counters = self.counters[Source.L1]

    # Reads

    def hit(self, id: str) -> tuple[Record, float] | None:
        """Returns a fresh record from L1, and its age in seconds, without waiting; None if `get` has to decide.

        The fast path of `_lookup`: the same rules, for the one verdict that most reads get.
        """
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
        self.reuse.read(id, now)
        return record, max(0.0, now - record.read_at)

    async def get(self, id: str, wanted: Freshness = ANY) -> Answer:
        """Returns the value of an id, or that there is none.

        Raises TierFailed when no tier can answer, Overloaded when too many ids wait, DataLoss for a row that cannot be read.
        """
        answer = self._from_l1(id, wanted) or (await self._read_past_l1([id], wanted)).get(id)
        if answer is None:
            raise DataLoss(self.name, id)
        return answer

    async def get_many(self, ids: Iterable[str], wanted: Freshness = ANY) -> dict[str, Answer]:
        """Returns the answer for each id, without those whose rows cannot be read; other errors as of `get`."""
        answers: dict[str, Answer] = {}
        missed = []
        for id in dict.fromkeys(ids):
            if answer := self._from_l1(id, wanted):
                answers[id] = answer
            else:
                missed.append(id)
        return answers | await self._read_past_l1(missed, wanted) if missed else answers

    def _from_l1(self, id: str, wanted: Freshness) -> Answer | None:
        """Returns L1's answer; counts and samples a hit, and starts the refresh that is due."""
        if wanted.bypass or self._serving is NO_L1:
            return None
        verdict, answer = self._lookup(id, wanted)
        if answer is None:
            return None
        if verdict is Verdict.SERVE_AND_REFRESH:
            self.refresh(id)
        self._l1_counters.hits += 1
        if self._l1_counters.hits == self.sampler.due:
            self.sampler.take(None if answer.stale else Sample(id, answer.version, answer.value is not None))
        self.reuse.read(id, self._clock.now())
        return answer

    def _lookup(self, id: str, wanted: Freshness, *, last_resort: bool = False) -> tuple[Verdict, Answer | None]:
        """Looks into L1: the verdict on what it holds, and the answer unless that is a miss. Changes and counts nothing.

        As a `last_resort`, for reads that no other tier can answer, an expired entry is served for a while, marked stale.
        """
        # Before the entry, by this reader's clock: the heartbeat that should have noticed may itself be late.
        if self._freshness_lease.clock() >= self._freshness_lease.until:
            self._freshness_lease.check()
        entry = self._l1.get(id)
        if entry is None:
            return Verdict.MISS, None
        now, policy = self._clock.now(), self.policy()
        if last_resort:
            is_served = decision.serves_as_last_resort(entry, now=now, policy=policy, wanted=wanted)
            verdict = Verdict.SERVE_STALE if is_served else Verdict.MISS
        else:
            verdict = decision.verdict_on(entry, now=now, policy=policy, wanted=wanted)
        if verdict is Verdict.MISS:
            return verdict, None
        return verdict, _answer(entry.record, Source.L1, now, stale=verdict is Verdict.SERVE_STALE)

    async def _read_past_l1(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        """Reads what L1 did not answer: some keys may bypass the caches, the others missed in L1."""
        answers: dict[str, Answer] = {}
        if bypassing := self.rollout.bypassing(ids):
            answers = self._answers_from_store(await self.rollout.read(bypassing))
            skipped = set(bypassing)
            ids = [id for id in ids if id not in skipped]
        self._l1_counters.misses += len(ids)
        if ids and (span := tracing.current()) is not None:
            span.add_event("missed in memory", {"cache_sidecar.dataset": self.name, "cache_sidecar.ids": len(ids)})
        self._follow_reuse(ids)
        return answers | await self._read_tiers(ids, wanted) if ids else answers

    async def _read_tiers(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        """Reads Redis, then what another sidecar is loading, then PostgreSQL."""
        if wanted.bypass:
            return await self._from_store(ids, wanted)
        answers: dict[str, Answer] = {}
        if wanted.max_age is None and (expired := self.expiry.find_expired(ids)):
            answers = dict.fromkeys(expired, Answer(None, Source.STORE, 0, 0.0, stale=False))
        if rest := [id for id in ids if id not in answers]:
            answers |= await self._from_l2(rest, wanted)
        for id in rest:
            # A second look: while this read asked Redis, another read's load may have ended and filled L1. Without it, of many
            # readers of one cold id, each that comes here after that load would start a load of its own.
            if id not in answers and (answer := self._lookup(id, wanted)[1]):
                answers[id] = answer
        rest = [id for id in rest if id not in answers]
        if not rest:
            return answers
        if elsewhere := self.loader.leases.loading_elsewhere(rest):
            answers |= await self._from_elsewhere(elsewhere, wanted)
            rest = [id for id in rest if id not in answers]
        return answers | await self._from_store(rest, wanted) if rest else answers

    async def _from_l2(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        if not self.policy().l2_enabled:
            self.loader.leases.note(ids, NOTHING)
            return {}
        # What Redis does not answer in half of the caller's time, PostgreSQL is to answer in the other half.
        until = wanted.half(asyncio.get_running_loop().time(), longest=self._l2_guard.timeout)
        with self._span("read", "l2", ids) as span:
            try:
                records = await self.loader.l2_batch.get(ids, fresh=not self.expiry.coalesces, until=until)
            except TimeoutError:
                records = {}
            answers = self._answers_from_l2(records, wanted)
            if span is not None:
                span.set("cache_sidecar.hits", len(answers))
        self.counters[Source.L2].misses += len(ids) - len(answers)
        return answers

    def _answers_from_l2(self, records: Mapping[str, Record], wanted: Freshness) -> dict[str, Answer]:
        """Returns the answers that records from Redis are good for, and counts them as hits."""
        now, policy = self._clock.now(), self.policy()
        answers = {
            id: _answer(record, Source.L2, now, stale=self._lagging[partition_of(id)])
            for id, record in records.items()
            if decision.l2_serves(record, now=now, policy=policy, wanted=wanted)
        }
        self.counters[Source.L2].hits += len(answers)
        return answers

    async def _from_elsewhere(self, ids: Sequence[str], wanted: Freshness) -> dict[str, Answer]:
        """Returns what L1 still holds, marked stale, or what the sidecars that are loading these ids put into Redis."""
        answers = self._last_resort(ids, wanted)
        waiting = [id for id in ids if id not in answers]
        with self._span("wait for", "elsewhere", waiting):
            records = await self.loader.leases.wait_for(waiting, until=wanted.half(asyncio.get_running_loop().time()))
        return answers | self._answers_from_l2(records, wanted)

    async def _from_store(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        """Reads PostgreSQL; if that fails, or its answer is degraded, serves what is left in the caches, marked stale."""
        failed: TierFailed | RequestError
        try:
            fresh = not self.expiry.coalesces or wanted.bypass or wanted.max_age is not None
            with self._span("read", "store", ids):
                records = await self.loader.store_batch.get(ids, fresh=fresh, until=wanted.in_time)
        except TimeoutError:
            failed = DeadlineExceeded()
            self.counters[Source.STORE].errors += 1
        except Overloaded as error:
            failed = error
            self.counters[Source.STORE].errors += 1
        except TierFailed as error:  # counted by the loader, once for all who wait
            failed = error
            if action(error, Operation.READ) is not Action.SERVE_STALE:
                raise
        else:
            last = self._last_resort((id for id, record in records.items() if record.degraded), wanted)
            return last | self._answers_from_store({id: record for id, record in records.items() if id not in last})
        answers = self._last_resort(ids, wanted)
        answers |= await self._from_quarantine([id for id in ids if id not in answers], wanted)
        if len(answers) < len(ids):
            raise failed
        return answers

    def _span(self, verb: str, tier: str, ids: Sized) -> AbstractContextManager[Span | None]:
        """Returns the span of what is done in a tier with ids, which it does not name; without effect unless that is traced."""
        if tracing.current() is None:
            return tracing.NO_SPAN
        attributes: dict[str, Attribute] = {
            "cache_sidecar.dataset": self.name,
            "cache_sidecar.tier": tier,
            "cache_sidecar.ids": len(ids),
        }
        return tracing.within(f"{verb} {self.name} {tier}", attributes=attributes)

    def _answers_from_store(self, records: Mapping[str, Record]) -> dict[str, Answer]:
        """Returns the answers from records that were just read from PostgreSQL, and counts them."""
        now = self._clock.now()
        self.counters[Source.STORE].hits += len(records)
        return {id: _answer(record, Source.STORE, now) for id, record in records.items()}

    def _last_resort(self, ids: Iterable[str], wanted: Freshness) -> dict[str, Answer]:
        return {id: answer for id in ids if (answer := self._lookup(id, wanted, last_resort=True)[1])}

    async def _from_quarantine(self, ids: list[str], wanted: Freshness) -> dict[str, Answer]:
        """Returns what Redis holds in quarantined partitions, marked stale: it may be out of date, but PostgreSQL is down."""
        if wanted.bypass or not ids or not self.policy().l2_enabled:
            return {}
        try:
            found = await self._l2_guard.run(partial(self._l2.read_quarantined, self.name, ids))
        except TierFailed:
            return {}
        own_writes = self.loader.own_writes
        records = {id: record for id, record in found.items() if record.value and not own_writes.supersedes(id, record)}
        answers = {id: answer._replace(stale=True) for id, answer in self._answers_from_l2(records, wanted).items()}
        return dict(self.expiry.on_quarantined_answers(answers))

    async def read_together(self, load: Callable[[], Awaitable[Mapping[str, Row | UnreadableRow]]]) -> dict[str, Answer | None]:
        """Returns what one load of the caller's own finds, all of it as of one moment; errors as of the load.

        None stands for a row that cannot be read. Older versions in Redis are replaced behind the reply. What Redis does not
        hold is not filled in: there is no lease, and without one a fill could bring back what was changed and evicted since.
        """
        read_at = self._clock.now()
        try:
            rows = await load()
        except TierFailed:
            self.counters[Source.STORE].errors += 1
            raise
        records: dict[str, Record] = {}
        for id, row in rows.items():
            if isinstance(row, UnreadableRow):
                self.loader.note_unreadable(row)
            else:
                records[id] = self.expiry.to_record(row, read_at)
        bypassing = set(self.rollout.bypassing(list(records)))
        fill = {id: record for id, record in records.items() if id not in bypassing and not record.degraded}
        self.loader.background.try_spawn(self.loader.fill_l2(fill, {}))
        return dict.fromkeys(rows) | self._answers_from_store(records)

    async def _would_answer(self, ids: list[str]) -> dict[str, Answer]:
        """Returns what reads would be answered if the caches answered them: for the comparison in shadow."""
        answers: dict[str, Answer] = {}
        for id in ids:
            verdict, answer = self._lookup(id, ANY)
            if verdict is Verdict.SERVE_AND_REFRESH:
                self.refresh(id)
            if answer is not None:
                answers[id] = answer
        rest = [id for id in ids if id not in answers]
        self._l1_counters.hits += len(answers)
        self._l1_counters.misses += len(rest)
        self._follow_reuse(ids)
        return answers | await self._read_tiers(rest, ANY) if rest else answers

    def _follow_reuse(self, ids: Iterable[str]) -> None:
        now = self._clock.now()
        for id in ids:
            self.reuse.read(id, now)

    def refresh(self, id: str) -> None:
        """Refreshes an id in L1, behind the replies."""
        self.loader.background.once(("refresh", id), self._refresh, id)

    async def _refresh(self, id: str) -> None:
        self._l1_counters.refreshes += 1
        # Not by `_read_tiers`: its second look would find the very entry that is to be refreshed.
        if not await self._from_l2([id], ANY) and not self.loader.leases.loading_elsewhere([id]):
            await self._from_store([id], ANY)

    # Writes

    def record(self, version: int, value: bytes | None) -> Record:
        """Returns what caches keep of an id that was changed just now."""
        return self.expiry.to_record(Row(version, value), self._clock.now())

    async def publish(self, changes: Mapping[str, Record | int]) -> bool:
        """Writes committed changes to the caches and publishes their invalidations; returns whether they are published.

        If not, the relay publishes them later. A bare version instead of a record only invalidates what is older. Never fails:
        from here on no reply of this sidecar is older, whatever Redis still holds.
        """
        if not changes:
            return True
        versions = {id: change if isinstance(change, int) else change.version for id, change in changes.items()}
        for id, version in versions.items():
            self.loader.own_writes.remember(id, version)
            self.on_invalidate(id, version)
        changes = {
            id: change if isinstance(change, int) else self.expiry.to_publish(id, change) for id, change in changes.items()
        }
        stored = self.rollout.drop_unread_values(changes)
        try:
            ttl, footing = self.expiry.l2_ttl(), self._l2.footing(versions)
            change = partial(self._l2.put_if_newer, self.name, stored, ttl=ttl)
            with self._span("publish", "l2", versions):
                newer = await self._l2_guard.run(change, Operation.CHANGE)
        except TierFailed as error:
            self.counters[Source.L2].errors += 1
            if action(error, Operation.CHANGE) is not Action.LEAVE_TO_RELAY:
                raise
            if error.failure is Failure.REFUSED:
                self.on_refusal(versions)
            return False
        if newer:
            # Usually another writer was faster. But what is forged must not outlive an update that is acknowledged.
            try:
                await self.loader.check_newer(newer)
            except (TierFailed, Overloaded):
                return False  # the relay finds it again
        # An old primary that was replaced acknowledges, too, but no sidecar subscribes to it or reads from it any more.
        return None not in footing and footing == self._l2.footing(versions)

    async def drop(self, ids: Sequence[str]) -> None:
        """Drops ids from every cache. Raises TierFailed when only this sidecar's L1 could be emptied."""
        for id in ids:
            self.on_invalidate(id, 0)
        for first in range(0, len(ids), MAX_DROPS):
            part = ids[first : first + MAX_DROPS]
            await self._l2_guard.run(partial(self._l2.drop, self.name, part), Operation.WRITE)
        for id in ids:
            self.on_invalidate(id, 0)  # a read may have taken it from Redis to L1 before Redis dropped it

    async def drop_all(self) -> int:
        """Drops everything from every cache, and returns how many keys Redis held; errors as of `drop`."""
        self._drop_partitions()
        removed = await self._l2.drop_all(self.name)
        self._drop_partitions()  # as in `drop`
        return removed

    def _drop_partitions(self) -> None:
        for partition in range(PARTITIONS):
            self.on_partition_reset(partition)

    # What coherence and the policy change: see `ports.InvalidationListener`

    def on_invalidate(self, id: str, version: int) -> None:
        """Invalidates what is older than `version` of an id; 0 invalidates whatever there is."""
        self._l1.drop(id, version)
        self.reuse.change(id, version, self._clock.now())
        # A load that began before may return what is older. Reads that already wait for it may get that. A read that joined it
        # from now on would be answered with less than this version, after the change was announced.
        self.loader.forget_in_flight(id)
        self.expiry.forget(id)

    def on_partition_reset(self, partition: int) -> None:
        """Drops a partition: anything in it may have changed."""
        self._l1.drop_partition(partition)
        self.loader.forget_all_in_flight()
        self.expiry.forget_all()

    def on_lease_change(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        """Starts or ends the trust in what is held of a partition; `late` is for how many seconds that has been so."""
        self._l1.set_trusted(partition, trusted, now=self._clock.now() - late)
        if not trusted:
            # An invalidation may be missed from now on: a read that joined a load from before it would not see the change.
            self.loader.forget_all_in_flight()
        self.expiry.forget_all()

    def set_lagging(self, partition: int, lagging: bool) -> None:
        """Has replies from a partition's caches marked stale while the relay publishes its changes too late."""
        self._lagging[partition] = lagging
        self._l1.set_lagging(partition, lagging)

    def policy_changed(self, old: DatasetPolicy) -> None:
        """Applies a new policy, in effect from now on, to what was cached under the old one."""
        policy = self.policy()
        self._serving = NO_L1 if policy.shadow else self._l1
        if empties_memory(old, policy):
            self._l1.clear()
            self.loader.forget_all_in_flight()
        self.expiry.forget_all()
        if policy.l2_ttl > old.l2_ttl:
            self.loader.background.try_spawn(self.loader.extend_ttl(policy.l2_ttl))

    def note_unreadable(self, row: UnreadableRow) -> None:
        """Counts and logs a row that a caller's own query found and could not read."""
        self.loader.note_unreadable(row)

    # What operators and auditors see

    @property
    def l1_hits(self) -> int:
        """Reads answered from L1 since the start."""
        return self._l1_counters.hits

    def l1_stats(self) -> L1Stats:
        """Returns the counters of L1."""
        return self._l1.stats()

    def peek(self, id: str) -> Answer | None:
        """Returns what a read would be answered with from L1 now; None if by another tier, or marked stale."""
        answer = None if self._serving is NO_L1 else self._lookup(id, ANY)[1]
        return None if answer is None or answer.stale else answer

    async def find_held(self, ids: Sequence[str]) -> list[Held]:
        """Returns what each tier holds of ids, one row per id and tier. Fills nothing, and counts neither hits nor misses."""
        in_l1 = [self._look_into_l1(id) for id in ids]
        in_l2, in_store = await asyncio.gather(self._look_into_l2(ids), self._look_into_store(ids))
        return [*in_l1, *in_l2, *in_store]

    def _look_into_l1(self, id: str) -> Held:
        verdict, known = self._lookup(id, ANY)[0], self._l1.newest(id)
        entry = self._l1.get(id)
        if entry is None:
            return Held(id, Source.L1, known_version=known)
        is_served = self._serving is not NO_L1 and verdict is not Verdict.MISS
        return Held(
            id,
            Source.L1,
            entry.record,
            is_served=is_served,
            is_stale=is_served and verdict is Verdict.SERVE_STALE,
            known_version=known,
        )

    async def _look_into_l2(self, ids: Sequence[str]) -> list[Held]:
        try:
            found = await self._l2_guard.run(partial(self._l2.read, self.name, ids))
            doubtful = await self._l2_guard.run(partial(self._l2.read_quarantined, self.name, ids))
        except TierFailed as error:
            return [Held(id, Source.L2, problem=error.failure.value) for id in ids]
        now, policy = self._clock.now(), self.policy()
        skipped = {*doubtful, *self.rollout.bypassing(ids)} if policy.l2_enabled else set(ids)
        rows = []
        for id in ids:
            record = found.get(id)
            is_served = (
                record is not None
                and id not in skipped
                and not self.loader.own_writes.supersedes(id, record)
                and decision.l2_serves(record, now=now, policy=policy, wanted=ANY)
            )
            is_stale = is_served and self._lagging[partition_of(id)]
            rows.append(Held(id, Source.L2, record, is_served=is_served, is_stale=is_stale))
        return rows

    async def _look_into_store(self, ids: Sequence[str]) -> list[Held]:
        """Returns what PostgreSQL has: read as the caches read it, but kept by none."""
        now = self._clock.now()
        try:
            rows = await self._load(ids)
        except TierFailed as error:
            return [Held(id, Source.STORE, problem=error.failure.value) for id in ids]
        except Overloaded as error:
            return [Held(id, Source.STORE, problem=str(error)) for id in ids]
        found: list[Held] = []
        for id in ids:
            row = rows.get(id)
            record = row if row is None or isinstance(row, UnreadableRow) else self.expiry.to_record(row, now)
            found.append(Held(id, Source.STORE, record, is_served=not isinstance(row, UnreadableRow)))
        return found

    def stats(self) -> dict[Source, TierStats]:
        """Returns the counters of each tier."""
        l1, store, alone = self._l1.stats(), self.loader.store_batch, self.rollout.batch
        loads = {Source.L2: self.loader.l2_batch.loads, Source.STORE: store.loads + alone.loads}
        batches = {Source.L2: self.loader.l2_batch.batches, Source.STORE: store.batches + alone.batches}
        coalesced = {Source.L2: self.loader.l2_batch.coalesced, Source.STORE: store.coalesced + alone.coalesced}
        return {
            source: TierStats(
                replace(counters, hits=counters.hits + l1.hits) if source is Source.L1 else counters,
                entries=l1.entries if source is Source.L1 else 0,
                bytes=l1.bytes if source is Source.L1 else 0,
                evictions=l1.evictions if source is Source.L1 else 0,
                refused=l1.refused if source is Source.L1 else 0,
                loads=loads.get(source, 0),
                batches=batches.get(source, 0),
                coalesced=coalesced.get(source, 0),
                unreadable=self._l2.unreadable.get(self.name, 0) if source is Source.L2 else counters.unreadable,
                unsigned=self._l2.unsigned.get(self.name, 0) if source is Source.L2 else 0,
            )
            for source, counters in self.counters.items()
        }

    async def close(self) -> None:
        """Waits for what runs behind the replies."""
        await self.rollout.close()
        await self.loader.close()


def _ignore(_ids: Iterable[str]) -> None:
    """Does nothing, until the app asks for refusals."""


def _answer(record: Record, source: Source, now: float, *, stale: bool = False) -> Answer:
    return Answer(record.value, source, record.version, max(0.0, now - record.read_at), stale, record.expiry)
