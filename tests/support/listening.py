"""A subscriber for tests: the invalidations it received, and the partitions where it may have missed some."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from redis.crc import key_slot

from cache_sidecar.config.settings import Settings
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.coherence.subscriber import InvalidationSubscriber
from cache_sidecar.tiers.ports import PARTITIONS, Record, partition_of
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from tests.support.dataset_case import redis_settings
from tests.support.until import until

HERE = partition_of("a")


class Ear:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, int]] = []
        self.partitions: list[int] = []
        self.trusted: set[int] = set()
        self.order: list[str] = []

    def on_invalidate(self, id: str, version: int) -> None:
        self.changes.append((id, version))

    def on_partition_reset(self, partition: int) -> None:
        self.partitions.append(partition)
        if partition == HERE:
            self.order.append("drop")

    def on_lease_change(self, partition: int, trusted: bool, *, late: float = 0.0) -> None:
        (self.trusted.add if trusted else self.trusted.discard)(partition)
        if partition == HERE:
            self.order.append("trust" if trusted else f"distrust since {late:g} s" if late else "distrust")

    def forget(self) -> None:
        self.changes, self.partitions, self.order = [], [], []


class Line:
    """A subscriber with an L2 of its own, and the listener that records what it delivers."""

    def __init__(self, settings: Settings, namespace: str) -> None:
        self.connection = RedisClient(settings)
        self.names = KeyNames(namespace)
        self.l2 = RedisL2(self.connection, self.names)
        self.ear = Ear()
        self.woken = 0
        self.freshness_lease = FreshnessLease()
        self.coherence = InvalidationSubscriber(
            self.l2,
            self.connection,
            self.names,
            timeout=settings.redis_timeout,
            freshness_lease=self.freshness_lease,
            followers={"product": self.ear},
            on_message=self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    async def trusted(self) -> None:
        await until(lambda: self.coherence.is_trusted() and len(self.ear.trusted) == PARTITIONS)

    async def change(self, id: str, version: int) -> None:
        await self.l2.put_if_newer("product", {id: Record(version, 0.0, b"sofa")}, ttl=60)

    async def command(self, *words: object) -> object:
        key = str(words[-1] if words[0] == "DEBUG" else words[1])
        return await self.connection.cluster.ask(key_slot(key.encode()), *words)

    async def dropped(self, partition: int = HERE) -> None:
        await until(lambda: partition in self.ear.partitions)

    async def heard(self, id: str, version: int) -> None:
        await until(lambda: (id, version) in self.ear.changes)


@contextlib.asynccontextmanager
async def open_line(nodes: str, namespace: str, *, trusted: bool = True, **more: Any) -> AsyncIterator[Line]:
    line = Line(redis_settings(nodes, **more), namespace)
    line.coherence.start()
    try:
        if trusted:
            await line.trusted()
            line.ear.forget()
        yield line
    finally:
        await line.coherence.stop()
        await line.connection.close()
