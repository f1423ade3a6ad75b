"""User events on their way to PostgreSQL: streams in Redis, from which the relay moves them.

There are several streams, so that all primaries share the work, and one that fails delays only its own. An entry is one event,
as bytes that this module does not look into. Entries are read by a consumer group with one consumer, which is whichever relay
leads: one that takes over first reads what its predecessor took and did not finish. They are removed when they are in
PostgreSQL, and not before: nothing trims a stream, and writers are refused when it is full.

An event counts as stored when a replica has it, too. WAIT, sent with it in one pipeline, tells: after a failover to that
replica the event is still there. Where no replica answers, or the server may evict the stream to make room, an event in Redis
is not safe, and its writer has to commit it to PostgreSQL. If the relay then moves it there, too, that has no effect.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from redis.exceptions import MovedError, NoScriptError

from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.tiers.ports import PARTITIONS
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import Routed, unwrap
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.node import Address, Command
from cache_sidecar.tiers.redis.scripts import SCRIPTS

STREAMS = 16
# The partitions whose slots have a stream: their hash tags spread over the slots.
_PARTITIONS = range(0, PARTITIONS, PARTITIONS // STREAMS)
# The consumer group that moves events to PostgreSQL, and its one consumer.
GROUP, CONSUMER = "postgresql", "relay"
# Nodes that are tried before an event goes to PostgreSQL.
NODES = 2
# The part of a command's time limit for which a replica is waited for.
REPLICA_SHARE = 0.8
# Seconds for which a node whose replicas did not answer in time is not asked again: each attempt delays its caller.
UNREPLICATED = 1.0
# Minimum seconds between two inspections because of unknown nodes.
INSPECT_EVERY = 0.5


class Outcome(Enum):
    """What became of events that were to be appended."""

    STORED = auto()
    "A failover does not lose them."
    FULL = auto()
    "They were not appended: too many are waiting."
    UNSAFE = auto()
    "They may have been appended, but could be lost."


class Taken(NamedTuple):
    """Entries that the relay took."""

    entries: Mapping[int, Sequence[tuple[bytes, bytes]]]
    "Ids and events, by the partition of the stream."
    has_more: bool
    "Whether a stream may have more entries now."
    is_all: bool
    "Whether every stream answered, and had no more entries."


class Backlog(NamedTuple):
    """What is waiting in the streams that answer."""

    waiting: int
    oldest: float | None
    "When the oldest entry was appended, in seconds since the epoch; None if there is none."


class EventStreams:
    """The streams of one region."""

    def __init__(
        self,
        connection: RedisClient,
        names: KeyNames,
        *,
        timeout: float,
        load_scripts: Callable[[], Awaitable[TierFailed | None]],
    ) -> None:
        """`timeout` is that of a command, in seconds; `load_scripts` is called when a node lacks our scripts."""
        self._cluster = connection.cluster
        self._names = names
        self._wait_milliseconds = max(1, int(timeout * 1000 * REPLICA_SHARE))
        self._load_scripts = load_scripts
        self._next = itertools.count()
        self._unreplicated: dict[Address, float] = {}
        "Until when a node is not asked, in the event loop's time."
        self._evicting: Mapping[Address, bool] = {}
        "Whether a node may evict the streams; nodes that were never inspected are missing."
        self._next_inspection = 0.0
        "When nodes may be inspected again because one is not known, in the event loop's time."
        self._recovering: set[int] = set()
        "The streams of which the relay first takes what was taken before."

    # Sidecars

    async def append(self, events: Sequence[bytes], *, limit: int, replicas: int) -> Outcome:
        """Appends events to one of the streams, of which each may hold `limit`, and waits for as many replicas to have them."""
        try:
            await self._cluster.ready()
            await self._inspect_unknown()
        except TierFailed:
            return Outcome.UNSAFE
        outcome, first = Outcome.UNSAFE, next(self._next)
        tried: set[Address] = set()
        for number in range(STREAMS):
            partition = _PARTITIONS[(first + number) % STREAMS]
            address = self._cluster.holder(self._names.slot(partition))
            if address is None or address in tried or not self._is_safe(address):
                continue
            tried.add(address)
            try:
                count, copies = await self._append(address, partition, events, limit, replicas)
            except TierFailed:
                count, copies = 0, 0
            else:
                if count >= 0 and copies >= replicas:
                    return Outcome.STORED
                if count >= 0:
                    self._unreplicated[address] = asyncio.get_running_loop().time() + UNREPLICATED
                    return Outcome.UNSAFE
                outcome = Outcome.FULL
            if len(tried) == NODES:
                break
        return outcome

    async def _inspect_unknown(self) -> None:
        """Inspects nodes that hold a stream for the first time, such as after a failover."""
        holders = {self._cluster.holder(self._names.slot(partition)) for partition in _PARTITIONS} - {None}
        now = asyncio.get_running_loop().time()
        if holders <= self._evicting.keys() or now < self._next_inspection:
            return
        self._next_inspection = now + INSPECT_EVERY
        await self.inspect()

    def _is_safe(self, address: Address) -> bool:
        is_replicated = self._unreplicated.get(address, 0.0) <= asyncio.get_running_loop().time()
        return is_replicated and not self._evicting.get(address, True)

    async def _append(
        self, address: Address, partition: int, events: Sequence[bytes], limit: int, replicas: int
    ) -> tuple[int, int]:
        """Returns what the script returns, and how many replicas have it. Raises TierFailed.

        Redirections are not followed: WAIT would be answered by the node that wrote nothing, and so at once.
        """
        commands: list[Command] = [SCRIPTS["append_events"](self._names.events(partition), limit, *events, keys=1)]
        if replicas:
            commands.append(("WAIT", replicas, self._wait_milliseconds))
        replies = await self._cluster.ask_node(address, commands)
        if isinstance(replies[0], NoScriptError):
            if (refusal := await self._load_scripts()) is not None:
                raise refusal
            replies = await self._cluster.ask_node(address, commands)
        if isinstance(replies[0], MovedError):
            await self._cluster.owners()
            raise TierFailed(Tier.L2, Failure.UNREACHABLE, "the slot has moved to another node")
        count, *copies = map(unwrap, replies)
        return int(count), int(copies[0]) if copies else 0

    async def inspect(self) -> Backlog:
        """Finds out which nodes may evict the streams, and what is waiting in them. Raises TierFailed when none answers."""
        answers = await self._cluster.ask_all([("INFO", "memory")])
        self._evicting = {address: _may_evict(reply) for address, (reply,) in answers.items()}
        replies = await self._run("backlog_of_events", dict.fromkeys(_PARTITIONS, ()))
        if all(isinstance(reply, Exception) for reply in replies.values()):
            unwrap(next(iter(replies.values())))
        count, oldest = 0, []
        for length, *first in (reply for reply in replies.values() if not isinstance(reply, Exception)):
            count += length
            oldest += [int(id.partition(b"-")[0]) / 1000 for id in first]
        return Backlog(count, min(oldest, default=None))

    # The relay

    def recover(self) -> None:
        """Has the next calls of `take` first return what was taken and not finished."""
        self._recovering = set(_PARTITIONS)

    async def take(self, count: int) -> Taken:
        """Takes up to `count` entries of each stream. Raises TierFailed when no node answers."""
        kinds = {partition: "0" if partition in self._recovering else ">" for partition in _PARTITIONS}
        replies = await self._run("take_events", {p: (GROUP, CONSUMER, count, kind) for p, kind in kinds.items()})
        if all(isinstance(reply, Exception) for reply in replies.values()):
            unwrap(next(iter(replies.values())))
        entries: dict[int, list[tuple[bytes, bytes]]] = {}
        has_more, has_failed = False, False
        for partition, reply in replies.items():
            if isinstance(reply, Exception):
                has_failed = True
                continue
            if found := list(zip(reply[::2], reply[1::2], strict=True)):
                entries[partition] = found
            elif kinds[partition] == "0":
                self._recovering.discard(partition)
            has_more = has_more or kinds[partition] == "0" or len(found) == count
        return Taken(entries, has_more, is_all=not (has_more or has_failed))

    async def finish(self, taken: Taken) -> None:
        """Removes entries that are in PostgreSQL. What cannot be removed is moved again: see `recover`. Raises TierFailed."""
        ids = {partition: (GROUP, *(id for id, _ in entries)) for partition, entries in taken.entries.items()}
        for reply in (await self._run("finish_events", ids)).values():
            unwrap(reply)

    async def _run(self, script: str, arguments: Mapping[int, Sequence[Any]]) -> dict[int, Any]:
        """Runs a script on streams, by their partitions; returns the replies, errors among them."""
        calls = {
            partition: Routed(self._names.slot(partition), SCRIPTS[script](self._names.events(partition), *given, keys=1))
            for partition, given in arguments.items()
        }
        replies = dict(zip(calls, await self._cluster.send(list(calls.values())), strict=True))
        if missing := [partition for partition, reply in replies.items() if isinstance(reply, NoScriptError)]:
            await self._load_scripts()
            again = await self._cluster.send([calls[partition] for partition in missing])
            replies |= dict(zip(missing, again, strict=True))
        return replies


def _may_evict(reply: Any) -> bool:
    """Whether a server with this `INFO memory` may evict keys that do not expire."""
    if isinstance(reply, Exception):
        return True
    lines = dict(line.partition(":")[::2] for line in reply.decode().splitlines())
    return lines.get("maxmemory") != "0" and lines.get("maxmemory_policy", "allkeys").startswith("allkeys")
