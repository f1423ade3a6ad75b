"""The primaries of a Redis Cluster, or the single server: which node holds which slot, and what is sent to each of them.

What fails is one node: its breaker opens, its connections are closed, and its part of a reply is an error, while the others go
on. That is why commands don't go through redis-py's cluster client, which closes the connections to all nodes when a command to
one of them fails (and costs twice as much). Its connections and its parser are used.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import BackgroundTasks, cancel_and_wait
from cache_sidecar.tiers.redis.errors import as_failure
from cache_sidecar.tiers.redis.node import Address, Command, Connections, RedisNode

SLOTS = 16_384
# Times that a command is redirected to where a server says its slot is, and seconds before one that is to be tried again.
HOPS, AGAIN = 3, 0.02
# Minimum seconds between two requests for the slot map, however many commands fail.
MAP_EVERY = 0.2


class Routed(NamedTuple):
    """A command, and the slot of its keys."""

    slot: int
    command: Command


class RedisNodes:
    """The nodes, by what they hold. Methods raise TierFailed."""

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
        """`seeds` are asked for the slot map; with None for `is_cluster`, the first of them is asked whether it is a cluster.

        `max_connections` is per node; `timeout` is in seconds, for each command or pipeline.
        """
        self._is_cluster = is_cluster
        self._connect = connect
        self._max_connections = max_connections
        self._timeout = timeout
        self._clock = clock
        self._dependencies = dependencies
        self._seeds = [self._new(address) for address in seeds]
        self._known = {node.address: node for node in self._seeds}
        self._owners: dict[int, RedisNode] = {}
        "The primary of each slot; empty before the first slot map."
        self._ranges: Any = None
        "The reply to `CLUSTER SLOTS` that `_owners` was built from; None after a redirection has contradicted it."
        self._mapping: asyncio.Task[None] | None = None
        self._mapped_at = 0.0
        self._tasks = BackgroundTasks()

    def _new(self, address: Address) -> RedisNode:
        return RedisNode(
            address,
            self._connect,
            max_connections=self._max_connections,
            timeout=self._timeout,
            clock=self._clock,
            dependency=self._dependencies.of("redis", host_port(address)),
        )

    def connections(self) -> dict[str, Connections]:
        """Returns the connections to each node, by host:port."""
        return {host_port(address): node.connections for address, node in self._known.items()}

    # Sending

    async def send(self, commands: Sequence[Routed], *, together: bool = False) -> list[Any]:
        """Returns the reply to each command, or its error: the TierFailed of its node, or a refusal of redis-py's kind.

        With `together`, they share a pipeline to each node with what else is sent so in this turn of the event loop.
        """
        if not self._owners:
            await self.ready()
        replies: list[Any] = [None] * len(commands)
        await self._dispatch(commands, range(len(commands)), replies, together=together)
        for _ in range(HOPS):
            again = [number for number, reply in enumerate(replies) if isinstance(reply, (MovedError, AskError, TryAgainError))]
            if not again:
                break
            await self._redirect(commands, again, replies)
        if any(isinstance(reply, ClusterDownError) for reply in replies):
            self._refresh_map()
        return replies

    async def _dispatch(
        self, commands: Sequence[Routed], numbers: Iterable[int], replies: list[Any], *, together: bool = False
    ) -> None:
        """Sends each node its part of the commands, all at the same time, and puts the replies in their places."""
        parts: dict[RedisNode, list[int]] = {}
        for number in numbers:
            node = self._owners.get(commands[number].slot)
            if node is None:
                replies[number] = TierFailed(Tier.L2, Failure.UNREACHABLE, "no node holds the slot")
                self._refresh_map()
            else:
                parts.setdefault(node, []).append(number)
        asked = [(node, [commands[number].command for number in part]) for node, part in parts.items()]
        if together:
            # Every node is asked before any is waited for: in this turn of the event loop.
            coming = [(node.exchange_together(its), len(its)) for node, its in asked]
            found = [await self._outcome(replies_of_node, count) for replies_of_node, count in coming]
        elif len(asked) == 1:
            found = [await self._exchange(*asked[0])]  # one alone needs no task of its own
        else:
            found = await asyncio.gather(*(self._exchange(node, its) for node, its in asked))
        for part, answers in zip(parts.values(), found, strict=True):
            for number, answer in zip(part, answers, strict=True):
                replies[number] = answer

    async def _exchange(self, node: RedisNode, commands: Sequence[Command]) -> list[Any]:
        """As `_outcome`, of an exchange that nothing else shares."""
        return await self._outcome(node.exchange(commands), len(commands))

    async def _outcome(self, exchange: Awaitable[list[Any]], count: int) -> list[Any]:
        """Returns a node's replies; if it does not answer, its TierFailed for each. Another one may be the primary by now."""
        try:
            return await exchange
        except TierFailed as error:
            self._refresh_map()
            return [error] * count

    async def _redirect(self, commands: Sequence[Routed], numbers: list[int], replies: list[Any]) -> None:
        """Sends commands to where the servers said, and once more those that are to be tried again."""
        asked: dict[int, AskError] = {number: replies[number] for number in numbers if isinstance(replies[number], AskError)}
        for number in numbers:
            if isinstance(replies[number], MovedError):
                self._ranges = None
                self._owners[commands[number].slot] = self._at(replies[number].host, replies[number].port)
                self._refresh_map()
        if any(isinstance(replies[number], TryAgainError) for number in numbers):
            await asyncio.sleep(AGAIN)
        await self._dispatch(commands, [number for number in numbers if number not in asked], replies)
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
        """Returns the reply to one command."""
        (reply,) = await self.send([Routed(slot, command)])
        return unwrap(reply)

    async def ask_all(self, commands: Sequence[Command]) -> dict[Address, list[Any]]:
        """Returns each primary's replies to commands, or its error for each of them."""
        await self.ready()
        nodes = set(self._owners.values())
        replies = await asyncio.gather(*(self._exchange(node, commands) for node in nodes))
        return {node.address: reply for node, reply in zip(nodes, replies, strict=True)}

    async def ask_node(self, address: Address, commands: Sequence[Command]) -> list[Any]:
        """Returns a node's replies to commands, refusals among them, and redirects none. Raises TierFailed."""
        node = self._known.get(address)
        if node is None:
            raise TierFailed(Tier.L2, Failure.UNREACHABLE, "it no longer belongs to the cluster")
        replies = await self._exchange(node, commands)
        for reply in replies:
            if isinstance(reply, TierFailed):
                raise reply
        return replies

    def holder(self, slot: int) -> Address | None:
        """Returns the node to which a command for a slot would be sent; None if it is not known."""
        node = self._owners.get(slot)
        return None if node is None else node.address

    async def scan(self, pattern: str, *, count: int) -> AsyncIterator[list[bytes]]:
        """Yields the keys of all primaries that match a pattern, about `count` at a time."""
        await self.ready()
        for node in set(self._owners.values()):
            cursor: Any = 0
            while True:
                (reply,) = await self._exchange(node, [("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
                cursor, keys = unwrap(reply)
                yield keys
                if int(cursor) == 0:
                    break

    # The slot map

    async def ready(self) -> None:
        """Returns when it is known which node holds which slot."""
        if not self._owners:
            await self._map_once()

    def group_by_node(self, slots: Iterable[int]) -> list[list[int]]:
        """Returns the positions of slots, those of one node together, as far as is known."""
        groups: dict[RedisNode | None, list[int]] = {}
        for position, slot in enumerate(slots):
            groups.setdefault(self._owners.get(slot), []).append(position)
        return list(groups.values())

    async def owners(self) -> dict[Address, list[int]]:
        """Asks for the slot map, and returns the slots of each primary."""
        await self._map_once()
        found: dict[Address, list[int]] = {}
        for slot, node in self._owners.items():
            found.setdefault(node.address, []).append(slot)
        return found

    def _refresh_map(self) -> None:
        """Asks for the slot map in the background, unless that has just been done."""
        now = asyncio.get_running_loop().time()
        if self._is_cluster and self._mapping is None and now - self._mapped_at >= MAP_EVERY:
            self._start_mapping()

    async def _map_once(self) -> None:
        """Asks for the slot map, or waits for the request under way."""
        # Shielded: one caller's cancellation must not take the answer from the others.
        await asyncio.shield(self._mapping or self._start_mapping())

    def _start_mapping(self) -> asyncio.Task[None]:
        self._mapping = self._tasks.spawn(self._map())
        self._mapping.add_done_callback(self._on_mapping_ended)
        return self._mapping

    def _on_mapping_ended(self, task: asyncio.Task[None]) -> None:
        self._mapping = None
        self._mapped_at = task.get_loop().time()

    async def _map(self) -> None:
        if self._is_cluster is None:
            (info,) = await self._seeds[0].exchange([("INFO", "cluster")])
            self._is_cluster = b"cluster_enabled:1" in unwrap(info)
        if not self._is_cluster:
            self._owners = dict.fromkeys(range(SLOTS), self._seeds[0])
            return
        failed = TierFailed(Tier.L2, Failure.UNREACHABLE)
        primaries = list(set(self._owners.values()))
        for node in (*random.sample(primaries, len(primaries)), *(one for one in self._seeds if one not in primaries)):
            try:
                (reply,) = await node.exchange([("CLUSTER", "SLOTS")])
                self._adopt(unwrap(reply), node.address[0])
            except TierFailed as error:
                failed = error
            else:
                in_use = set(self._owners.values())
                for known in self._known.values():
                    if known not in in_use:
                        known.dependency.report_success()  # it holds no slot: nothing depends on it
                return
        raise failed

    def _adopt(self, ranges: Any, host: str) -> None:
        """Applies a reply to `CLUSTER SLOTS` from the server at `host`."""
        if ranges == self._ranges:
            return  # to build 16,384 entries takes milliseconds, again and again while a node is down
        owners: dict[int, RedisNode] = {}
        for first, last, primary, *_ in ranges:
            node = self._at(_text(primary[0]) or host, primary[1])
            owners.update(dict.fromkeys(range(first, last + 1), node))
        if not owners:
            raise TierFailed(Tier.L2, Failure.UNREACHABLE, "no node holds a slot")
        self._owners, self._ranges = owners, ranges
        kept = {*owners.values(), *self._seeds}
        for address, node in list(self._known.items()):
            if node not in kept:
                del self._known[address]
                self._dependencies.forget("redis", host_port(address))
                self._tasks.spawn(node.close())

    async def close(self) -> None:
        """Closes all connections."""
        if self._mapping is not None:
            await cancel_and_wait(self._mapping)
        await asyncio.gather(self._tasks.join(), *(node.close() for node in self._known.values()), return_exceptions=True)


def host_port(address: Address) -> str:
    """Returns an address as host:port."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unwrap(reply: Any) -> Any:
    """Returns a reply; raises TierFailed if it is an error."""
    if isinstance(reply, TierFailed):
        raise reply
    if isinstance(reply, ResponseError):
        raise as_failure(reply) from reply
    return reply


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
