"""Hears of every change made elsewhere, and knows when it may have missed one.

Each partition's messages are numbered by a counter in Redis. One plain connection per primary listens to the partitions it
holds. A partition is trusted from the moment its subscription is acknowledged and its counter read; trust ends with the
connection, and whatever was cached is dropped before it is given again. A number that does not follow the last one drops the
partition; so does a counter that, at a heartbeat, is ahead of what was heard for longer than a message takes. Numbers compare
only within one history: a server whose replication id is another may be back at an earlier number, or at the same one again.

Trust also ends `staleness_bound` seconds after the start of the last good heartbeat, see `freshness_lease.py`. So a reply that
is not marked stale reflects every change that was published to Redis that many seconds before the call. What a writer could not
publish, the relay does; a sidecar that finds Redis down marks its replies stale, and bypasses it until then (`quarantine.py`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from cache_sidecar.core.backoff import Backoff
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import cancel_and_wait, log_failure
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.quarantine import Quarantine
from cache_sidecar.tiers.ports import PARTITIONS, InvalidationListener
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import named
from cache_sidecar.tiers.redis.errors import failures
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.node import Address

# Seconds between two looks at who holds which partition, and sooner once a feed broke: another node may take its partitions.
TOPOLOGY_EVERY = 2.0
TOPOLOGY_AGAIN = 0.5
# Seconds between the beginnings of two heartbeats.
HEARTBEAT_EVERY = 0.25
# Seconds a message may take before a counter that is ahead means it is lost.
GRACE = 0.1
# The name of this dependency, and what callers see while changes are not heard.
INVALIDATIONS = "invalidations"
UNHEARD = "L1 serves entries marked stale until stale_limit, then misses"
# An error is not to be tried again: redis-py would connect and subscribe anew, and say nothing of what was published meanwhile.
_AT_ONCE = Retry(NoBackoff(), 0, supported_errors=())


def staleness_bound(timeout: float) -> float:
    """Returns how many seconds after Redis was told of a change a reply that is not marked stale may still lack it.

    `timeout` is the setting `redis_timeout`: what a heartbeat may take.
    """
    return HEARTBEAT_EVERY + timeout + GRACE


class InvalidationSubscriber:
    """Keeps the followers of every dataset informed, as long as it runs."""

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
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts listening in the background."""
        self._task = asyncio.get_running_loop().create_task(self._follow_topology())
        self._task.add_done_callback(log_failure)

    async def stop(self) -> None:
        """Stops listening."""
        if self._task is not None:
            await cancel_and_wait(self._task)
        for feed in self._feeds.values():
            await feed.stop()

    def is_trusted(self) -> bool:
        """Whether every partition's changes are known to be heard."""
        return sum(len(feed.partitions) for feed in self._feeds.values() if feed.is_trusted) == PARTITIONS

    async def _follow_topology(self) -> None:
        """Keeps one feed per primary, listening to the partitions it holds now."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                owners = {address: frozenset(held) for address, held in (await self._l2.owners()).items() if held}
            except TierFailed as error:
                self._connection.dependencies.of(INVALIDATIONS).failed(error.detail or error.failure.value, effect=UNHEARD)
            else:
                self._connection.dependencies.of(INVALIDATIONS).works()
                await self._adopt(owners)
            next_look = loop.time() + TOPOLOGY_EVERY
            while loop.time() < next_look:
                await asyncio.sleep(min(TOPOLOGY_AGAIN, TOPOLOGY_EVERY))
                if any(feed.is_trusted is False for feed in self._feeds.values()):
                    break

    async def _adopt(self, owners: Mapping[Address, frozenset[int]]) -> None:
        for address, feed in list(self._feeds.items()):
            if owners.get(address) != feed.partitions:
                await self._feeds.pop(address).stop()
                self._connection.dependencies.forget(INVALIDATIONS, named(address))
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
                    dependency=self._connection.dependencies.of(INVALIDATIONS, named(address)),
                )
                feed.start()


class _Message(NamedTuple):
    """What the functions publish: `number version dataset id`, with an empty id for the whole partition."""

    number: int
    version: int
    dataset: str
    id: str

    @classmethod
    def parse(cls, data: bytes) -> "_Message":
        """Raises ValueError for anything else."""
        number, version, dataset, id = data.split(b" ", 3)
        return cls(int(number), int(version, 16), dataset.decode(), id.decode())


class Feed:
    """Listens to one primary."""

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
        "Before a broken connection is tried again: hundreds of subscriptions each time."
        self._timeout = timeout
        self._freshness_lease = freshness_lease
        self.partitions = partitions
        self._partition_of = {names.channel(p).encode(): p for p in partitions}
        self._counters = {p: names.counter(p) for p in partitions}
        self._counts = f"{names.library()[0]}_counts"
        self._followers = followers
        self._quarantines = quarantines
        self._on_message = on_message
        self._task: asyncio.Task[None] | None = None
        self.is_trusted: bool | None = None
        "Whether every change in its partitions is known to be heard; None before that was tried."
        self._dependency = dependency
        self._heard: dict[int, int] = {}
        "The number of the last message of each partition."
        self._history = ""
        "The replication id of the server that counts."

    def start(self) -> None:
        """Starts listening in the background."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(log_failure)

    async def stop(self) -> None:
        """Stops listening; its partitions are not trusted any more."""
        if self._task is not None:
            await cancel_and_wait(self._task)
        # Not in the task: it is cancelled again when it takes long to end, and would leave its connections open.
        await self._redis.aclose()

    def on_expired(self, late: float) -> None:
        """Ends the trust: no heartbeat was good in time."""
        self._set_trusted(False, late=late)

    async def _run(self) -> None:
        while True:
            try:
                with failures():
                    await self._listen()
            except TierFailed as error:
                self._dependency.failed(error.detail or error.failure.value, effect=UNHEARD)
            finally:
                self._set_trusted(False)
            await self._backoff.pause()

    async def _listen(self) -> None:
        async with self._redis.pubsub() as pubsub:
            for channel in self._partition_of:  # one by one: a command names channels of one slot only
                await pubsub.ssubscribe(channel)
            await self._acknowledged(pubsub)
            # What is published from here on arrives; the counters say where that begins.
            began = self._freshness_lease.clock()
            self._heard, self._history = await self._read_state()
            for partition in self._counters:
                self._tell_partition(partition)
            # In this order: a reader in another thread must not see trust without an end.
            self._confirm(began)
            self._set_trusted(True)
            self._dependency.works()
            await self._receive(pubsub, began)

    async def _acknowledged(self, pubsub: Any) -> None:
        missing = len(self._partition_of)
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
            self._set_trusted(False)  # before all else: to end the other one may take its time
            # Also when this feed is stopped: a reader left behind would go on listening.
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
            if message["type"] == "smessage":
                self._take(self._partition_of[message["channel"]], message["data"])

    def _take(self, partition: int, data: bytes) -> None:
        try:
            message = _Message.parse(data)
        except ValueError:
            # Somebody else's, or a later version's: it may say anything.
            self._tell_partition(partition)
        else:
            if message.number != self._heard[partition] + 1:
                self._tell_partition(partition)
            self._heard[partition] = message.number
            if follower := self._followers.get(message.dataset):
                if message.id:
                    follower.changed(message.id, message.version)
                else:
                    follower.on_partition_reset(partition)
        self._on_message()

    async def _beat(self, began: float) -> None:
        """Compares the counters with what was heard, every so often from the moment the last good heartbeat began."""
        while self.is_trusted:
            await asyncio.sleep(began + HEARTBEAT_EVERY - self._freshness_lease.clock())
            before, began = dict(self._heard), self._freshness_lease.clock()
            counters, history = await self._read_state()
            if history != self._history:
                raise ConnectionError("the server has another history: changes may be lost, and numbers used again")
            for partition, count in counters.items():
                if count < before[partition]:
                    self._lost(partition, count)
            if any(counters[p] > self._heard[p] for p in counters):
                await asyncio.sleep(GRACE)
                for partition, count in counters.items():
                    if count > self._heard[partition]:
                        self._lost(partition, count)
            # The last one may have lapsed meanwhile, and nobody looked: then this one does not make up for it.
            self._freshness_lease.check()
            if self.is_trusted:
                self._confirm(began)
                self._backoff.reset()
        raise TimeoutError("no heartbeat was answered in time")

    def _confirm(self, began: float) -> None:
        """A good heartbeat began at a moment."""
        self._freshness_lease.extend(self, began + staleness_bound(self._timeout))

    def _lost(self, partition: int, count: int) -> None:
        """The counter says more than was heard, or was set back."""
        self._heard[partition] = count
        self._tell_partition(partition)

    async def _read_state(self) -> tuple[dict[int, int], str]:
        """Returns the counters and the replication id."""
        async with asyncio.timeout(self._timeout):  # redis-py's own is for each piece of it: to connect, to say who we are, ...
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.execute_command("FCALL", self._counts, 0, *self._counters.values())
            pipeline.info("replication")
            values, replication = await pipeline.execute(raise_on_error=False)
            if isinstance(values, ResponseError):
                values, replication = await self._read_state_without_function()
        for reply in (values, replication):
            if isinstance(reply, Exception):
                raise reply
        try:
            counters = {p: int(value or 0) for p, value in zip(self._counters, values, strict=True)}
        except ValueError:
            raise TierFailed(Tier.L2, Failure.REFUSED, "a counter of messages holds something else") from None
        if replication["role"] != "master":
            raise TierFailed(Tier.L2, Failure.REFUSED, "it is a replica by now")
        return counters, str(replication["master_replid"])

    async def _read_state_without_function(self) -> tuple[Any, Any]:
        """Reads as long as nobody has loaded our functions; and says of a counter that moved where it is now."""
        pipeline = self._redis.pipeline(transaction=False)
        for counter in self._counters.values():
            pipeline.get(counter)
        pipeline.info("replication")
        *values, replication = await pipeline.execute(raise_on_error=False)
        for value in values:
            if isinstance(value, Exception):
                raise value  # as Redis said it: redis-py would add the command
        return values, replication

    def _tell_partition(self, partition: int) -> None:
        for follower in self._followers.values():
            follower.on_partition_reset(partition)

    def _set_trusted(self, trusted: bool, *, late: float = 0.0) -> None:
        """Tells the followers, if it is news to them; `late` is for how many seconds it has been so."""
        if trusted is self.is_trusted:
            return
        self.is_trusted = trusted
        for quarantine in self._quarantines:
            if trusted:
                quarantine.heard(self.partitions, self._address, self._history)
            else:
                quarantine.lost(self.partitions, late=late)
        for follower in self._followers.values():
            for partition in self._counters:
                follower.set_trusted(partition, trusted, late=late)
        if not trusted:
            self._freshness_lease.end(self)  # then at last: as above
