"""One Redis server: a pool of connections to it, and two breakers.

A server may answer reads while every write hangs: one that is paused for a failover (`CLIENT PAUSE ... WRITE`), or one behind a
proxy. With one breaker, its reads would close what its writes opened, again and again. So writes have a breaker of their own,
which opens when they time out while reads are answered: from then on writes are refused at once, as by a server that refuses
them in words, except for a trial now and then.
"""

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import AskError, MaxConnectionsError, ReadOnlyError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from cache_sidecar.core import tracing
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.core.tracing import Attribute, Kind, Span
from cache_sidecar.tiers.redis.errors import KNOWN, as_failure, words
from cache_sidecar.tiers.redis.scripts import FLAGS, SCRIPTS
from cache_sidecar.tiers.resilience.breaker import Breaker

Address = tuple[str, int]
Command = tuple[Any, ...]
# Seconds after which an unused connection is closed: what a burst opened, or what leads to a former primary.
IDLE = 30.0
# What callers see of a server that does not answer, and of one that answers and refuses.
AWAY = "reads and writes for its slots go to PostgreSQL"
REFUSES = "refused reads go to PostgreSQL; other sidecars learn of changes later, or mark replies stale"
# The problem of a server that answers reads, but no writes.
WRITTEN = "written"
# Commands and scripts that don't write. One of them taken for a write would close the breaker of the writes that hang.
_READING = frozenset({"ASKING", "CLUSTER", "GET", "INFO", "MGET", "PTTL", "SCAN"})
_NAMES = {script.digest: name for name, script in SCRIPTS.items()}
_READING_SCRIPTS = frozenset(script.digest for name, script in SCRIPTS.items() if "no-writes" in FLAGS[name])
# Errors that redirect, or concern one key, or are repaired by the caller: no sign that the server is unwell.
_ABOUT_A_KEY = (AskError, TryAgainError)
_REPAIRED = re.compile("WRONGTYPE|NOSCRIPT")


class Connections(NamedTuple):
    """How many connections a pool has."""

    in_use: int
    idle: int
    limit: int


class Gathered(NamedTuple):
    """Commands that go out with others, and the span of who asked for them, if that is traced."""

    commands: Sequence[Command]
    replies: asyncio.Future[list[Any]]
    asker: Span | None


class RedisNode:
    """One server, and the connections to it, each for one command or pipeline at a time."""

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
        """`connect` returns a connection of redis-py's, which opens when it is first used; `timeout` is in seconds."""
        self.address = address
        self.dependency = dependency
        self._connect = connect
        self._timeout = timeout
        self._breaker = Breaker(Tier.L2, clock=clock, dependency=dependency, effect=AWAY)
        self._writes = Breaker(Tier.L2, clock=clock, dependency=dependency, effect=REFUSES, problem=WRITTEN)
        self._reads = 0
        "How many exchanges without a write it answered."
        self._max_connections = max_connections
        self._free = max_connections
        "How many connections may still be made."
        self._idle: list[tuple[Any, float]] = []
        "Unused connections and since when, in the event loop's time; the one used last comes last."
        self._trimming: asyncio.TimerHandle | None = None
        "The next check for connections to close; none is scheduled while there are no unused ones."
        self._gathered: list[Gathered] = []
        "What goes out together in the next turn of the event loop."
        self._exchanging = BackgroundTasks()
        self._closing = BackgroundTasks()
        self._is_closed = False

    @property
    def connections(self) -> Connections:
        """The connections to it."""
        return Connections(self._max_connections - self._free - len(self._idle), len(self._idle), self._max_connections)

    def exchange_together(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """As `exchange`, in one pipeline with all that is asked for in this turn of the event loop.

        For reads of several datasets, as of a page: they fail together, so no change of a caller's may be among them.
        """
        loop = asyncio.get_running_loop()
        if not self._gathered:
            loop.call_soon(self._send_gathered)
        gathered = Gathered(commands, loop.create_future(), tracing.current())
        self._gathered.append(gathered)
        return gathered.replies

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._exchanging.spawn(self._exchange_gathered(gathered))

    async def _exchange_gathered(self, gathered: Sequence[Gathered]) -> None:
        wanted = [one for one in gathered if not one.replies.done()]  # nobody waits for the others any more
        if not wanted:
            return
        askers = [one.asker for one in wanted if one.asker is not None]
        tracing.enter(askers[0] if askers else None)
        try:
            found = iter(await self.exchange([*itertools.chain(*(one.commands for one in wanted))], links=askers[1:]))
        except BaseException as error:
            for one in wanted:
                if not one.replies.done():
                    one.replies.set_exception(error)
                    one.replies.exception()  # or asyncio warns when nobody waits for it any more
            if not isinstance(error, TierFailed):
                raise
        else:
            for one in wanted:
                replies = list(itertools.islice(found, len(one.commands)))
                if not one.replies.done():
                    one.replies.set_result(replies)

    async def exchange(self, commands: Sequence[Command], *, links: Sequence[Span] = ()) -> list[Any]:
        """Sends commands together and returns the replies, refusals among them. Raises TierFailed.

        The span of a traced exchange refers to `links`.
        """
        if tracing.current() is None:
            return await self._exchange(commands)
        operation, attributes = _describe(commands)
        attributes |= {"server.address": self.address[0], "server.port": self.address[1]}
        with tracing.within(operation, Kind.CLIENT, attributes) as span:
            for asker in links[: tracing.MAX_LINKS]:
                if span is not None:
                    span.link(asker)
            replies = await self._exchange(commands)
            for reply in replies:
                if span is not None and isinstance(reply, ResponseError):
                    # The first word of what it says; the rest may quote a key.
                    span.fail(type(reply).__name__)
            return replies

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        self._breaker.admit()
        is_write = any(map(_is_write, commands))
        if is_write:
            try:
                self._writes.admit()
            except TierFailed as error:
                # The server is there, but what was to be published is in doubt, as when it refuses in words.
                raise TierFailed(Tier.L2, Failure.REFUSED, error.detail) from None
        reads = self._reads
        try:
            async with asyncio.timeout(self._timeout):
                replies = await self._send(commands)
        except KNOWN as error:
            failed = as_failure(error)
            if is_write and failed.failure is Failure.TIMEOUT and self._reads != reads:
                detail = f"it answers reads, and no write within {self._timeout:g} s"
                self._writes.record_failure(TierFailed(Tier.L2, Failure.TIMEOUT, detail))
            else:
                self._breaker.record_failure(failed)
            raise failed from error
        self._breaker.record_success()
        if is_write:
            self._writes.record_success()
        else:
            self._reads += 1
        if isinstance(replies[0], ReadOnlyError):
            # The address now belongs to a replica: a new connection may lead to the primary.
            await self._drop_idle()
        return replies

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Exchanges commands over a connection of the pool; once more if the connection turns out to be dead."""
        if self._idle:
            connection = self._idle.pop()[0]
        elif self._free:
            self._free -= 1
            connection = self._connect(self.address)
        else:
            raise MaxConnectionsError("all connections are in use")
        was_open = connection.is_connected
        try:
            try:
                return await self._send_over(connection, commands)
            except (RedisConnectionError, RuntimeError):  # the latter is uvloop's, see errors.py
                if not was_open:
                    raise
                # The server closed it while it was idle, and probably the others, too. All of our commands may be sent twice.
                await self._drop_idle()
                return await self._send_over(connection, commands)
        finally:
            loop = asyncio.get_running_loop()
            self._idle.append((connection, loop.time()))
            if self._trimming is None:
                self._trimming = loop.call_later(IDLE, self._trim, loop)
            if self._is_closed:
                await self._drop_idle()

    async def _send_over(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                if not isinstance(error, _ABOUT_A_KEY) and not _REPAIRED.match(reason := words(error)):
                    # Reported until `RedisL2.check` finds that nothing is refused.
                    self.dependency.report_failure(reason, effect=REFUSES, problem=reason)
                replies.append(error)
        return replies

    def _trim(self, loop: asyncio.AbstractEventLoop) -> None:
        """Closes the connections that have been idle for `IDLE` seconds."""
        before = loop.time() - IDLE
        kept = [(connection, since) for connection, since in self._idle if since > before]
        unused, self._idle = self._idle[: len(self._idle) - len(kept)], kept
        self._trimming = loop.call_at(kept[0][1] + IDLE, self._trim, loop) if kept else None
        if unused:
            self._closing.spawn(self._disconnect(unused))

    async def _drop_idle(self) -> None:
        """Closes the unused connections."""
        # Out of the list first: closing takes a while, and no command must pick one of them meanwhile.
        idle, self._idle = self._idle, []
        await self._disconnect(idle)

    async def _disconnect(self, connections: Iterable[tuple[Any, float]]) -> None:
        closing = [connection.disconnect() for connection, _ in connections]
        self._free += len(closing)
        await asyncio.gather(*closing, return_exceptions=True)

    async def close(self) -> None:
        """Closes its connections; those in use, when they are no longer."""
        self._is_closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        await asyncio.gather(self._closing.join(), self._exchanging.join(), self._drop_idle())


def _describe(commands: Sequence[Command]) -> tuple[str, dict[str, Attribute]]:
    """Returns the name and the attributes of a span, as OpenTelemetry's conventions for Redis have them; no keys, no values."""
    name, script = commands[-1][0], _NAMES.get(commands[-1][1]) if len(commands[-1]) > 1 else None
    attributes: dict[str, Attribute] = {"db.system.name": "redis", "db.operation.name": name}
    if script is not None:
        attributes["db.stored_procedure.name"] = script
    if len(commands) > 1:
        name = attributes["db.operation.name"] = f"PIPELINE {name}"
        attributes["db.operation.batch.size"] = len(commands)
    return f"{name} {script}" if script else name, attributes


def _is_write(command: Command) -> bool:
    name = command[0]
    return command[1] not in _READING_SCRIPTS if name == "EVALSHA" else name not in _READING
