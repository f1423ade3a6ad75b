"""One Redis server: a pool of connections to it, and two breakers.

A server that answers reads may hang with every write: one that is paused for a failover (`CLIENT PAUSE ... WRITE`), or a proxy.
Its reads would close the breaker that its writes opened, again and again. So writes have one of their own, which opens when
they are not answered while reads are: then they are refused at once, as by a server that says so, but for one now and then.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import AskError, MaxConnectionsError, ReadOnlyError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import log_failure
from cache_sidecar.tiers.redis.errors import KNOWN, as_failure, words
from cache_sidecar.tiers.resilience.breaker import Breaker

Address = tuple[str, int]
Command = tuple[Any, ...]
# Seconds after which a connection that nobody uses is closed: what a burst opened, or what leads to who is no primary any more.
IDLE = 30.0
# What callers see of a server that does not answer, and of one that answers and refuses.
AWAY = "reads and writes for its slots go to PostgreSQL"
REFUSES = "refused reads go to PostgreSQL; other sidecars learn of changes later, or mark replies stale"
# The problem of a server that answers reads, and no writes.
WRITTEN = "written"
# Commands that don't write, and the one function of ours that says so (functions.lua).
_READING, _READING_FUNCTION = frozenset({"ASKING", "CLUSTER", "GET", "INFO", "MGET", "SCAN"}), "_counts"
# Errors that say where else a key is, or are about one key, or are met and mended: no sign that the server is unwell.
_ABOUT_A_KEY = (AskError, TryAgainError)
_MENDED = re.compile(r"WRONGTYPE|.*unction not found")


class RedisNode:
    """One server: connections to it, each for one command or pipeline at a time."""

    def __init__(
        self,
        address: Address,
        connect: Callable[[Address], Any],
        *,
        max_connections: int,
        timeout: float,
        clock: Clock,
        dependency: Dependency,
    ) -> None:
        """`connect` makes a connection of redis-py's, which opens when it is first used."""
        self.address = address
        self.dependency = dependency
        self._connect = connect
        self._timeout = timeout
        self._breaker = Breaker(Tier.L2, clock=clock, dependency=dependency, effect=AWAY)
        self._writes = Breaker(Tier.L2, clock=clock, dependency=dependency, effect=REFUSES, problem=WRITTEN)
        self._reads = 0
        "How often it answered a read."
        self._free = max_connections
        "Connections that may still be made."
        self._idle: list[tuple[Any, float]] = []
        "Connections that nobody uses and since when, in the event loop's time; the last one was used last."
        self._trimming: asyncio.TimerHandle | None = None
        "When it is looked next for what was not used for long; nobody looks where there is nothing."
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def is_away(self) -> bool:
        """Whether it is being left alone."""
        return self._breaker.is_open

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands together and returns the replies, refusals among them. Raises TierFailed."""
        self._breaker.admit()
        is_write = any(map(_writes, commands))
        if is_write:
            self._admit_write()
        reads = self._reads
        try:
            async with asyncio.timeout(self._timeout):
                replies = await self._sent(commands)
        except KNOWN as error:
            failed = as_failure(error)
            if is_write and failed.failure is Failure.TIMEOUT and self._reads != reads:
                detail = f"it answers reads, and no write within {self._timeout:g} s"
                self._writes.failed(TierFailed(Tier.L2, Failure.TIMEOUT, detail))
            else:
                self._breaker.failed(failed)
            raise failed from error
        self._breaker.succeeded()
        if is_write:
            self._writes.succeeded()
        else:
            self._reads += 1
        if isinstance(replies[0], ReadOnlyError):
            # Its address is a replica's by now: the next connection may lead elsewhere.
            await self._drop_idle()
        return replies

    def _admit_write(self) -> None:
        try:
            self._writes.admit()
        except TierFailed as error:
            # It is there: what was to be told is in doubt, as when it refuses in words.
            raise TierFailed(Tier.L2, Failure.REFUSED, error.detail) from None

    async def _sent(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._taken()
        was_open = connection.is_connected
        try:
            try:
                return await self._answers(connection, commands)
            except (RedisConnectionError, RuntimeError):  # the latter is uvloop's, see errors.py
                if not was_open:
                    raise
                # The server closed it while nobody used it, and so the others. Whatever we send may be sent twice.
                await self._drop_idle()
                return await self._answers(connection, commands)
        finally:
            self._put_back(connection)
            if self._is_closed:
                await self._drop_idle()

    async def _answers(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                self.refused(error)
                replies.append(error)
        return replies

    def refused(self, error: ResponseError) -> None:
        """Takes that the server refused something, and says so, until `RedisL2.check` finds that all is well."""
        if not isinstance(error, _ABOUT_A_KEY) and not _MENDED.match(reason := words(error)):
            self.dependency.failed(reason, effect=REFUSES, problem=reason)

    def _taken(self) -> Any:
        if self._idle:
            return self._idle.pop()[0]
        if not self._free:
            raise MaxConnectionsError("all connections are in use")
        self._free -= 1
        return self._connect(self.address)

    def _put_back(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        if self._trimming is None:
            self._trimming = loop.call_later(IDLE, self._trim, loop)

    def _trim(self, loop: asyncio.AbstractEventLoop) -> None:
        """Closes the connections that nobody used for long."""
        before = loop.time() - IDLE
        kept = [(connection, since) for connection, since in self._idle if since > before]
        unused, self._idle = self._idle[: len(self._idle) - len(kept)], kept
        self._trimming = loop.call_at(kept[0][1] + IDLE, self._trim, loop) if kept else None
        if unused:
            task = loop.create_task(self._disconnect(unused))
            self._closing.add(task)
            task.add_done_callback(log_failure)
            task.add_done_callback(self._closing.discard)

    async def _drop_idle(self) -> None:
        """Closes the connections that nobody uses. Out of the list first: what is being closed must not be taken."""
        idle, self._idle = self._idle, []
        await self._disconnect(idle)

    async def _disconnect(self, connections: Iterable[tuple[Any, float]]) -> None:
        closing = [connection.disconnect() for connection, _ in connections]
        self._free += len(closing)
        await asyncio.gather(*closing, return_exceptions=True)

    async def close(self) -> None:
        """Closes its connections; those in use, after that."""
        self._is_closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        await asyncio.gather(*self._closing, self._drop_idle())


def _writes(command: Command) -> bool:
    name = command[0]
    return not str(command[1]).endswith(_READING_FUNCTION) if name == "FCALL" else name not in _READING
