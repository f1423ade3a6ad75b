"""A dataset for tests: a real L1, a real Redis, and a loader whose rows, failures and pauses the test controls."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from redis.crc import key_slot

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.memory.clock import ClockL1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import PARTITIONS, Answer, Freshness, Leased, Record, Row, Source, partition_of
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.engine_params import MakeL1
from tests.support.gates import Gate
from tests.support.until import until

POLICY = DatasetPolicy(l1_soft_ttl=100, l1_hard_ttl=200, l2_ttl=1000, jitter=0, negative_ttl=10, stale_limit=5)
make_l1: MakeL1 = ClockL1
"The memory of a case; tests of races run with each kind."
BYPASS = Freshness(bypass=True)


def redis_settings(nodes: str, **more: Any) -> Settings:
    """Returns settings with a patient timeout for Redis, and a PostgreSQL that is never called."""
    return Settings(redis_nodes=nodes, postgres_catalog="postgresql://nobody@127.0.0.1:1/none", **{"redis_timeout": 5.0} | more)


@contextlib.asynccontextmanager
async def open_l2(nodes: str, namespace: str, **more: Any) -> AsyncIterator[RedisL2]:
    """Opens an L2 on the Redis node(s) `host:port,...`."""
    settings = redis_settings(nodes, **more)
    connection = RedisClient(settings)
    try:
        yield RedisL2(connection, KeyNames(namespace), macs=Macs.of(settings))
    finally:
        await connection.close()


async def fill(l2: RedisL2, dataset: str, records: Mapping[str, Record], *, ttl: float) -> None:
    """Fills as a reader does after a miss, or after finding an older entry."""
    found = await RedisL2.read_leased(l2, dataset, list(records))
    await RedisL2.fill(l2, dataset, records, found.leases, ttl=ttl)


async def say(watermarks: RedisWatermarks, roles: Sequence[str], moment: float, *, times: int = 1) -> None:
    """Writes to every partition, `times` times, as a relay does after a poll, that all changes until a moment are published."""
    for _ in range(times):
        await watermarks.write_watermarks(roles, moment, await watermarks.primaries())


async def told_until(watermarks: RedisWatermarks, *roles: str) -> dict[str, float]:
    """Returns by role the watermark that all partitions have reached; roles without any watermark are left out."""
    found = await watermarks.read_watermarks(roles or ("catalog",))
    assert all(len(marks) in (0, PARTITIONS) for marks in found.values())
    return {role: min(mark.moment for mark in marks.values()) for role, marks in found.items() if marks}


class Direct:
    """Direct access to Redis, past the sidecar: each command goes to the node that holds its key."""

    def __init__(self, l2: RedisL2) -> None:
        self._cluster = inside.connection_of(l2).cluster

    async def execute_command(self, name: str, key: str, *arguments: Any) -> Any:
        return await self._cluster.ask(key_slot(key.encode()), name, key, *arguments)

    async def get(self, key: str) -> Any:
        return await self.execute_command("GET", key)

    async def set(self, key: str, value: bytes | str) -> Any:
        return await self.execute_command("SET", key, value)

    async def pttl(self, key: str) -> int:
        return int(await self.execute_command("PTTL", key))

    async def unlink(self, key: str) -> int:
        return int(await self.execute_command("UNLINK", key))


async def take_back(l2: RedisL2, record: Record, id: str = "a") -> None:
    """Replaces a value by an older one, as a failover that loses the last writes does."""
    await Direct(l2).set(inside.names_of(l2).key("product", id), codec.encode(record))


def one_id_per_partition() -> list[str]:
    """Returns 256 ids, one for each partition."""
    found: dict[int, str] = {}
    for number in range(10_000):
        found.setdefault(partition_of(f"id{number}"), f"id{number}")
    assert len(found) == PARTITIONS
    return list(found.values())


class Rows:
    """A loader: the rows of PostgreSQL, the ids it was asked for, and gates before and after it reads."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.calls: list[list[str]] = []
        self.before = Gate()
        self.after = Gate()
        self.failure: Failure | None = None

    def commit(self, id: str, version: int, value: bytes | None = None) -> None:
        """Writes a row; None deletes it."""
        if value is None:
            self.rows.pop(id, None)
        else:
            self.rows[id] = Row(version, value)

    async def __call__(self, ids: Sequence[str]) -> Mapping[str, Row]:
        self.calls.append(list(ids))
        await self.before.passed()
        if self.failure is not None:
            raise TierFailed(Tier.STORE, self.failure)
        found = {id: self.rows[id] for id in ids if id in self.rows}
        await self.after.passed()
        return found


class HeldL2(RedisL2):
    """An L2 with gates before it calls Redis and after it has the reply."""

    def __init__(self, connection: RedisClient, names: KeyNames) -> None:
        super().__init__(connection, names)
        self.before_read, self.after_read = Gate(), Gate()
        self.before_fill, self.before_change, self.after_change = Gate(), Gate(), Gate()
        self.before_drop, self.after_drop = Gate(), Gate()
        self.reads = 0

    async def read_leased(self, dataset: str, ids: Sequence[str]) -> Leased:
        self.reads += 1
        await self.before_read.passed()
        found = await super().read_leased(dataset, ids)
        await self.after_read.passed()
        return found

    async def fill(
        self, dataset: str, records: Mapping[str, Record], leases: Mapping[str, bytes], *, ttl: float
    ) -> Mapping[str, int]:
        await self.before_fill.passed()
        return await super().fill(dataset, records, leases, ttl=ttl)

    async def put_if_newer(self, dataset: str, changes: Mapping[str, Record | int], *, ttl: float) -> Mapping[str, int]:
        await self.before_change.passed()
        newer = await super().put_if_newer(dataset, changes, ttl=ttl)
        await self.after_change.passed()
        return newer

    async def drop(self, dataset: str, ids: Sequence[str]) -> None:
        await self.before_drop.passed()
        await super().drop(dataset, ids)
        await self.after_drop.passed()

    async def drop_all(self, dataset: str) -> int:
        await self.before_drop.passed()
        count = await super().drop_all(dataset)
        await self.after_drop.passed()
        return count


class Case:
    """A dataset called `product` and its surroundings. Invalidations arrive when the test delivers them."""

    def __init__(
        self,
        l2: HeldL2,
        rows: Rows,
        clock: ManualClock,
        *,
        policy: DatasetPolicy,
        unit: float,
        rollout_key: Callable[[str], str],
    ) -> None:
        self.l1 = make_l1(max_bytes=1 << 20, max_entries=100)
        self.l2, self.rows, self.clock, self.policy = l2, rows, clock, policy
        self.trusts = FreshnessLease()
        self.guard = Guard(Tier.L2, timeout=10.0, max_running=64, max_waiting=1000, breaker=Breaker(Tier.L2, clock=clock))
        tiers = Tiers(
            name="product",
            l1=self.l1,
            l2=l2,
            load=rows,
            l2_guard=self.guard,
            policy=lambda: self.policy,
            clock=clock,
            rng=lambda: unit,
        )
        self.dataset = Dataset(tiers, rollout_key=rollout_key, freshness_lease=self.trusts)

    def change_policy(self, **values: Any) -> None:
        """Changes the policy, as a new policy file does."""
        old, self.policy = self.policy, self.policy.model_copy(update=values)
        self.dataset.policy_changed(old)

    def freshness_lease(self, *, trusted: bool = True) -> None:
        """Says whether every invalidation is being received."""
        for partition in range(PARTITIONS):
            self.dataset.on_lease_change(partition, trusted)

    async def get(self, id: str, wanted: Freshness = Freshness()) -> tuple[bytes | None, Source]:  # noqa: B008
        """Returns the value and the source of an answer."""
        answer = await self.answer(id, wanted)
        return answer.value, answer.source

    async def answer(self, id: str, wanted: Freshness = Freshness()) -> Answer:  # noqa: B008
        """Returns an answer once its background work has ended."""
        answer = await self.dataset.get(id, wanted)
        await self.settled()
        return answer

    async def settled(self) -> None:
        """Waits until no background work is left."""
        await until(lambda: not self.dataset.loader.background.running)

    async def write(self, id: str, version: int, value: bytes | None) -> None:
        """Commits a row and writes it through to the caches."""
        self.rows.commit(id, version, value)
        await self.dataset.publish({id: self.dataset.record(version, value)})

    async def in_l2(self, id: str) -> Record | None:
        """Returns the record in Redis."""
        return (await RedisL2.read(self.l2, "product", [id])).get(id)

    def forget(self) -> None:
        """Empties L1 only."""
        for partition in range(PARTITIONS):
            self.l1.drop_partition(partition)


@contextlib.asynccontextmanager
async def open_case(
    nodes: str,
    namespace: str,
    *,
    rows: Rows | None = None,
    clock: ManualClock | None = None,
    policy: DatasetPolicy = POLICY,
    unit: float | None = None,
    rollout_key: Callable[[str], str] = str,
    **more: Any,
) -> AsyncIterator[Case]:
    """Opens a case; two with the same namespace, rows and clock act as two sidecars."""
    connection = RedisClient(redis_settings(nodes, **more))
    l2 = HeldL2(connection, KeyNames(namespace))
    chosen = random.random() if unit is None else unit
    case = Case(l2, rows or Rows(), clock or ManualClock(), policy=policy, unit=chosen, rollout_key=rollout_key)
    case.freshness_lease()
    try:
        yield case
        # A failed test may have left gates closed.
        for gate in (*vars(case.rows).values(), *vars(l2).values()):
            if isinstance(gate, Gate):
                gate.open()
        await case.dataset.close()
    finally:
        await connection.close()


def reading(case: Case, id: str = "a", wanted: Freshness = Freshness()) -> asyncio.Task[Answer]:  # noqa: B008
    return asyncio.create_task(case.dataset.get(id, wanted))


OpenCase = Callable[..., AbstractAsyncContextManager[Case]]
OpenL2 = Callable[..., AbstractAsyncContextManager[RedisL2]]
