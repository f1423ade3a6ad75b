"""L2: the shared Redis or Valkey, a cluster or a single server; see `ports.L2`."""

import asyncio
import hashlib
import itertools
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import NoScriptError, OutOfMemoryError

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import CLOCK_SKEW
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.tiers.ports import PARTITIONS, Leased, Newer, Published, Record, Times, partition_of
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import Routed, host_port, unwrap
from cache_sidecar.tiers.redis.errors import without_details
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.node import REFUSES, Address
from cache_sidecar.tiers.redis.scripts import SCRIPTS

# A message names one id, or none if more than MERGE_OVER ids of a partition change at once. One call marks
# MARKED_AT_ONCE ids, which keeps Redis busy for a millisecond; CALLS_AT_ONCE calls go out in one pipeline, which has to be done
# within the time limit of a command.
MERGE_OVER = 8
MARKED_AT_ONCE = 200
CALLS_AT_ONCE = 32
# How long leases last. An exclusive one keeps other sidecars from loading: it covers the 2 seconds that PostgreSQL gets by
# default, and is what the death of its holder costs them. One that merely guards a fill outlives any load.
LEASE_MILLISECONDS = 3_000
GUARD_MILLISECONDS = 10_000
# Seconds between two log lines about records without a valid MAC.
LOG_EVERY = 60.0
# Minimum seconds between two attempts to load the scripts into a server that refused them.
LOAD_AGAIN = 0.5
NO_CHECKS: Mapping[str, Callable[[str, bytes], bool]] = {}


class RedisL2:
    """Reads and writes records; see `ports.L2`."""

    def __init__(
        self,
        connection: RedisClient,
        names: KeyNames,
        *,
        macs: Macs | None = None,
        is_entry: Mapping[str, Callable[[str, bytes], bool]] = NO_CHECKS,
    ) -> None:
        """With `macs`, records are signed, and those of other programs are not read.

        `is_entry` has for a dataset what decides whether a value can be what caches keep of an id.
        """
        self._macs = macs
        self.signs = macs is not None
        "Whether records have MACs: then only those are read."
        self._is_entry = is_entry
        self._unsigned_limit = LogLimit(every=LOG_EVERY)
        self._connection = connection
        self._cluster = connection.cluster
        self._names = names
        self._holder = secrets.token_hex(8).encode()
        "What this sidecar's leases begin with."
        self._leases = itertools.count()
        self._refusal: TierFailed | None = None
        "Why the scripts could not be loaded."
        self._load_at = 0.0
        "When that may be tried again, in the event loop's time."
        self.unreadable: Counter[str] = Counter()
        "Values found in Redis that were no records, by dataset."
        self.unsigned: Counter[str] = Counter()
        "Values without a valid MAC."

    # Reads

    async def read(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:
        """Returns the readable records among the ids, from primaries only."""
        keys = {self._names.key(dataset, id): id for id in ids}
        groups = _group_by_slot(keys)
        replies = await self._cluster.send([Routed(slot, ("MGET", *group)) for slot, group in groups.items()])
        found = zip(itertools.chain(*groups.values()), itertools.chain(*map(unwrap, replies)), strict=True)
        return self._sort(dataset, ((keys[key], value) for key, value in found if value is not None)).found.records

    async def read_quarantined(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:  # noqa: ARG002
        """Returns nothing: `read_leased` leaves nothing out."""
        return {}

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        """Reads, and takes exclusive leases on what is absent. From primaries only: it writes.

        Ids whose node does not answer are absent, and without a lease. Raises TierFailed when no node answers.
        """
        keys = {self._names.key(dataset, id): id for id in ids}
        lease = self._new_lease(), LEASE_MILLISECONDS
        await self._cluster.ready()
        # One call per node, declaring the keys of one slot, and one call per slot for keys that have moved to another node.
        names = list(keys)
        groups = [[names[n] for n in part] for part in self._cluster.group_by_node(map(_slot_of, names))]
        try:
            found = await self._read_groups(groups, [_script("read", group[:1], *lease, *group[1:]) for group in groups])
            if moved := [key for key, value in found if value is None]:
                groups = list(_group_by_slot(moved).values())
                found += await self._read_groups(groups, [_script("read", group, *lease) for group in groups])
        except _Full:
            # A Redis that is full takes no lease, but can still be read.
            return Leased(await self.read(dataset, ids), {})
        values = ((keys[key], value) for key, value in found if value is not None)
        return await self._replace(dataset, self._sort(dataset, values, exclusive=True), *lease)

    async def _read_groups(self, groups: list[list[str]], calls: list[Routed]) -> list[tuple[str, Any]]:
        """Returns the keys of the groups that were answered, with what they hold. Raises what went wrong if none was."""
        replies = await self._replies(calls, together=True)
        if any(isinstance(reply, OutOfMemoryError) for reply in replies):
            raise _Full
        return list(itertools.chain(*(zip(groups[n], reply, strict=True) for n, reply in _successes(replies))))

    async def touch(self, dataset: str, ids: Sequence[str], times: Times, histories: Mapping[str, str] | None = None) -> Leased:
        """Reads records that slide, and extends the life of those that have not expired: one call per id.

        Nodes that fail are handled as in `read_leased`. `histories` are those of the nodes that hold the ids, see `Expiry`; an
        expired record keeps the one under which its last use was counted.
        """
        histories = histories or {}
        moments = [codec.milliseconds(moment) for moment in (times.now, times.expired_before, times.flush_before)]
        lease = self._new_lease(), GUARD_MILLISECONDS
        arguments = (*moments, int(times.ttl * 1000), *lease)
        replies = await self._replies(
            [_script("touch", [self._names.key(dataset, id)], *arguments, codec.history(histories.get(id, ""))) for id in ids],
            together=True,
        )
        values = ((ids[number], value) for number, value in _successes(replies))
        return await self._replace(dataset, self._sort(dataset, values, now=times.now), *lease)

    def _new_lease(self) -> bytes:
        # A number per read: a fill whose read began under an earlier lease must not pass for one under this lease.
        return codec.lease(b"%b%x" % (self._holder, next(self._leases)))

    def _sort(
        self, dataset: str, values: Iterable[tuple[str, bytes]], *, exclusive: bool = False, now: float = math.inf
    ) -> "_Sorted":
        """Sorts values into records, leases and the rest.

        With `exclusive`, a lease of another sidecar only shows that it is loading. A use after `now` cannot have been.
        """
        records, leases, elsewhere, rejected = {}, {}, set(), {}
        for id, value in values:
            kind = value[codec.KIND]
            if kind == codec.FOREIGN:
                self.unreadable[dataset] += 1
                value = codec.instead_of_foreign(value)  # noqa: PLW2901
            if kind in (codec.LEASE, codec.FOREIGN):
                if exclusive and not codec.token(value).startswith(self._holder):
                    elsewhere.add(id)
                else:
                    leases[id] = value
                continue
            try:
                record = self._decode(dataset, id, value)
                if record is not None and record.expiry is not None and record.expiry.used > now + CLOCK_SKEW:
                    raise codec.Unreadable("used in the future")  # noqa: TRY301
            except codec.Unreadable as error:
                self._note_rejected(dataset, error)
                rejected[id] = value
                continue
            if record is not None:
                records[id] = record
        return _Sorted(Leased(records, leases, elsewhere if exclusive else ()), rejected)

    def _decode(self, dataset: str, id: str, value: bytes) -> Record | None:
        """Returns what a value is, see `codec.decode`. Raises Unreadable also for a value that is no entry of the dataset."""
        macs, key = self._macs, self._names.key(dataset, id)
        record = codec.decode(value, None if macs is None else lambda mac, data: macs.is_valid(mac, key, data))
        is_entry = self._is_entry.get(dataset)
        # Also of what has a MAC: that says who wrote it, not that it is what this version of the program keeps.
        if record is not None and record.value is not None and is_entry is not None and not is_entry(id, record.value):
            raise codec.Unreadable("not what caches keep of this id")
        return record

    def _note_rejected(self, dataset: str, error: codec.Unreadable) -> None:
        """Counts a value that is no record; the first in a minute whose MAC is not valid is logged."""
        if not isinstance(error, codec.Unsigned):
            self.unreadable[dataset] += 1
            return
        self.unsigned[dataset] += 1
        if self._unsigned_limit.should_log():
            telemetry.log.error(
                "ignoring records in Redis without a valid MAC: another program wrote them, or a sidecar without these keys",
                dataset=dataset,
                since_last=self._unsigned_limit.count,
            )

    async def _replace(self, dataset: str, read: "_Sorted", lease: bytes, ttl: int) -> Leased:
        """Puts leases in the places of what was rejected: a fill cannot, if what is there claims to be newer."""
        found, rejected = read
        if not rejected:
            return found
        digests = {id: hashlib.sha1(value).hexdigest() for id, value in rejected.items()}  # noqa: S324  # what Lua has
        replies = await self._replies(
            [_script("replace", [self._names.key(dataset, id)], digest, lease, ttl) for id, digest in digests.items()]
        )
        replaced = [id for id, reply in zip(digests, replies, strict=True) if reply == 1]
        return found._replace(leases={**found.leases, **dict.fromkeys(replaced, lease)})

    def _encode(self, dataset: str, id: str, record: Record) -> bytes:
        """Returns the bytes of a record, signed if there are keys."""
        if self._macs is None:
            return codec.encode(record)
        return codec.encode(record, partial(self._macs.sign, self._names.key(dataset, id)))

    # Fills

    async def fill(
        self,
        dataset: str,
        records: Mapping[str, Record],
        leases: Mapping[str, bytes],
        *,
        ttl: float,
    ) -> Mapping[str, int]:
        """Stores what was read from PostgreSQL, unless something newer is there, or nothing, not even the lease.

        Returns the ids of which Redis holds a newer version, with that version.
        """
        replies = await self._replies(
            [
                _script(
                    "fill",
                    [self._names.key(dataset, id)],
                    self._encode(dataset, id, record),
                    _milliseconds(ttl),
                    leases.get(id, b""),
                )
                for id, record in records.items()
            ]
        )
        return _newer(records, map(unwrap, replies))

    async def release(self, dataset: str, leases: Mapping[str, bytes]) -> None:
        """Gives leases back, so that other sidecars need not wait for them to expire."""
        await self._run([_script("release", [self._names.key(dataset, id)], lease) for id, lease in leases.items()])

    async def claim(self, dataset: str, id: str, *, ttl: float) -> bool:
        """Tries to acquire a fleet-wide claim for `ttl` seconds; returns whether this sidecar won."""
        key = self._names.claim(dataset, id)
        return bool(await self._cluster.ask(_slot_of(key), "SET", key, self._holder, "NX", "PX", _milliseconds(ttl)))

    async def extend_ttl(self, dataset: str, *, ttl: float, now: float) -> None:
        """Keeps every record until it is `ttl` seconds old, if it would go earlier; records that slide are left alone."""
        arguments = (_milliseconds(ttl), int(now * 1000))
        async for keys in self._cluster.scan(self._names.keys_of(dataset), count=MARKED_AT_ONCE):
            await self._run([_script("extend_ttl", [key.decode(errors="replace")], *arguments) for key in keys])

    # Invalidations

    async def put_if_newer(self, dataset: str, changes: Mapping[str, Record | int], *, ttl: float) -> Mapping[str, int]:
        """Writes each record if it is newer, and publishes the invalidation.

        A bare version instead of a record marks what is older as out of date. Returns the ids of which Redis holds a newer
        version, with that version.
        """
        bare, whole = [], []
        for id, change in changes.items():
            version = change if isinstance(change, int) else change.version
            mark = codec.invalidation(version)
            bare.append((id, mark))
            whole.append((id, mark if isinstance(change, int) else self._encode(dataset, id, change)))
        milliseconds = _milliseconds(ttl)
        replies = await self._replies(
            [self._publishing("put_if_newer", dataset, id, value, milliseconds) for id, value in whole]
        )
        # A Redis that is full stores nothing new, but must publish what is out of date: of such a change the mark alone is
        # sent, which takes less memory than what it replaces.
        if full := [number for number, reply in enumerate(replies) if isinstance(reply, OutOfMemoryError)]:
            marks = [self._publishing("put_if_newer_when_full", dataset, *bare[number], milliseconds) for number in full]
            for number, reply in zip(full, await self._replies(marks), strict=True):
                replies[number] = reply
        return _newer(changes, map(unwrap, replies))

    async def retract(self, dataset: str, newer: Mapping[str, Newer], *, ttl: float) -> None:
        """Replaces versions that PostgreSQL does not have by marks, and has every sidecar drop them.

        Where there is no row, the mark has the version that it replaces: should the row have been deleted a moment ago, what
        is older than that is still refused.
        """
        calls = []
        for id, (held, current) in newer.items():
            mark, only = codec.invalidation(held if current is None else current), b"v" if current is None else b""
            calls.append(self._publishing("retract", dataset, id, codec.version(held), mark, _milliseconds(ttl), only))
        await self._run(calls)

    async def invalidate_many(self, dataset: str, versions: Mapping[str, int], *, ttl: float) -> Published:
        """Marks what is older than a version as out of date, and publishes that.

        Where more than MERGE_OVER ids share a partition, one message says that anything in it may have changed.
        """
        by_partition: dict[int, list[str]] = {}
        for id in versions:
            by_partition.setdefault(partition_of(id), []).append(id)
        calls: list[tuple[int, Routed]] = []
        marked: list[list[str]] = []
        for partition, ids in by_partition.items():
            step = MARKED_AT_ONCE if len(ids) > MERGE_OVER else 1
            for first in range(0, len(ids), step):
                part = ids[first : first + step]
                keys = [self._names.counter(partition), *(self._names.key(dataset, id) for id in part)]
                subject = f"{dataset} {part[0] if len(part) == 1 else ''}"
                marks = [codec.invalidation(versions[id]) for id in part]
                channel = self._names.channel(partition)
                calls.append((partition, _script("invalidate_many", keys, channel, subject, _milliseconds(ttl), *marks)))
                marked.append(part)
        failed: dict[int, TierFailed] = {}
        newer: dict[str, int] = {}
        for first in range(0, len(calls), CALLS_AT_ONCE):
            batch = calls[first : first + CALLS_AT_ONCE]
            try:
                replies = await self._replies([call for _, call in batch])
            except TierFailed as error:  # there is no slot map, or the scripts cannot be loaded
                replies = [error] * len(batch)
            for (partition, _), of, reply in zip(batch, marked[first:], replies, strict=False):
                try:
                    newer |= _newer(of, unwrap(reply))
                except TierFailed as error:
                    failed[partition] = error  # the other partitions are marked all the same
        return Published(failed, newer)

    async def drop(self, dataset: str, ids: Sequence[str]) -> None:
        """Removes ids, and has every sidecar drop them."""
        await self._run([self._publishing("drop", dataset, id) for id in ids])

    async def drop_all(self, dataset: str) -> int:
        """Removes a dataset, and has every sidecar drop it; returns how many keys were held."""
        removed = 0
        async for keys in self._cluster.scan(self._names.keys_of(dataset), count=1000):
            replies = await self._cluster.send([Routed(key_slot(key), ("UNLINK", key)) for key in keys])
            removed += sum(map(unwrap, replies))
        names = self._names
        await self._run(
            [_script("drop_partition", [names.counter(p)], names.channel(p), f"{dataset} ") for p in range(PARTITIONS)]
        )
        return removed

    def _publishing(self, script: str, dataset: str, id: str, *arguments: Any) -> Routed:
        """Returns a call that changes the value of an id and publishes that."""
        partition = partition_of(id)
        keys = [self._names.key(dataset, id), self._names.counter(partition)]
        return _script(script, keys, *arguments, self._names.channel(partition), f"{dataset} {id}")

    def history(self, id: str) -> str:  # noqa: ARG002
        """Returns nothing: without a quarantine, histories are not followed."""
        return ""

    def footing(self, ids: Iterable[str]) -> Sequence[object]:  # noqa: ARG002
        """Returns nothing that could be lost: without a quarantine, every reply of Redis counts."""
        return ()

    # Our scripts

    async def _run(self, calls: Sequence[Routed]) -> None:
        """Runs calls, those of each node in one pipeline. Raises TierFailed if one of them failed."""
        for reply in await self._replies(calls):
            unwrap(reply)

    async def _replies(self, calls: Sequence[Routed], *, together: bool = False) -> list[Any]:
        """Returns the replies, errors among them, after loading the scripts where they are missing; `together` as in `send`."""
        replies = await self._cluster.send(calls, together=together)
        if missing := [number for number, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
            refusal = await self.load_scripts()
            again = await self._cluster.send([calls[number] for number in missing])
            for number, reply in zip(missing, again, strict=True):
                # The refusal says why the script is missing.
                replies[number] = refusal if refusal is not None and isinstance(reply, NoScriptError) else reply
        return replies

    async def load_scripts(self) -> TierFailed | None:
        """Loads our scripts into every primary, or again; returns why one of them refused them, if one did.

        All of them, whichever was missing: a node that lost one has lost them all.
        """
        now = asyncio.get_running_loop().time()
        if self._refusal is None or now >= self._load_at:
            self._refusal, self._load_at = None, now + LOAD_AGAIN
            loads = [("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values()]
            for replies in (await self._cluster.ask_all(loads)).values():
                try:
                    for reply in replies:
                        unwrap(reply)
                except TierFailed as error:
                    self._refusal = error
        return self._refusal

    async def check(self, began: float) -> None:
        """Tries on each primary whatever our scripts do, and reports what is refused, or that all is well. Raises TierFailed.

        `began` is the monotonic time now: problems met since then stay.
        """
        for address, partitions in (await self.owners()).items():
            node = self._connection.dependencies.of("redis", host_port(address))
            if not partitions:
                continue
            key, channel = self._names.check(partitions[0])
            (reply,) = await self._replies([_script("check", [key], channel)])
            if isinstance(reply, Exception):
                continue  # reported by its node
            for refusal in reply:
                reason = without_details(refusal.decode())
                node.report_failure(reason, effect=REFUSES, problem=reason)
            if not reply:
                node.report_success(before=began)

    async def owners(self) -> dict[Address, list[int]]:
        """Returns the partitions that each primary holds now, by the servers' slot map. Raises TierFailed."""
        owners = await self._cluster.owners()
        held = {address: set(slots) for address, slots in owners.items()}
        return {address: [p for p in range(PARTITIONS) if self._names.slot(p) in slots] for address, slots in held.items()}


class _Sorted(NamedTuple):
    """What a read found."""

    found: Leased
    rejected: Mapping[str, bytes]
    "What is neither a record nor a lease, nor a mark."


class _Full(Exception):
    """Redis has no memory left."""


def _script(name: str, keys: Sequence[str], *arguments: Any) -> Routed:
    """Returns a call of one of our scripts; it goes to the node that holds the first key."""
    return Routed(key_slot(keys[0].encode()), SCRIPTS[name](*keys, *arguments, keys=len(keys)))


def _newer(ids: Iterable[str], stored: Iterable[bytes]) -> dict[str, int]:
    """Returns the ids of which our scripts found a newer version stored, with that version."""
    return {id: codec.parse_version(version) for id, version in zip(ids, stored, strict=True) if version}


def _successes(replies: list[Any]) -> list[tuple[int, Any]]:
    """Returns the replies that are no errors, with their numbers. Raises the first error if all are."""
    good = [(number, reply) for number, reply in enumerate(replies) if not isinstance(reply, Exception)]
    if not good:
        for reply in replies:
            unwrap(reply)
    return good


def _slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


def _group_by_slot(keys: Iterable[str]) -> dict[int, list[str]]:
    groups: dict[int, list[str]] = {}
    for key in keys:
        groups.setdefault(_slot_of(key), []).append(key)
    return groups


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))  # Redis refuses 0
