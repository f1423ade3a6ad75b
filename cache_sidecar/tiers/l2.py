"""L2: the shared Redis or Valkey, a cluster or a single server, behind the port `ports.L2`."""

import asyncio
import hashlib
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    ClusterDownError,
    MaxConnectionsError,
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cache_sidecar.errors import Failure, Tier, TierFailed
from cache_sidecar.settings import Settings, split_address
from cache_sidecar.tiers import codec
from cache_sidecar.tiers.ports import PARTITIONS, Leased, Record, Times, partition_of

Address = tuple[str, int]
# A message names an id, or, of a partition in which more change at once, none. Ids that one function call marks, which keeps
# Redis for a millisecond; and calls in one pipeline, which has to be done within the time that a command may take.
MERGE_OVER = 8
MARKED_AT_ONCE = 200
CALLS_AT_ONCE = 32
# How long a lease stands. One that keeps others from loading is worth the 2 seconds that PostgreSQL gets by default, and is
# what the death of its holder costs them; one that merely guards a fill outlives any load.
LEASE_MILLISECONDS = 3_000
GUARD_MILLISECONDS = 10_000


_TAGS = tuple(f"{{{partition:02x}}}" for partition in range(PARTITIONS))
_SLOTS = tuple(key_slot(tag.encode()) for tag in _TAGS)


@dataclass(frozen=True)
class Names:
    """The names of everything we have in Redis, all within one namespace."""

    namespace: str

    def key(self, dataset: str, id: str) -> str:
        """Returns the key of an id's value."""
        return f"{self.namespace}:{dataset}:{_TAGS[partition_of(id)]}:{id}"

    def keys_of(self, dataset: str) -> str:
        """Returns the pattern of a dataset's keys."""
        return f"{self.namespace}:{dataset}:*"

    def id_of(self, dataset: str, key: bytes) -> str | None:
        """Returns the id whose value a key holds, or None for somebody else's key."""
        try:
            id = key.decode().removeprefix(f"{self.namespace}:{dataset}:")[len(_TAGS[0]) + 1 :]
        except UnicodeDecodeError:
            return None
        return id if self.key(dataset, id).encode() == key else None

    def claim(self, dataset: str, id: str) -> str:
        """Returns the key that says who refreshes an id."""
        return f"{self.namespace}:claim:{_TAGS[partition_of(id)]}:{dataset}:{id}"

    def counter(self, partition: int) -> str:
        """Returns the key that counts a partition's messages."""
        return f"{self.namespace}:seq:{_TAGS[partition]}"

    def channel(self, partition: int) -> str:
        """Returns the channel of a partition's messages."""
        return f"{self.namespace}:inv:{_TAGS[partition]}"

    def told(self, role: str) -> str:
        """Returns the key that says up to when everything committed in a database was told."""
        return f"{self.namespace}:told:{role}"

    def slot(self, partition: int) -> int:
        """Returns the cluster slot in which a partition lives."""
        return int(_SLOTS[partition])

    def library(self) -> tuple[str, str]:
        """Returns name and code of the function library."""
        code = resources.files("cache_sidecar.tiers").joinpath("functions.lua").read_text()
        name = f"{self.namespace}_{hashlib.sha256(code.encode()).hexdigest()[:8]}"
        return name, f"#!lua name={name}\n{code.replace('LIBRARY', name)}"


@contextmanager
def failures() -> Iterator[None]:
    """Turns whatever redis-py raises into TierFailed."""
    try:
        yield
    except (TimeoutError, RedisTimeoutError) as error:
        raise TierFailed(Tier.L2, Failure.TIMEOUT, str(error)) from error
    except MaxConnectionsError as error:
        raise TierFailed(Tier.L2, Failure.BUSY, str(error)) from error
    except (RedisConnectionError, ClusterDownError, RedisClusterException, OSError) as error:
        raise TierFailed(Tier.L2, Failure.UNREACHABLE, str(error)) from error
    except RedisError as error:
        raise TierFailed(Tier.L2, Failure.REFUSED, str(error)) from error
    except AttributeError as error:
        # redis-py's own: one command's failure closes the connections of others, which then have no writer.
        if "'NoneType'" not in str(error):
            raise
        raise TierFailed(Tier.L2, Failure.UNREACHABLE, "the connection was closed meanwhile") from error


class _Cluster(RedisCluster):
    """redis-py asks the server, by a command of its own, where the keys of each FCALL are; they are where they always are."""

    async def _determine_slot(self, command: str, *args: Any) -> int:
        if command == "FCALL":
            return int(self.keyslot(args[2]))
        return int(await super()._determine_slot(command, *args))


class Connection:
    """How to reach the Redis of the settings: connects when first used, and finds out whether it is a cluster."""

    def __init__(self, settings: Settings) -> None:
        self.nodes: tuple[Address, ...] = tuple(split_address(node) for node in settings.redis_nodes)
        self._mode = settings.redis_mode
        self._client: Redis | RedisCluster | None = None
        self._options: dict[str, Any] = {
            "username": settings.redis_username or None,
            "password": settings.redis_password.get_secret_value() or None,
            "socket_timeout": settings.redis_timeout,
            "socket_connect_timeout": settings.redis_timeout,
            "max_connections": settings.redis_max_connections,
            "retry": Retry(NoBackoff(), 1),
        }
        if settings.redis_tls:
            self._options |= {
                "ssl": True,
                "ssl_ca_certs": settings.redis_tls_ca or None,
                "ssl_certfile": settings.redis_tls_cert or None,
                "ssl_keyfile": settings.redis_tls_key or None,
            }

    def to(self, address: Address, **options: Any) -> Redis:
        """Returns a client of one node."""
        return Redis(host=address[0], port=address[1], **self._options | options)

    async def client(self) -> Redis | RedisCluster:
        """Returns the client of the whole. Raises what redis-py raises while nobody can say whether it is a cluster."""
        if self._client is None:
            is_cluster = await self._is_cluster()
            if self._client is not None:
                return self._client  # somebody was faster
            if is_cluster:
                nodes = [ClusterNode(host, port) for host, port in self.nodes]
                self._client = _Cluster(startup_nodes=nodes, **self._options)
            else:
                self._client = self.to(self.nodes[0])
        return self._client

    async def _is_cluster(self) -> bool:
        if self._mode != "auto":
            return self._mode == "cluster"
        if len(self.nodes) > 1:
            return True
        async with self.to(self.nodes[0]) as node:
            info = await node.info("cluster")
        return bool(info.get("cluster_enabled"))

    async def close(self) -> None:
        """Closes all connections."""
        if self._client is not None:
            await self._client.aclose()


class RedisL2:
    """Reads and writes records; see `ports.L2`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._library, self._code = names.library()
        self._holder = secrets.token_hex(8).encode()
        self._leases = itertools.count()
        self.unreadable = 0
        "Values found in Redis that were no records."

    async def read(self, dataset: str, ids: Sequence[str]) -> dict[str, Record]:
        """Returns the readable records among the ids, from primaries only."""
        keys = [self._names.key(dataset, id) for id in ids]
        with failures():
            client = await self._connection.client()
            values = await (client.mget_nonatomic(keys) if isinstance(client, RedisCluster) else client.mget(keys))
        return self._records(zip(ids, values, strict=True))

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        """Reads, and takes leases for what is not there, unless others have them. From primaries only: it writes."""
        keys = {self._names.key(dataset, id): id for id in ids}
        with failures():
            try:
                values = await self._read_nodes(list(keys), (self._lease(), LEASE_MILLISECONDS))
            except OutOfMemoryError:
                # A Redis that is full takes no lease, but can still be read.
                return Leased(await self.read(dataset, ids), {})
        found = [(keys[key], value) for key, value in values]
        leases = {id: value for id, value in found if codec.is_lease(value)}
        ours = {id: value for id, value in leases.items() if codec.token(value).startswith(self._holder)}
        records = self._records((id, value) for id, value in found if id not in leases)
        return Leased(records, ours, leases.keys() - ours.keys())

    async def _read_nodes(self, keys: list[str], lease: tuple[bytes, int]) -> list[tuple[str, bytes]]:
        """Returns what each key holds: one call per node, and one per slot for keys that have moved to another node."""
        client = await self._connection.client()
        groups = await self._by_node(client, keys)
        calls = [_Call("read", tuple(group[:1]), (*lease, *group[1:])) for group in groups]
        replies = await self._at_once(client, calls)
        if any(map(_is_missing_function, replies)):
            await self.load_functions()
            replies = await self._at_once(client, calls)
        found = list(zip(itertools.chain(*groups), itertools.chain(*_checked(replies)), strict=True))
        if moved := [key for key, value in found if value is None]:
            groups = _grouped(moved, _slot_of)
            replies = await self._call([_Call("read", tuple(group), lease) for group in groups])
            found += zip(itertools.chain(*groups), itertools.chain(*replies), strict=True)
        return [(key, value) for key, value in found if value is not None]

    async def _by_node(self, client: Redis | RedisCluster, keys: list[str]) -> list[list[str]]:
        if isinstance(client, Redis):
            return [keys]
        await client.initialize()
        owner = client.nodes_manager.get_node_from_slot
        return _grouped(keys, lambda key: owner(_slot_of(key)).name)

    async def _at_once(self, client: Redis | RedisCluster, calls: list["_Call"]) -> list[Any]:
        """Returns the replies, errors among them."""
        return await asyncio.gather(*(self._fcall(client, call) for call in calls), return_exceptions=True)

    def _fcall(self, client: Any, call: "_Call") -> Any:
        return client.fcall(f"{self._library}_{call.function}", len(call.keys), *call.keys, *call.arguments)

    def _lease(self) -> bytes:
        # One per read: a fill that began under an earlier one must not pass for this one's.
        return codec.lease(b"%b%x" % (self._holder, next(self._leases)))

    def _records(self, values: Iterable[tuple[str, Any]]) -> dict[str, Record]:
        return {id: record for id, value in values if value is not None and (record := self._decode(value)) is not None}

    def _decode(self, value: Any) -> Record | None:
        try:
            return codec.decode(value)
        except codec.Unreadable:
            self.unreadable += 1
            return None

    async def slide(self, dataset: str, ids: Sequence[str], times: Times) -> Leased:
        """Reads, and puts off the expiry of what is not over yet: one command per id."""
        moments = [codec.milliseconds(moment) for moment in (times.now, times.over, times.overdue)]
        arguments = (*moments, int(times.ttl * 1000), self._lease(), GUARD_MILLISECONDS)
        values = await self._call([_Call("slide", (self._names.key(dataset, id),), arguments) for id in ids])
        found = dict(zip(ids, values, strict=True))
        leases = {id: value for id, value in found.items() if codec.is_lease(value)}
        return Leased(self._records((id, value) for id, value in found.items() if id not in leases), leases)

    async def fill(
        self,
        dataset: str,
        records: Mapping[str, Record],
        leases: Mapping[str, bytes],
        *,
        ttl: float,
        now: float,
        over: float = 0.0,
    ) -> None:
        """Stores what was read from PostgreSQL, unless something newer is there, or nothing, not even the lease."""
        ttl_and_now, until = (_milliseconds(ttl), codec.milliseconds(now)), codec.milliseconds(over)
        await self._call(
            [
                _Call(
                    "fill",
                    (self._names.key(dataset, id),),
                    (codec.encode(record), *ttl_and_now, leases.get(id, b""), until),
                )
                for id, record in records.items()
            ]
        )

    async def release(self, dataset: str, leases: Mapping[str, bytes]) -> None:
        """Gives leases back, so that others need not wait for them to end."""
        await self._call([_Call("release", (self._names.key(dataset, id),), (lease,)) for id, lease in leases.items()])

    async def claim(self, dataset: str, id: str, *, ttl: float) -> bool:
        """Returns whether nobody else said so in the last `ttl` seconds: who hears yes does what one of all is to do."""
        with failures():
            client = await self._connection.client()
            return bool(await client.set(self._names.claim(dataset, id), self._holder, nx=True, px=_milliseconds(ttl)))

    async def change(self, dataset: str, changes: Mapping[str, Record | int], *, ttl: float) -> None:
        """Stores what was committed, unless it is there already, and tells every sidecar.

        A bare version instead of a record marks what is older as out of date.
        """
        calls = []
        for id, change in changes.items():
            bare = codec.invalidation(change if isinstance(change, int) else change.version)
            value = bare if isinstance(change, int) else codec.encode(change)
            call = self._telling("change", dataset, id, value, _milliseconds(ttl))
            calls.append(call._replace(when_full=self._telling("change_full", dataset, id, bare, _milliseconds(ttl))))
        await self._call(calls)

    async def mark(self, dataset: str, versions: Mapping[str, int], *, ttl: float) -> None:
        """Marks what is older than a version as out of date, and tells every sidecar.

        Where more than MERGE_OVER ids share a partition, one message says that anything in it may have changed.
        """
        by_partition: dict[int, list[str]] = {}
        for id in versions:
            by_partition.setdefault(partition_of(id), []).append(id)
        calls = []
        for ids in by_partition.values():
            step = MARKED_AT_ONCE if len(ids) > MERGE_OVER else 1
            calls += [
                self._marking(dataset, {id: versions[id] for id in ids[first : first + step]}, _milliseconds(ttl))
                for first in range(0, len(ids), step)
            ]
        for first in range(0, len(calls), CALLS_AT_ONCE):
            await self._call(calls[first : first + CALLS_AT_ONCE])

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

    async def drop_all(self, dataset: str) -> int:
        """Removes a dataset, and tells every sidecar to; returns how many keys were held."""
        removed = 0
        with failures():
            client = await self._connection.client()
            batch: list[bytes] = []
            async for key in client.scan_iter(match=self._names.keys_of(dataset), count=1000):
                batch.append(key)
                if len(batch) == 1000:
                    removed += await self._unlink(client, batch)
                    batch = []
            removed += await self._unlink(client, batch)
        names = self._names
        await self._call(
            [_Call("drop_partition", (names.counter(p),), (names.channel(p), f"{dataset} ")) for p in range(PARTITIONS)]
        )
        return removed

    async def _unlink(self, client: Redis | RedisCluster, keys: list[bytes]) -> int:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.execute_command("UNLINK", key)
        return sum(await pipeline.execute())

    async def _call(self, calls: list["_Call"]) -> list[Any]:
        """Runs functions of our library in one pipeline per node, loading the library where it is missing."""
        with failures():
            client = await self._connection.client()
            replies = await self._execute(client, calls)
            if missing := [number for number, reply in enumerate(replies) if _is_missing_function(reply)]:
                await self.load_functions()
                await self._repeat(client, calls, replies, missing)
            # A Redis that is full takes nothing new, but has to tell what is out of date.
            if full := [n for n, reply in enumerate(replies) if isinstance(reply, OutOfMemoryError) and calls[n].when_full]:
                await self._repeat(client, [call.when_full or call for call in calls], replies, full)
            return _checked(replies)

    async def _execute(self, client: Redis | RedisCluster, calls: list["_Call"]) -> list[Any]:
        """Returns the replies, errors among them."""
        if len(calls) == 1:  # most are; a pipeline costs a quarter more
            try:
                return [await self._fcall(client, calls[0])]
            except ResponseError as error:
                return [error]
        pipeline = client.pipeline(transaction=False)
        for call in calls:
            self._fcall(pipeline, call)
        return list(await pipeline.execute(raise_on_error=False))

    async def _repeat(self, client: Redis | RedisCluster, calls: list["_Call"], replies: list[Any], numbers: list[int]) -> None:
        for number, reply in zip(numbers, await self._execute(client, [calls[n] for n in numbers]), strict=True):
            replies[number] = reply

    async def load_functions(self) -> None:
        """Loads our library into every primary; where it is already, that changes nothing."""
        client = await self._connection.client()
        targets = {"target_nodes": RedisCluster.PRIMARIES} if isinstance(client, RedisCluster) else {}
        await client.execute_command("FUNCTION LOAD", "REPLACE", self._code, **targets)

    async def owners(self) -> dict[Address, list[int]]:
        """Returns the partitions that each primary holds now, as the servers say. Raises TierFailed."""
        with failures():
            client = await self._connection.client()
            if isinstance(client, Redis):
                return {self._connection.nodes[0]: list(range(PARTITIONS))}
            await client.initialize()
            node = client.get_random_node()
            shards = await node.execute_command("CLUSTER SLOTS")
        owners: dict[Address, list[int]] = {}
        for first, last, primary, *_ in shards:
            address = (_text(primary[0]) or node.host, int(primary[1]))
            held = [p for p in range(PARTITIONS) if first <= self._names.slot(p) <= last]
            owners.setdefault(address, []).extend(held)
        return owners


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


class _Call(NamedTuple):
    """A call of one of our functions."""

    function: str
    keys: tuple[str, ...]
    arguments: tuple[Any, ...]
    when_full: "_Call | None" = None
    "What to call instead when there is no memory left."


def _is_missing_function(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "unction not found" in str(reply)


def _checked(replies: list[Any]) -> list[Any]:
    """Returns replies among which there is no error. Raises the first one."""
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies


def _slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


def _grouped(keys: list[str], group_of: Callable[[str], Any]) -> list[list[str]]:
    groups: dict[Any, list[str]] = {}
    for key in keys:
        groups.setdefault(group_of(key), []).append(key)
    return list(groups.values())


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))  # Redis refuses 0
