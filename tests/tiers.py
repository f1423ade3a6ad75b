"""A dataset for tests: real L1, real Redis, and a load whose rows, failures and pauses the test decides."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from redis.crc import key_slot

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.clock import ManualClock
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.tiers.coherence.freshness_lease import FreshnessLease
from cache_sidecar.tiers.memory.clock import ClockL1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import PARTITIONS, Answer, Freshness, Leased, Record, Row, Source, partition_of
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from tests.engines import MakeL1
from tests.gates import Gate
from tests.sidecars import until

POLICY = DatasetPolicy(l1_soft_ttl=100, l1_hard_ttl=200, l2_ttl=1000, jitter=0, negative_ttl=10, stale_limit=5)
make_l1: MakeL1 = ClockL1
"What cases remember in; tests of races are made with each."
BYPASS = Freshness(bypass=True)


def redis_settings(nodes: str, **more: Any) -> Settings:
    """Returns settings that name a Redis, which may take its time, and a PostgreSQL that nobody asks."""
    return Settings(redis_nodes=nodes, postgres_catalog="postgresql://nobody@127.0.0.1:1/none", **{"redis_timeout": 5.0} | more)


@contextlib.asynccontextmanager
async def open_l2(nodes: str, namespace: str, **more: Any) -> AsyncIterator[RedisL2]:
    """Opens an L2 on the Redis node(s) `host:port,...`."""
    connection = RedisClient(redis_settings(nodes, **more))
    try:
        yield RedisL2(connection, KeyNames(namespace))
    finally:
        await connection.close()


async def fill(l2: RedisL2, dataset: str, records: Mapping[str, Record], *, ttl: float) -> None:
    """Fills as a reader does who found nothing there, or something older."""
    found = await RedisL2.read_leased(l2, dataset, list(records))
    await RedisL2.fill(l2, dataset, records, found.leases, ttl=ttl)


async def say(watermarks: RedisWatermarks, roles: Sequence[str], moment: float, *, times: int = 1) -> None:
    """Says in every partition, as a relay does after its look, that all was told up to a moment; and again."""
    for _ in range(times):
        await watermarks.caught_up(roles, moment, await watermarks.primaries())


async def told_until(watermarks: RedisWatermarks, *roles: str) -> dict[str, float]:
    """Returns up to when all partitions say that they were told; without the roles of which none says anything."""
    found = await watermarks.marks(roles or ("catalog",))
    assert all(len(marks) in (0, PARTITIONS) for marks in found.values())
    return {role: min(mark.moment for mark in marks.values()) for role, marks in found.items() if marks}


class Direct:
    """Redis itself, past the sidecar: each command goes to whoever holds its key."""

    def __init__(self, l2: RedisL2) -> None:
        self._shards = l2._connection.shards

    async def execute_command(self, name: str, key: str, *arguments: Any) -> Any:
        return await self._shards.ask(key_slot(key.encode()), name, key, *arguments)

    async def get(self, key: str) -> Any:
        return await self.execute_command("GET", key)

    async def set(self, key: str, value: bytes | str) -> Any:
        return await self.execute_command("SET", key, value)

    async def pttl(self, key: str) -> int:
        return int(await self.execute_command("PTTL", key))

    async def unlink(self, key: str) -> int:
        return int(await self.execute_command("UNLINK", key))


async def take_back(l2: RedisL2, record: Record, id: str = "a") -> None:
    """Does to a value what a failover does that loses the last writes."""
    await Direct(l2).set(l2._names.key("product", id), codec.encode(record))


def one_id_per_partition() -> list[str]:
    """Returns 256 ids."""
    found: dict[int, str] = {}
    for number in range(10_000):
        found.setdefault(partition_of(f"id{number}"), f"id{number}")
    assert len(found) == PARTITIONS
    return list(found.values())


class Rows:
    """A load: what PostgreSQL would hold, what it was asked, and where it can be held before and after it looks."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.calls: list[list[str]] = []
        self.before = Gate()
        self.after = Gate()
        self.failure: Failure | None = None

    def commit(self, id: str, version: int, value: bytes | None = None) -> None:
        """Changes a row; None deletes it."""
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
    """An L2 that can be held before it asks Redis, and with the reply in its hands."""

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

    async def fill(self, dataset: str, records: Mapping[str, Record], leases: Mapping[str, bytes], *, ttl: float) -> None:
        await self.before_fill.passed()
        await super().fill(dataset, records, leases, ttl=ttl)

    async def change(self, dataset: str, changes: Mapping[str, Record | int], *, ttl: float) -> None:
        await self.before_change.passed()
        await super().change(dataset, changes, ttl=ttl)
        await self.after_change.passed()

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
    """A dataset called `product`, and all that is around it. Messages are heard when the test says so."""

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
        self.dataset = Dataset(
            "product",
            l1=self.l1,
            l2=l2,
            load=rows,
            l2_guard=self.guard,
            policy=lambda: self.policy,
            clock=clock,
            unit=lambda: unit,
            rollout_key=rollout_key,
            freshness_lease=self.trusts,
        )

    def change_policy(self, **values: Any) -> None:
        """Changes the policy, as a new file does."""
        old, self.policy = self.policy, self.policy.model_copy(update=values)
        self.dataset.policy_changed(old)

    def freshness_lease(self, *, trusted: bool = True) -> None:
        """Says that every invalidation is heard, or that it is not known."""
        for partition in range(PARTITIONS):
            self.dataset.set_trusted(partition, trusted)

    async def get(self, id: str, wanted: Freshness = Freshness()) -> tuple[bytes | None, Source]:  # noqa: B008
        """Returns value and source of an answer."""
        answer = await self.answer(id, wanted)
        return answer.value, answer.source

    async def answer(self, id: str, wanted: Freshness = Freshness()) -> Answer:  # noqa: B008
        """Returns an answer when what goes on behind it has ended."""
        answer = await self.dataset.get(id, wanted)
        await self.settled()
        return answer

    async def settled(self) -> None:
        """Returns when nothing goes on behind the replies."""
        await until(lambda: not self.dataset._behind.running)

    async def write(self, id: str, version: int, value: bytes | None) -> None:
        """Commits, and takes it to the caches."""
        self.rows.commit(id, version, value)
        await self.dataset.committed(id, version, value)

    async def in_l2(self, id: str) -> Record | None:
        """Returns what Redis holds."""
        return (await RedisL2.read(self.l2, "product", [id])).get(id)

    def forget(self) -> None:
        """Empties L1 alone."""
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
    """Opens a case; two of one namespace, with the same rows and clock, are two sidecars of a shop."""
    connection = RedisClient(redis_settings(nodes, **more))
    l2 = HeldL2(connection, KeyNames(namespace))
    chosen = random.random() if unit is None else unit
    case = Case(l2, rows or Rows(), clock or ManualClock(), policy=policy, unit=chosen, rollout_key=rollout_key)
    case.freshness_lease()
    try:
        yield case
        # A test that failed has left its gates closed.
        for gate in (*vars(case.rows).values(), *vars(l2).values()):
            if isinstance(gate, Gate):
                gate.open()
        await case.dataset.close()
    finally:
        await connection.close()


def reading(case: Case, id: str = "a", wanted: Freshness = Freshness()) -> asyncio.Task[Answer]:  # noqa: B008
    return asyncio.create_task(case.dataset.get(id, wanted))
