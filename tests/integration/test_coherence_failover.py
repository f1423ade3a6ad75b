"""Hearing of changes when primaries change, on a cluster of its own."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest
from redis.exceptions import RedisError

from cache_sidecar.core.errors import TierFailed
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.coherence import subscriber as module
from cache_sidecar.tiers.ports import PARTITIONS, partition_of
from tests.support import inside
from tests.support.dataset_case import one_id_per_partition
from tests.support.free_ports import ChoosePorts
from tests.support.listening import Line, open_line
from tests.support.until import until


@pytest.fixture(scope="module")
async def cluster(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyCluster]:
    own = ValkeyCluster(processes, processes.state.path / "valkey-failover", choose_ports(6))
    await own.start()
    yield own
    await own.stop()


@pytest.fixture
async def healthy(cluster: ValkeyCluster) -> AsyncIterator[ValkeyCluster]:
    yield cluster
    await cluster.heal()


async def replica_of(cluster: ValkeyCluster, primary: ValkeyServer) -> ValkeyServer:
    for node in cluster.nodes:
        async with node.client() as client:
            info = await client.info("replication")
        if info["role"] == "slave" and info["master_port"] == primary.port:
            return node
    raise AssertionError("no replica")


async def sent(line: Line, id: str, version: int) -> bool:
    """Returns whether a change was taken."""
    try:
        await line.change(id, version)
    except TierFailed:
        return False
    return True


async def all_is_heard(line: Line, version: int) -> None:
    """Changes an id in each partition; each is heard, or its partition is dropped or not trusted: nothing old is believed."""
    line.ear.forget()
    ids = {partition_of(id): id for id in one_id_per_partition()}
    for id in ids.values():
        await until(partial(sent, line, id, version))

    def is_known(partition: int, heard: set[str]) -> bool:
        return ids[partition] in heard or partition in line.ear.partitions or partition not in line.ear.trusted

    await until(lambda: all(is_known(partition, {id for id, _ in line.ear.changes}) for partition in ids))


async def test_race_15_after_a_graceful_failover_changes_are_heard(healthy: ValkeyCluster, namespace: str) -> None:
    async with open_line(",".join(healthy.addresses), namespace) as line:
        await all_is_heard(line, 1)
        primary = (await healthy.primaries())[0]
        replica = await replica_of(healthy, primary)
        async with replica.client() as client:
            await client.execute_command("CLUSTER", "FAILOVER")
        await all_is_heard(line, 2)

        async def took_over() -> bool:
            try:
                return replica.port in {node.port for node in await healthy.primaries()}
            except RedisError:
                return False

        await until(took_over)
        await until(lambda: {port for _, port in inside.feeds_of(line.coherence)} >= {replica.port})
        await line.trusted()
        await all_is_heard(line, 3)
        assert line.coherence.is_trusted()


async def test_race_15_the_server_s_word_that_a_subscription_ended_is_enough(
    healthy: ValkeyCluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing else notices: no second look at the owners, no heartbeat; and the connection lives on.
    monkeypatch.setattr(module, "TOPOLOGY_EVERY", 3600.0)
    monkeypatch.setattr(module, "TOPOLOGY_AGAIN", 3600.0)
    monkeypatch.setattr(module, "HEARTBEAT_EVERY", 3600.0)
    async with open_line(",".join(healthy.addresses), namespace) as line:
        primary = (await healthy.primaries())[0]
        lost = {
            p
            for address, feed in inside.feeds_of(line.coherence).items()
            if address[1] == primary.port
            for p in feed.partitions
        }
        async with (await replica_of(healthy, primary)).client() as client:
            await client.execute_command("CLUSTER", "FAILOVER")
        await until(lambda: not lost & line.ear.trusted)


async def test_race_16_after_the_death_of_a_primary_changes_are_heard(healthy: ValkeyCluster, namespace: str) -> None:
    async with open_line(",".join(healthy.addresses), namespace) as line:
        await all_is_heard(line, 1)
        line.ear.forget()
        primary = (await healthy.primaries())[0]
        lost = {
            p
            for address, feed in inside.feeds_of(line.coherence).items()
            if address[1] == primary.port
            for p in feed.partitions
        }
        primary.kill()
        await until(lambda: not lost & line.ear.trusted)
        assert len(lost) + len(line.ear.trusted) == PARTITIONS
        await healthy.wait_ok()
        await line.trusted()
        assert lost <= set(line.ear.partitions)
        await all_is_heard(line, 2)


@contextlib.asynccontextmanager
async def down(node: ValkeyServer, slot: int) -> AsyncIterator[None]:
    """Has a primary say that the cluster is down, as all do while a replica takes over: it lacks a slot."""
    async with node.client() as client:
        await client.execute_command("CLUSTER", "DELSLOTS", slot)
        try:
            yield
        finally:
            await client.execute_command("CLUSTER", "ADDSLOTS", slot)


async def test_a_cluster_that_is_down_ends_the_trust_also_in_what_its_living_primaries_hold(
    healthy: ValkeyCluster, namespace: str
) -> None:
    async with open_line(",".join(healthy.addresses), namespace) as line:
        await line.change("a", 1)  # loads the functions
        primary = (await healthy.primaries())[0]
        address, feed = next(
            (address, feed) for address, feed in inside.feeds_of(line.coherence).items() if address[1] == primary.port
        )
        partitions = {line.names.slot(partition) for partition in range(PARTITIONS)}
        slot = next(slot for slot in (await line.connection.cluster.owners())[address] if slot not in partitions)
        line.ear.forget()
        async with down(primary, slot):
            await until(lambda: not feed.partitions & line.ear.trusted)
        await line.trusted()
        assert feed.partitions <= set(line.ear.partitions)
