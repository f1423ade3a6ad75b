"""L2: the shared Redis or Valkey, a cluster or a single server, behind the port `ports.L2`."""

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import OutOfMemoryError, ResponseError

from cache_sidecar.core.errors import TierFailed
from cache_sidecar.tiers.ports import PARTITIONS, Leased, Record, Times, partition_of
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import Routed, checked, named
from cache_sidecar.tiers.redis.errors import without_details
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.node import REFUSES, Address

# A message names an id, or, of a partition in which more change at once, none. Ids that one function call marks, which keeps
# Redis for a millisecond; and calls in one pipeline, which has to be done within the time that a command may take.
MERGE_OVER = 8
MARKED_AT_ONCE = 200
CALLS_AT_ONCE = 32
# How long a lease stands. One that keeps others from loading is worth the 2 seconds that PostgreSQL gets by default, and is
# what the death of its holder costs them; one that merely guards a fill outlives any load.
LEASE_MILLISECONDS = 3_000
GUARD_MILLISECONDS = 10_000
# Seconds after which functions that a server refused to load are loaded again: not with every call.
LOAD_AGAIN = 0.5


class RedisL2:
    """Reads and writes records; see `ports.L2`."""

    def __init__(self, connection: RedisClient, names: KeyNames) -> None:
        self._connection = connection
        self._shards = connection.shards
        self._names = names
        self._library, self._code = names.library()
        self._holder = secrets.token_hex(8).encode()
        self._leases = itertools.count()
        self._refusal: TierFailed | None = None
        "Why functions could not be loaded."
        self._load_at = 0.0
        "When that may be tried again, in the event loop's time."
        self.unreadable: Counter[str] = Counter()
        "Values found in Redis that were no records, by dataset."

    async def read(self, dataset: str, ids: Sequence[str]) -> dict[str, Record]:
        """Returns the readable records among the ids, from primaries only."""
        keys = [self._names.key(dataset, id) for id in ids]
        groups = _grouped(keys, _slot_of)
        replies = await self._shards.send([Routed(_slot_of(group[0]), ("MGET", *group)) for group in groups])
        found = dict(zip(itertools.chain(*groups), itertools.chain(*map(checked, replies)), strict=True))
        return self._records(dataset, ((id, found[key]) for id, key in zip(ids, keys, strict=True)))

    async def read_quarantined(self, dataset: str, ids: Sequence[str]) -> Mapping[str, Record]:  # noqa: ARG002
        """Returns nothing: `read_leased` leaves nothing out."""
        return {}

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        """Reads, and takes leases for what is not there, unless others have them. From primaries only: it writes.

        Of ids whose shard does not answer there is nothing, and no lease either. Raises TierFailed when no shard answers.
        """
        keys = {self._names.key(dataset, id): id for id in ids}
        try:
            values = await self._read_keys(list(keys), (self._lease(), LEASE_MILLISECONDS))
        except _Full:
            # A Redis that is full takes no lease, but can still be read.
            return Leased(await self.read(dataset, ids), {})
        found = [(keys[key], self._lease_or(dataset, value)) for key, value in values]
        leases = {id: value for id, value in found if codec.is_lease(value)}
        ours = {id: value for id, value in leases.items() if codec.token(value).startswith(self._holder)}
        records = self._records(dataset, ((id, value) for id, value in found if id not in leases))
        return Leased(records, ours, leases.keys() - ours.keys())

    async def _read_keys(self, keys: list[str], lease: tuple[bytes, int]) -> list[tuple[str, bytes]]:
        """Returns what each key holds: one call per node, and one per slot for keys that have moved to another node."""
        await self._shards.ready()
        groups = [[keys[position] for position in part] for part in self._shards.grouped(map(_slot_of, keys))]
        found = await self._read_groups(groups, [_Call("read", tuple(group[:1]), (*lease, *group[1:])) for group in groups])
        if moved := [key for key, value in found if value is None]:
            groups = _grouped(moved, _slot_of)
            found += await self._read_groups(groups, [_Call("read", tuple(group), lease) for group in groups])
        return [(key, value) for key, value in found if value is not None]

    async def _read_groups(self, groups: list[list[str]], calls: list["_Call"]) -> list[tuple[str, Any]]:
        """Returns what the keys of those groups hold that were answered. Raises what went wrong when none was."""
        replies = await self._replies(calls)
        if any(isinstance(reply, OutOfMemoryError) for reply in replies):
            raise _Full
        return list(itertools.chain(*(zip(groups[n], reply, strict=True) for n, reply in _answered(replies))))

    def _lease(self) -> bytes:
        # One per read: a fill that began under an earlier one must not pass for this one's.
        return codec.lease(b"%b%x" % (self._holder, next(self._leases)))

    def _records(self, dataset: str, values: Iterable[tuple[str, Any]]) -> dict[str, Record]:
        found = ((id, self._decode(dataset, value)) for id, value in values if value is not None)
        return {id: record for id, record in found if record is not None}

    def _lease_or(self, dataset: str, value: bytes) -> bytes:
        if lease := codec.instead_of_foreign(value):
            self.unreadable[dataset] += 1
            return lease
        return value

    def _decode(self, dataset: str, value: Any) -> Record | None:
        try:
            return codec.decode(value)
        except codec.Unreadable:
            self.unreadable[dataset] += 1
            return None

    async def slide(self, dataset: str, ids: Sequence[str], times: Times, histories: Mapping[str, str] | None = None) -> Leased:
        """Reads, and puts off the expiry of what is not over yet: one command per id; shards that fail as in `read_leased`.

        What is over keeps the history that its last use was counted under.
        """
        known = histories or {}
        moments = [codec.milliseconds(moment) for moment in (times.now, times.over, times.overdue)]
        arguments = (*moments, int(times.ttl * 1000), self._lease(), GUARD_MILLISECONDS)
        calls = [_Call("slide", (self._names.key(dataset, id),), (*arguments, codec.history(known.get(id, "")))) for id in ids]
        replies = await self._replies(calls)
        found = {ids[number]: self._lease_or(dataset, value) for number, value in _answered(replies)}
        leases = {id: value for id, value in found.items() if codec.is_lease(value)}
        return Leased(self._records(dataset, ((id, value) for id, value in found.items() if id not in leases)), leases)

    async def fill(
        self,
        dataset: str,
        records: Mapping[str, Record],
        leases: Mapping[str, bytes],
        *,
        ttl: float,
    ) -> None:
        """Stores what was read from PostgreSQL, unless something newer is there, or nothing, not even the lease."""
        await self._call(
            [
                _Call("fill", (self._names.key(dataset, id),), (codec.encode(record), _milliseconds(ttl), leases.get(id, b"")))
                for id, record in records.items()
            ]
        )

    async def release(self, dataset: str, leases: Mapping[str, bytes]) -> None:
        """Gives leases back, so that others need not wait for them to end."""
        await self._call([_Call("release", (self._names.key(dataset, id),), (lease,)) for id, lease in leases.items()])

    async def claim(self, dataset: str, id: str, *, ttl: float) -> bool:
        """Tries to acquire a fleet-wide claim for `ttl` seconds; returns whether this sidecar won."""
        key = self._names.claim(dataset, id)
        return bool(await self._shards.ask(_slot_of(key), "SET", key, self._holder, "NX", "PX", _milliseconds(ttl)))

    async def change(self, dataset: str, changes: Mapping[str, Record | int], *, ttl: float) -> None:
        """Writes each record if it is newer, and publishes the invalidation.

        A bare version instead of a record marks what is older as out of date.
        """
        calls = []
        for id, change in changes.items():
            bare = codec.invalidation(change if isinstance(change, int) else change.version)
            value = bare if isinstance(change, int) else codec.encode(change)
            call = self._telling("change", dataset, id, value, _milliseconds(ttl))
            calls.append(call._replace(when_full=self._telling("change_full", dataset, id, bare, _milliseconds(ttl))))
        await self._call(calls)

    async def mark(self, dataset: str, versions: Mapping[str, int], *, ttl: float) -> Mapping[int, TierFailed]:
        """Marks what is older than a version as out of date, and tells every sidecar.

        Where more than MERGE_OVER ids share a partition, one message says that anything in it may have changed. Returns the
        partitions that could not be told, each with the reason.
        """
        by_partition: dict[int, list[str]] = {}
        for id in versions:
            by_partition.setdefault(partition_of(id), []).append(id)
        calls: list[tuple[int, _Call]] = []
        for partition, ids in by_partition.items():
            step = MARKED_AT_ONCE if len(ids) > MERGE_OVER else 1
            calls += [
                (partition, self._marking(dataset, {id: versions[id] for id in ids[first : first + step]}, _milliseconds(ttl)))
                for first in range(0, len(ids), step)
            ]
        failed: dict[int, TierFailed] = {}
        for first in range(0, len(calls), CALLS_AT_ONCE):
            part = calls[first : first + CALLS_AT_ONCE]
            try:
                replies = await self._replies([call for _, call in part])
            except TierFailed as error:  # not even who holds what is known, or the functions cannot be loaded
                replies = [error] * len(part)
            for (partition, _), reply in zip(part, replies, strict=True):
                try:
                    checked(reply)
                except TierFailed as error:
                    failed[partition] = error  # the others are told all the same
        return failed

    def _marking(self, dataset: str, versions: Mapping[str, int], milliseconds: int) -> "_Call":
        id, partition = next(iter(versions)), partition_of(next(iter(versions)))
        keys = (self._names.counter(partition), *(self._names.key(dataset, id) for id in versions))
        subject = f"{dataset} {id if len(versions) == 1 else ''}"
        marks = map(codec.invalidation, versions.values())
        return _Call("mark", keys, (self._names.channel(partition), subject, milliseconds, *marks))

    async def drop(self, dataset: str, ids: Sequence[str]) -> None:
        """Removes ids, and tells every sidecar to."""
        await self._call([self._telling("drop", dataset, id) for id in ids])

    def _telling(self, function: str, dataset: str, id: str, *arguments: Any) -> "_Call":
        partition = partition_of(id)
        keys = (self._names.key(dataset, id), self._names.counter(partition))
        return _Call(function, keys, (*arguments, self._names.channel(partition), f"{dataset} {id}"))

    def history(self, id: str) -> str:  # noqa: ARG002
        """Returns nothing: whoever reads without a quarantine does not know."""
        return ""

    def footing(self, ids: Iterable[str]) -> Sequence[object]:  # noqa: ARG002
        """Returns nothing that could be lost: whoever has no quarantine takes what Redis says."""
        return ()

    async def drop_all(self, dataset: str) -> int:
        """Removes a dataset, and tells every sidecar to; returns how many keys were held."""
        removed = 0
        async for keys in self._shards.scan(self._names.keys_of(dataset), count=1000):
            replies = await self._shards.send([Routed(key_slot(key), ("UNLINK", key)) for key in keys])
            removed += sum(map(checked, replies))
        names = self._names
        await self._call(
            [_Call("drop_partition", (names.counter(p),), (names.channel(p), f"{dataset} ")) for p in range(PARTITIONS)]
        )
        return removed

    async def extend_ttl(self, dataset: str, *, ttl: float, now: float) -> None:
        """Keeps every record until it is so old, if it would go earlier; not those whose expiry every read puts off."""
        arguments = (_milliseconds(ttl), int(now * 1000))
        async for keys in self._shards.scan(self._names.keys_of(dataset), count=MARKED_AT_ONCE):
            await self._call([_Call("prolong", (key.decode(errors="replace"),), arguments) for key in keys])

    async def _call(self, calls: list["_Call"]) -> None:
        """Runs functions of our library, each shard's in one pipeline. Raises TierFailed when one of them failed."""
        replies = await self._replies(calls)
        # A Redis that is full takes nothing new, but has to tell what is out of date.
        if full := [n for n, reply in enumerate(replies) if isinstance(reply, OutOfMemoryError) and calls[n].when_full]:
            await self._repeat([call.when_full or call for call in calls], replies, full)
        for reply in replies:
            checked(reply)

    async def _replies(self, calls: list["_Call"]) -> list[Any]:
        """Returns the replies, errors among them, after loading the library where it is missing."""
        replies = await self._shards.send(list(map(self._routed, calls)))
        if missing := [number for number, reply in enumerate(replies) if _is_missing_function(reply)]:
            refusal = await self.load_functions()
            await self._repeat(calls, replies, missing)
            for number in missing:
                if refusal is not None and _is_missing_function(replies[number]):
                    replies[number] = refusal  # says why, not only that it is missing
        return replies

    async def _repeat(self, calls: list["_Call"], replies: list[Any], numbers: list[int]) -> None:
        again = await self._shards.send([self._routed(calls[number]) for number in numbers])
        for number, reply in zip(numbers, again, strict=True):
            replies[number] = reply

    def _routed(self, call: "_Call") -> Routed:
        command = ("FCALL", f"{self._library}_{call.function}", len(call.keys), *call.keys, *call.arguments)
        return Routed(_slot_of(call.keys[0]), command)

    async def load_functions(self) -> TierFailed | None:
        """Loads our library into every primary; where it is already, that changes nothing. Returns why one did not take it."""
        now = asyncio.get_running_loop().time()
        if self._refusal is None or now >= self._load_at:
            self._refusal, self._load_at = None, now + LOAD_AGAIN
            for reply in (await self._shards.ask_all("FUNCTION", "LOAD", "REPLACE", self._code)).values():
                try:
                    checked(reply)
                except TierFailed as error:
                    self._refusal = error
        return self._refusal

    async def check(self, began: float) -> None:
        """Tries on each primary whatever our functions do, and says what is refused, or that all is well. Raises TierFailed.

        `began` is the monotonic time now: problems met since then stay.
        """
        for address, partitions in (await self.owners()).items():
            node = self._connection.dependencies.of("redis", named(address))
            if not partitions:
                continue
            key, channel = self._names.check(partitions[0])
            (reply,) = await self._replies([_Call("check", (key,), (channel,))])
            if isinstance(reply, Exception):
                continue  # its shard has said so
            for refusal in reply:
                reason = without_details(refusal.decode())
                node.failed(reason, effect=REFUSES, problem=reason)
            if not reply:
                node.works(before=began)

    async def owners(self) -> dict[Address, list[int]]:
        """Returns the partitions that each primary holds now, as the servers say. Raises TierFailed."""
        owners = await self._shards.owners()
        held = {address: set(slots) for address, slots in owners.items()}
        return {address: [p for p in range(PARTITIONS) if self._names.slot(p) in slots] for address, slots in held.items()}


class _Full(Exception):
    """Redis has no memory left."""


class _Call(NamedTuple):
    """A call of one of our functions."""

    function: str
    keys: tuple[str, ...]
    arguments: tuple[Any, ...]
    when_full: "_Call | None" = None
    "What to call instead when there is no memory left."


def _is_missing_function(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "unction not found" in str(reply)


def _answered(replies: list[Any]) -> list[tuple[int, Any]]:
    """Returns the replies that are no errors, with their numbers. Raises the first error when all are."""
    good = [(number, reply) for number, reply in enumerate(replies) if not isinstance(reply, Exception)]
    if not good:
        for reply in replies:
            checked(reply)
    return good


def _slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


def _grouped(keys: list[str], group_of: Callable[[str], Any]) -> list[list[str]]:
    groups: dict[Any, list[str]] = {}
    for key in keys:
        groups.setdefault(group_of(key), []).append(key)
    return list(groups.values())


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))  # Redis refuses 0
