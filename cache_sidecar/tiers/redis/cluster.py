"""The primaries of a Redis Cluster, or the one server: who holds which slot, and what is sent to each of them alone.

What fails is one shard: its breaker opens, its connections are closed, its part of a reply is an error, and the others go on
as if nothing had happened. That is why commands don't go through redis-py's cluster client, which closes the connections to
all nodes when a command to one of them fails (and costs twice as much). Its connections and its parser are used.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import cancel_and_wait, log_failure
from cache_sidecar.tiers.redis.errors import as_failure
from cache_sidecar.tiers.redis.node import Address, Command, RedisNode

SLOTS = 16_384
# Times that a command is sent on to where a server says its slot is, and seconds before one that is to be tried again.
HOPS, AGAIN = 3, 0.02
# Seconds between two questions who holds what, however many commands fail.
MAP_EVERY = 0.2


class Routed(NamedTuple):
    """A command, and the slot of its keys."""

    slot: int
    command: Command


class RedisNodes:
    """All of them. Methods raise TierFailed."""

    def __init__(
        self,
        seeds: Sequence[Address],
        connect: Callable[[Address], Any],
        *,
        is_cluster: bool | None,
        max_connections: int,
        timeout: float,
        clock: Clock,
        dependencies: Dependencies,
    ) -> None:
        """`seeds` are asked who holds what; None for `is_cluster` asks the first of them whether it is one.

        `max_connections` are to each shard, `timeout` is in seconds and for each command or pipeline.
        """
        self._is_cluster = is_cluster
        self._connect = connect
        self._max_connections = max_connections
        self._timeout = timeout
        self._clock = clock
        self._dependencies = dependencies
        self._seeds = [self._new(address) for address in seeds]
        self._known = {shard.address: shard for shard in self._seeds}
        self._owners: dict[int, RedisNode] = {}
        "The primary of each slot, once somebody said so."
        self._ranges: Any = None
        "What `CLUSTER SLOTS` said of them; None when somebody knew better since."
        self._mapping: asyncio.Task[None] | None = None
        self._mapped_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    def _new(self, address: Address) -> RedisNode:
        return RedisNode(
            address,
            self._connect,
            max_connections=self._max_connections,
            timeout=self._timeout,
            clock=self._clock,
            dependency=self._dependencies.of("redis", named(address)),
        )

    # Sending

    async def send(self, commands: Sequence[Routed]) -> list[Any]:
        """Returns what was answered to each command, or the error: TierFailed of its shard, or a refusal of redis-py's kind."""
        await self.ready()
        replies: list[Any] = [None] * len(commands)
        await self._fill(replies, commands, range(len(commands)))
        for _ in range(HOPS):
            again = [number for number, reply in enumerate(replies) if isinstance(reply, (MovedError, AskError, TryAgainError))]
            if not again:
                break
            await self._redirect(replies, commands, again)
        if any(isinstance(reply, ClusterDownError) for reply in replies):
            self._look_again()
        return replies

    async def _fill(self, replies: list[Any], commands: Sequence[Routed], numbers: Iterable[int]) -> None:
        """Has each shard answer its part, all of them at the same time."""
        parts: dict[RedisNode, list[int]] = {}
        for number in numbers:
            shard = self._owners.get(commands[number].slot)
            if shard is None:
                replies[number] = TierFailed(Tier.L2, Failure.UNREACHABLE, "nobody holds the slot")
                self._look_again()
            else:
                parts.setdefault(shard, []).append(number)
        if len(parts) == 1:
            ((shard, part),) = parts.items()
            await self._fill_part(replies, commands, shard, part)
        else:
            await asyncio.gather(*(self._fill_part(replies, commands, shard, part) for shard, part in parts.items()))

    async def _fill_part(self, replies: list[Any], commands: Sequence[Routed], shard: RedisNode, part: list[int]) -> None:
        try:
            answers = await self._exchange(shard, [commands[number].command for number in part])
        except TierFailed as error:
            answers = [error] * len(part)
        for number, answer in zip(part, answers, strict=True):
            replies[number] = answer

    async def _exchange(self, shard: RedisNode, commands: Sequence[Command]) -> list[Any]:
        """Has a primary answer; if it does not, another one may be it by now."""
        try:
            return await shard.exchange(commands)
        except TierFailed:
            self._look_again()
            raise

    async def _redirect(self, replies: list[Any], commands: Sequence[Routed], numbers: list[int]) -> None:
        """Sends commands on to where the servers said, and once more to those that said to try again."""
        asked: dict[int, AskError] = {number: replies[number] for number in numbers if isinstance(replies[number], AskError)}
        for number in numbers:
            if isinstance(replies[number], MovedError):
                self._ranges = None
                self._owners[commands[number].slot] = self._at(replies[number].host, replies[number].port)
                self._look_again()
        if any(isinstance(replies[number], TryAgainError) for number in numbers):
            await asyncio.sleep(AGAIN)
        await self._fill(replies, commands, [number for number in numbers if number not in asked])
        for number, error in asked.items():
            try:
                _, replies[number] = await self._at(error.host, error.port).exchange([("ASKING",), commands[number].command])
            except TierFailed as failed:
                replies[number] = failed

    def _at(self, host: str, port: int) -> RedisNode:
        address = host or self._seeds[0].address[0], int(port)
        if address not in self._known:
            self._known[address] = self._new(address)
        return self._known[address]

    async def ask(self, slot: int, *command: Any) -> Any:
        """Returns what one command is answered."""
        (reply,) = await self.send([Routed(slot, command)])
        return checked(reply)

    async def ask_all(self, *command: Any) -> dict[Address, Any]:
        """Returns what each primary answers to a command, or its error."""
        await self.ready()
        shards = set(self._owners.values())
        replies = await asyncio.gather(*(self._exchange(shard, [command]) for shard in shards), return_exceptions=True)
        return {
            shard.address: reply if isinstance(reply, BaseException) else reply[0]
            for shard, reply in zip(shards, replies, strict=True)
        }

    async def ask_node(self, address: Address, commands: Sequence[Command]) -> list[Any]:
        """Returns what a node answers to commands, refusals among it. Nothing is sent on to another one. Raises TierFailed."""
        shard = self._known.get(address)
        if shard is None:
            raise TierFailed(Tier.L2, Failure.UNREACHABLE, "it is none of the nodes any more")
        return await self._exchange(shard, commands)

    def holder(self, slot: int) -> Address | None:
        """Returns which node a command for a slot would be sent to, as far as is known."""
        shard = self._owners.get(slot)
        return None if shard is None else shard.address

    async def scan(self, pattern: str, *, count: int) -> AsyncIterator[list[bytes]]:
        """Yields the keys of all primaries that match a pattern, about so many at a time."""
        await self.ready()
        for shard in set(self._owners.values()):
            cursor: Any = 0
            while True:
                (reply,) = await self._exchange(shard, [("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
                cursor, keys = checked(reply)
                yield keys
                if int(cursor) == 0:
                    break

    # Who holds what

    async def ready(self) -> None:
        """Returns when it is known who holds what."""
        if not self._owners:
            await self._map_shared()

    def grouped(self, slots: Iterable[int]) -> list[list[int]]:
        """Returns the positions of slots, those of one shard together, as far as is known."""
        groups: dict[RedisNode | None, list[int]] = {}
        for position, slot in enumerate(slots):
            groups.setdefault(self._owners.get(slot), []).append(position)
        return list(groups.values())

    async def owners(self) -> dict[Address, list[int]]:
        """Asks who holds what, and returns the slots of each primary."""
        await self._map_shared()
        found: dict[Address, list[int]] = {}
        for slot, shard in self._owners.items():
            found.setdefault(shard.address, []).append(slot)
        return found

    def _look_again(self) -> None:
        """Asks who holds what, behind the reply, unless that was just done."""
        loop = asyncio.get_running_loop()
        if self._is_cluster and self._mapping is None and loop.time() - self._mapped_at >= MAP_EVERY:
            self._start_mapping()

    async def _map_shared(self) -> None:
        # Shielded: one caller's cancellation must not take the answer from the others.
        await asyncio.shield(self._mapping or self._start_mapping())

    def _start_mapping(self) -> asyncio.Task[None]:
        self._mapping = asyncio.get_running_loop().create_task(self._map())
        self._mapping.add_done_callback(self._mapped)
        return self._mapping

    def _mapped(self, task: asyncio.Task[None]) -> None:
        self._mapping = None
        self._mapped_at = task.get_loop().time()
        log_failure(task)  # whoever waits for it is told; nobody may be

    async def _map(self) -> None:
        if self._is_cluster is None:
            (info,) = await self._seeds[0].exchange([("INFO", "cluster")])
            self._is_cluster = b"cluster_enabled:1" in checked(info)
        if not self._is_cluster:
            self._owners = dict.fromkeys(range(SLOTS), self._seeds[0])
            return
        failed = TierFailed(Tier.L2, Failure.UNREACHABLE)
        primaries = list(set(self._owners.values()))
        for shard in (*random.sample(primaries, len(primaries)), *(one for one in self._seeds if one not in primaries)):
            try:
                (reply,) = await shard.exchange([("CLUSTER", "SLOTS")])
                self._adopt(checked(reply), shard.address[0])
            except TierFailed as error:
                failed = error
            else:
                in_use = set(self._owners.values())
                for known in self._known.values():
                    if known not in in_use:
                        known.dependency.works()  # nothing depends on one that holds no slot; it was asked who does
                return
        raise failed

    def _adopt(self, ranges: Any, host: str) -> None:
        """Takes what `CLUSTER SLOTS` says; the server that was asked is at `host`."""
        if ranges == self._ranges:
            return  # 16,384 slots take milliseconds, again and again while a shard is away
        owners: dict[int, RedisNode] = {}
        for first, last, primary, *_ in ranges:
            shard = self._at(_text(primary[0]) or host, primary[1])
            owners.update(dict.fromkeys(range(first, last + 1), shard))
        if not owners:
            raise TierFailed(Tier.L2, Failure.UNREACHABLE, "nobody holds a slot")
        self._owners, self._ranges = owners, ranges
        kept = {*owners.values(), *self._seeds}
        for address, shard in list(self._known.items()):
            if shard not in kept:
                del self._known[address]
                self._dependencies.forget("redis", named(address))
                task = asyncio.get_running_loop().create_task(shard.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
                task.add_done_callback(log_failure)

    async def close(self) -> None:
        """Closes all connections."""
        if self._mapping is not None:
            await cancel_and_wait(self._mapping)
        await asyncio.gather(*self._closing, *(shard.close() for shard in self._known.values()), return_exceptions=True)


def named(address: Address) -> str:
    """Returns an address as host:port."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checked(reply: Any) -> Any:
    """Returns a reply that is no error. Raises TierFailed."""
    if isinstance(reply, TierFailed):
        raise reply
    if isinstance(reply, ResponseError):
        raise as_failure(reply) from reply
    return reply


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
