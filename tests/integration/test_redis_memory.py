"""What a relay measures of Redis nodes, and what it makes of that."""

import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.relay.metrics import collect_redis_memory
from cache_sidecar.relay.redis_memory import DAY, ENOUGH, FITTED, NodeMemory, RedisMemory, Sample, slope
from cache_sidecar.tiers.redis.client import RedisClient
from tests.support.free_ports import ChoosePorts
from tests.support.launch import settings_for

MIB = 1 << 20
NOWHERE = "postgresql://shop@127.0.0.1:1/shop"


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def server(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyServer]:
    """One of its own, whose settings are changed."""
    (port,) = choose_ports(1)
    server = ValkeyServer(processes, processes.state.path / f"valkey-{port}", port)
    await server.start()
    yield server
    await server.stop()


@asynccontextmanager
async def measuring(addresses: str, time: Time, **settings: Any) -> AsyncIterator[RedisMemory]:
    client = RedisClient(settings_for(addresses, NOWHERE, "memory", **settings))
    try:
        yield RedisMemory(client.cluster, monotonic=time)
    finally:
        await client.close()


async def test_every_primary_is_measured(valkey_cluster: ValkeyCluster) -> None:
    async with measuring(",".join(valkey_cluster.addresses), Time()) as memory:
        await memory.look()
        assert len(memory.now) == 3
        for one in memory.now.values():
            assert (one.used > MIB / 2, one.limit, one.growth, one.days_left) == (True, 0, None, None)


async def test_a_node_that_grows_is_full_one_day(server: ValkeyServer) -> None:
    time = Time()
    async with measuring(server.address, time, redis_mode="single") as memory, server.client() as client:
        await client.execute_command("CONFIG", "SET", "maxmemory", 100 * MIB)
        await memory.look()
        assert memory.now[server.address].limit == 100 * MIB
        assert memory.now[server.address].days_left is None, "not yet"
        for number in range(6):
            await client.set(f"blob {number}", b"x" * MIB)
            time.now += ENOUGH / 5
            await memory.look()
        found = memory.now[server.address]
        # A MiB in each fifth of an hour.
        assert found.growth is not None
        assert found.growth == pytest.approx(120 * MIB, rel=0.1)
        assert found.days_left == pytest.approx((100 * MIB - found.used) / found.growth)
        served = {metric.name: samples for metric, samples in collect_redis_memory(memory)}
        assert served["cache_sidecar_redis_memory_days_left"] == {(server.address,): found.days_left}


async def test_a_policy_that_evicts_what_must_stay_is_logged_once(server: ValkeyServer) -> None:
    async with measuring(server.address, Time(), redis_mode="single") as memory, server.client() as client:
        with structlog.testing.capture_logs() as logs:
            await client.execute_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            await memory.look()
            assert logs == [], "without a limit it evicts nothing"
            await client.execute_command("CONFIG", "SET", "maxmemory", 100 * MIB)
            for _ in range(3):
                await memory.look()
            await client.execute_command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            await memory.look()
            await client.execute_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
            await memory.look()
        assert [(one["which"], one["policy"]) for one in logs] == [
            (server.address, "allkeys-lru"),
            (server.address, "allkeys-lfu"),
        ]


async def test_a_node_that_does_not_answer_has_no_values(server: ValkeyServer) -> None:
    async with measuring(server.address, Time(), redis_mode="single") as memory:
        await memory.look()
        assert memory.now
        await server.stop()
        await memory.look()
        assert memory.now == {}
        await server.start()
        await memory.look()
        assert memory.now


def of(values: dict[float, float]) -> list[Sample]:
    return [Sample(time, int(used)) for time, used in values.items()]


def test_a_straight_line_has_its_slope() -> None:
    assert slope(of({time: 100 * MIB + 5 * time for time in range(0, 86_400, 60)})) == pytest.approx(5.0)
    assert slope([]) == slope(of({0: 7})) == 0


def test_neither_a_jump_nor_noise_is_growth() -> None:
    noise = random.Random(1)
    day = range(0, 86_400, 60)
    # An import of 200 MiB after five hours, and a hundredth of that as noise: a least squares fit says 250 MiB a day.
    jumping = of({time: 100 * MIB + (time > 18_000) * 200 * MIB + noise.uniform(-MIB, MIB) for time in day})
    assert abs(slope(jumping)) * DAY < 5 * MIB
    growing = of({time: 5 * time + (time > 18_000) * 200 * MIB + noise.uniform(-MIB, MIB) for time in day})
    assert slope(growing) * DAY == pytest.approx(5 * DAY, abs=5 * MIB)


def test_the_newest_sample_counts_however_many_there_are() -> None:
    samples = deque(of(dict.fromkeys(range(FITTED * 3), 0)))
    samples.append(Sample(FITTED * 3.0, 10**9))
    assert slope(samples) == 0
    assert slope(of({0: 0, 10: 50})) == 5


@pytest.mark.parametrize(("limit", "growth"), [(0, 10.0), (100, None), (100, 0.0), (100, -5.0), (100, 1e-9)])
def test_without_a_limit_or_growth_there_is_no_forecast(limit: int, growth: float | None) -> None:
    assert NodeMemory(50, limit, 0, growth).days_left is None


def test_a_node_above_its_limit_has_no_days_left() -> None:
    assert NodeMemory(150, 100, 0, 10.0).days_left == 0
    assert NodeMemory(50, 100, 0, 10.0).days_left == 5
