"""Receives every change made elsewhere, and knows when it may have missed one.

A counter in Redis numbers each partition's messages. One plain connection per primary subscribes to the partitions it holds. A
partition is trusted from the moment its subscription is acknowledged and its counter read. Trust ends with the connection, and
what was cached is dropped before it is given again. A message whose number does not follow the last one drops the partition; so
does a counter that, at a heartbeat, has been ahead of what was received for longer than a message takes. Numbers compare only
within one history: a server with another replication id may be back at an earlier number, or at the same one again.

Trust also ends `staleness_bound` seconds after the start of the last good heartbeat, see `freshness_lease.py`. So a reply that
is not marked stale reflects every change that was published to Redis that many seconds before the call. What a writer could not
publish, the relay does; a sidecar that finds Redis down marks its replies stale, and bypasses it until then (`quarantine.py`).
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cache_sidecar.core import telemetry
from cache_sidecar.core.backoff import Backoff
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.probe import Probe
from cache_sidecar.tiers.coherence.quarantine import Quarantine
from cache_sidecar.tiers.ports import PARTITIONS, InvalidationListener
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import host_port
from cache_sidecar.tiers.redis.errors import failures
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.node import Address
from cache_sidecar.tiers.redis.reading import NodeReader, Reading

# Seconds between two requests for the slot map; and between checks whether a feed has broken: then it is requested at once, as
# another node may take over the partitions.
TOPOLOGY_EVERY = 2.0
TOPOLOGY_AGAIN = 0.5
# Seconds between the beginnings of two heartbeats.
HEARTBEAT_EVERY = 0.25
# Seconds that a message may take; a counter that is ahead for longer means that one was lost.
GRACE = 0.1
# Minimum seconds between two log lines about what should never arrive.
LOG_EVERY = 60.0
# The name of this dependency, and what callers see while changes are not received.
INVALIDATIONS = "invalidations"
UNHEARD = "L1 serves entries marked stale until stale_limit, then misses"
# No retries: redis-py would reconnect and subscribe again, and never mention the messages published in between.
_AT_ONCE = Retry(NoBackoff(), 0, supported_errors=())


def staleness_bound(timeout: float) -> float:
    """Returns for how many seconds after a change was published a reply that is not marked stale may still lack it.

    `timeout` is the setting `redis_timeout`: how long a heartbeat may take.
    """
    return HEARTBEAT_EVERY + timeout + GRACE


class InvalidationSubscriber:
    """Passes changes on to the listeners of every dataset, as long as it runs."""

    def __init__(
        self,
        l2: RedisL2,
        connection: RedisClient,
        names: KeyNames,
        *,
        timeout: float,
        freshness_lease: FreshnessLease,
        followers: Mapping[str, InvalidationListener],
        quarantines: Sequence[Quarantine] = (),
        on_message: Callable[[], None],
    ) -> None:
        """`timeout` is how many seconds a heartbeat may take."""
        self._l2 = l2
        self._connection = connection
        self._names = names
        self._timeout = timeout
        self._freshness_lease = freshness_lease
        self._followers = followers
        self._quarantines = quarantines
        self._on_message = on_message
        self._feeds: dict[Address, Feed] = {}
        self._tasks = BackgroundTasks()
        self._next_look = -math.inf
        "When the slot map is requested next, in the event loop's time."

    def start(self) -> None:
        """Starts listening in the background."""
        self._tasks.poll(lambda: min(TOPOLOGY_AGAIN, TOPOLOGY_EVERY), self._follow_topology)

    async def stop(self) -> None:
        """Stops listening."""
        await self._tasks.stop()
        for feed in self._feeds.values():
            await feed.stop()

    def is_trusted(self) -> bool:
        """Whether the changes of all partitions are known to be received."""
        return self.fresh_partitions() == PARTITIONS

    def fresh_partitions(self) -> int:
        """Returns the number of partitions whose changes are known to be received."""
        return sum(len(feed.partitions) for feed in self._feeds.values() if feed.is_trusted)

    def delay(self) -> float | None:
        """Returns the longest delay of a probe message in the last minute, in seconds; None before the first one."""
        delays = [delay for feed in self._feeds.values() if (delay := feed.probe.longest()) is not None]
        return max(delays, default=None)

    async def _follow_topology(self) -> None:
        """Keeps one feed per primary, for the partitions it holds now."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_look and not any(feed.is_trusted is False for feed in self._feeds.values()):
            return
        dependency = self._connection.dependencies.of(INVALIDATIONS)
        try:
            owners = {address: frozenset(held) for address, held in (await self._l2.owners()).items() if held}
        except TierFailed as error:
            dependency.report_failure(error.detail or error.failure.value, effect=UNHEARD)
        else:
            dependency.report_success()
            await self._adopt(owners)
        self._next_look = loop.time() + TOPOLOGY_EVERY

    async def _adopt(self, owners: Mapping[Address, frozenset[int]]) -> None:
        for address, feed in list(self._feeds.items()):
            if owners.get(address) != feed.partitions:
                await self._feeds.pop(address).stop()
                self._connection.dependencies.forget(INVALIDATIONS, host_port(address))
        for address, held in owners.items():
            if address not in self._feeds:
                feed = self._feeds[address] = Feed(
                    address,
                    self._connection.to(address, retry=_AT_ONCE),
                    self._names,
                    held,
                    timeout=self._timeout,
                    freshness_lease=self._freshness_lease,
                    followers=self._followers,
                    quarantines=self._quarantines,
                    on_message=self._on_message,
                    dependency=self._connection.dependencies.of(INVALIDATIONS, host_port(address)),
                )
                feed.start()


class _Message(NamedTuple):
    """What our scripts publish: `number version dataset id`, with an empty id for the whole partition."""

    number: int
    version: int
    dataset: str
    id: str

    @classmethod
    def parse(cls, data: bytes) -> "_Message":
        """Parses a message. Raises ValueError for anything else."""
        number, version, dataset, id = data.split(b" ", 3)
        return cls(int(number), codec.parse_version(version), dataset.decode(), id.decode())


class _State(NamedTuple):
    """What a heartbeat reads."""

    counters: Mapping[int, int]
    "The number of the last message of each partition."
    history: str
    "The replication id of the server whose counters those are."
    age: float
    "How many seconds before the heartbeat began they were read, at most."


class Feed:
    """The subscription to one primary."""

    def __init__(
        self,
        address: Address,
        redis: Redis,
        names: KeyNames,
        partitions: frozenset[int],
        *,
        timeout: float,
        freshness_lease: FreshnessLease,
        followers: Mapping[str, InvalidationListener],
        quarantines: Sequence[Quarantine] = (),
        on_message: Callable[[], None],
        dependency: Dependency,
        backoff: Backoff | None = None,
    ) -> None:
        self._address = address
        self._redis = redis
        self._backoff = backoff or Backoff()
        "Between two attempts to connect: each makes hundreds of subscriptions."
        self._timeout = timeout
        self._freshness_lease = freshness_lease
        self.partitions = partitions
        self._partition_of = {names.channel(p).encode(): p for p in partitions}
        self._counters = {p: names.counter(p) for p in partitions}
        self._reader = NodeReader(names, list(self._counters.values()), min(partitions))
        self.probe = Probe(partial(names.probe, min(partitions)), freshness_lease.clock)
        self._followers = followers
        self._quarantines = quarantines
        self._on_message = on_message
        self._tasks = BackgroundTasks()
        self.is_trusted: bool | None = None
        "Whether every change in its partitions is known to be received; None before the first attempt."
        self._dependency = dependency
        self._log_limit = LogLimit(every=LOG_EVERY)
        self._unreadable_limit = LogLimit(every=LOG_EVERY)
        self._received: dict[int, int] = {}
        "The number of the last message of each partition."
        self._counted: tuple[Reading, Mapping[int, int]] | None = None
        "The last reading and its counters."
        self._history = ""
        "The replication id of the server whose counters those are."

    def start(self) -> None:
        """Starts listening in the background."""
        self._tasks.spawn(self._run())

    async def stop(self) -> None:
        """Stops listening; its partitions are no longer trusted."""
        await self._tasks.stop()
        # Not in the task: one that takes long to end is cancelled again, and would leave its connections open.
        await self._redis.aclose()

    def on_expired(self, late: float) -> None:
        """Ends the trust: no heartbeat succeeded in time."""
        self._set_trusted(False, late=late)

    async def _run(self) -> None:
        while True:
            try:
                with failures():
                    await self._listen()
            except TierFailed as error:
                self._dependency.report_failure(error.detail or error.failure.value, effect=UNHEARD)
            except Exception as error:  # noqa: BLE001  # a defect of ours; nothing that is received may end the feed for good
                self._dependency.report_failure(f"unexpected {type(error).__name__}", effect=UNHEARD)
                if self._log_limit.should_log():
                    telemetry.log.error("the subscription failed and is renewed", node=host_port(self._address), exc_info=error)
            finally:
                self._set_trusted(False)
            await self._backoff.pause()

    async def _listen(self) -> None:
        async with self._redis.pubsub() as pubsub:
            for channel in (
                *self._partition_of,
                self.probe.channel,
            ):  # one by one: all channels of a command must be of one slot
                await pubsub.ssubscribe(channel)
            # The counters only after the acknowledgement: a message published between a counter's reading and its subscription
            # would be counted as received.
            await self._wait_until_subscribed(pubsub)
            began = self._freshness_lease.clock()
            state = await self._read_state()
            self._received, self._history = dict(state.counters), state.history
            # What was cached before may lack changes whose messages were sent while nothing was subscribed.
            for partition in self._counters:
                self._reset_partition(partition)
            # In this order: a reader in another thread must not see trust without an end.
            self._renew_lease(began)
            self._set_trusted(True)
            self._dependency.report_success()
            await self._receive(pubsub, began)

    async def _wait_until_subscribed(self, pubsub: Any) -> None:
        missing = len(self._partition_of) + 1
        while missing:
            message = await pubsub.get_message(timeout=1.0)
            if message is None:
                raise TimeoutError("the subscription was not acknowledged")
            if message["type"] == "ssubscribe":
                missing -= 1

    async def _receive(self, pubsub: Any, began: float) -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._read_messages(pubsub)), loop.create_task(self._beat(began))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._set_trusted(False)  # first of all: the other task may take a while to end
            # Also when this feed is stopped: a task left behind would go on reading the connection.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _read_messages(self, pubsub: Any) -> None:
        while True:
            message = await pubsub.get_message(timeout=None)
            if message is None:
                continue
            if message["type"] == "sunsubscribe":
                raise ConnectionError("the server ended a subscription: its slot moved")
            if message["type"] == "smessage" and message["channel"] == self.probe.channel:
                self.probe.receive(message["data"])
            elif message["type"] == "smessage":
                self._handle(self._partition_of[message["channel"]], message["data"])

    def _handle(self, partition: int, data: bytes) -> None:
        try:
            message = _Message.parse(data)
        except ValueError:
            # From another program, or a later version of this one: it may announce any change.
            self._reset_partition(partition)
            if self._unreadable_limit.should_log():
                telemetry.log.warning(
                    "dropping a partition from memory after an unreadable invalidation",
                    node=host_port(self._address),
                    partition=partition,
                    bytes=len(data),  # not what it says: it may name a customer
                    since_last=self._unreadable_limit.count,
                )
        else:
            if message.number != self._received[partition] + 1:
                self._reset_partition(partition)
            self._received[partition] = message.number
            if follower := self._followers.get(message.dataset):
                if message.id:
                    follower.on_invalidate(message.id, message.version)
                else:
                    follower.on_partition_reset(partition)
        self._on_message()

    async def _beat(self, began: float) -> None:
        """Compares the counters with what was received, every HEARTBEAT_EVERY seconds from when they were read."""
        earlier = dict(self._received)
        while self.is_trusted:
            await asyncio.sleep(began + HEARTBEAT_EVERY - self._freshness_lease.clock())
            before, began = dict(self._received), self._freshness_lease.clock()
            state = await self._read_state(shared=True)
            if state.age:
                # Read for another sidecar: all it proves is how things stood then. What was received since is not in it, but
                # what had been at the last heartbeat is.
                began, before, earlier = began - state.age, earlier, before
            else:
                earlier = before
            if state.history != self._history:
                raise ConnectionError("the server has another history: changes may be lost, and numbers used again")
            for partition, count in state.counters.items():
                if count < before[partition]:
                    self._resync(partition, count)
            if any(count > self._received[partition] for partition, count in state.counters.items()):
                await asyncio.sleep(GRACE)
                for partition, count in state.counters.items():
                    if count > self._received[partition]:
                        self._resync(partition, count)
            # The lease may have expired during this heartbeat, unnoticed. Renewed now, it would cover entries that were filled
            # before it expired, as if their changes had been received all the time.
            self._freshness_lease.check()
            if self.is_trusted:
                self._renew_lease(began)
                self._backoff.reset()
        raise TimeoutError("no heartbeat was answered in time")

    def _renew_lease(self, began: float) -> None:
        """Renews the lease after a good heartbeat that began at a moment."""
        self._freshness_lease.extend(self, began + staleness_bound(self._timeout))

    def _resync(self, partition: int, count: int) -> None:
        """Goes on from the counter, which is ahead of what was received, or was set back."""
        self._received[partition] = count
        self._reset_partition(partition)

    async def _read_state(self, *, shared: bool = False) -> _State:
        """Reads the counters and the replication id; with `shared`, as another sidecar may have read them just before."""
        async with asyncio.timeout(self._timeout):  # redis-py's own is for each step: connect, authenticate, ...
            found = await self._reader.read(self._ask, shared=shared)
            reading, age = found or (await self._read_state_without_script(), 0.0)
        return _State(self._counters_of(reading), reading.history, age)

    async def _ask(self, commands: Sequence[tuple[object, ...]]) -> Sequence[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        # With a heartbeat, so that it costs no round trip; what became of it is seen when it is delivered.
        if (message := self.probe.send()) is not None:
            pipeline.execute_command("SPUBLISH", self.probe.channel, message)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies[: len(commands)]

    async def _read_state_without_script(self) -> Reading:
        """As long as our scripts are not loaded; and for a counter that moved, whose new place the error names."""
        pipeline = self._redis.pipeline(transaction=False)
        for counter in self._counters.values():
            pipeline.get(counter)
        pipeline.info("replication")
        *values, replication = await pipeline.execute(raise_on_error=False)
        for value in (*values, replication):
            if isinstance(value, Exception):
                raise value  # as Redis wrote it: redis-py's pipeline would add the command
        return Reading(replication["role"], str(replication["master_replid"]), [value or b"" for value in values])

    def _counters_of(self, reading: Reading) -> Mapping[int, int]:
        if self._counted is None or self._counted[0] is not reading:  # mostly nothing has changed
            try:
                counters = {p: int(value or 0) for p, value in zip(self._counters, reading.values, strict=True)}
            except ValueError:
                raise TierFailed(Tier.L2, Failure.REFUSED, "a counter of messages holds something else") from None
            if reading.role != "master":
                raise TierFailed(Tier.L2, Failure.REFUSED, "it is a replica by now")
            self._counted = reading, counters
        return self._counted[1]

    def _reset_partition(self, partition: int) -> None:
        for follower in self._followers.values():
            follower.on_partition_reset(partition)

    def _set_trusted(self, trusted: bool, *, late: float = 0.0) -> None:
        """Passes a change of trust on; `late` is for how many seconds it has been so."""
        if trusted is self.is_trusted:
            return
        self.is_trusted = trusted
        for quarantine in self._quarantines:
            if trusted:
                quarantine.on_feed_trusted(self.partitions, self._address, self._history)
            else:
                quarantine.on_feed_lost(self.partitions, late=late)
        for follower in self._followers.values():
            for partition in self._counters:
                follower.on_lease_change(partition, trusted, late=late)
        if not trusted:
            self._freshness_lease.end(self)  # last, as above
