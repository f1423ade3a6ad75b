"""The embedded Valkey, single and as a cluster: it breaks like a real one and comes back."""

import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from cache_sidecar.core.errors import ServerUnreachable
from cache_sidecar.devstack.processes import ChildFailed, Processes
from cache_sidecar.devstack.state import StateDirectory
from cache_sidecar.devstack.valkey import Access, ValkeyCluster, ValkeyServer
from cache_sidecar.devstack.waiting import until

ChoosePorts = Callable[[int], list[int]]


@pytest.fixture
async def server(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyServer]:
    """A single server with a password and a user."""
    (port,) = choose_ports(1)
    access = Access(password="s3cret \"'\\", users=("user shop on >shop ~cs:* &cs:* +@all",))
    server = ValkeyServer(processes, processes.state.path / f"single-{port}", port, access=access)
    await server.start()
    yield server
    await server.stop()


async def test_a_single_server_asks_for_its_password_and_keeps_users_to_their_rights(server: ValkeyServer) -> None:
    async with server.client() as client:
        assert (await client.info("cluster"))["cluster_enabled"] == 0
    async with Redis(port=server.port, password="wrong", retry=Retry(NoBackoff(), 0)) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.ping()
    async with Redis(port=server.port, username="shop", password="shop") as shop:
        await shop.set("cs:a", "1")
        with pytest.raises(NoPermissionError):
            await shop.set("other:a", "1")
    configuration = server.directory / "valkey.conf"
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600


async def test_a_server_dies_comes_back_hangs_and_goes_on(server: ValkeyServer) -> None:
    first = server.pid
    server.kill()
    assert not server.serving
    assert not psutil.pid_exists(first)
    await server.restart()
    assert server.pid != first
    server.pause()
    assert not server.serving
    async with server.client() as client:
        with pytest.raises(RedisError):
            await client.ping()
    server.resume()
    assert server.serving
    async with server.client() as client:
        assert await client.ping()


async def test_a_server_that_cannot_listen_says_so(processes: Processes, server: ValkeyServer, tmp_path: Path) -> None:
    second = ValkeyServer(Processes(StateDirectory(tmp_path)), tmp_path / "second", server.port)
    with pytest.raises(ChildFailed, match=rf"^valkey-{server.port} did not start: .*log: "):
        await second.start()


async def test_the_cluster_has_three_primaries_and_a_replica_for_each(valkey_cluster: ValkeyCluster) -> None:
    # Which ones depends on the failovers before.
    assert len(await valkey_cluster.primaries()) == 3
    expected = [(0, 5460, 4), (5461, 10921, 4), (10922, 16383, 4)]

    async def slots_are_shared() -> bool:
        async with valkey_cluster.nodes[0].client() as client:
            slots = await client.execute_command("CLUSTER SLOTS")
        # First and last slot, the primary, and a replica: the last one appears once it has told its offset.
        return sorted((slot[0], slot[1], len(slot)) for slot in slots) == expected

    assert await until(slots_are_shared, seconds=10)


async def test_the_cluster_fails_over_and_takes_the_old_primary_back(valkey_cluster: ValkeyCluster) -> None:
    key = f"failover:{uuid4()}"
    async with _client(valkey_cluster) as client:
        await client.set(key, "kept")
        owner = await _owner(valkey_cluster, client, key)
        # A failover keeps what the replica has, so it has to have it.
        async with owner.client() as direct:
            await direct.execute_command("WAIT", 1, 5000)
        owner.kill()
        await valkey_cluster.wait_ok()
        primaries = await valkey_cluster.primaries()
        assert owner not in primaries
        assert len(primaries) == 3
        await valkey_cluster.heal()
    async with _client(valkey_cluster) as client:
        assert await client.get(key) == "kept"
    async with owner.client() as direct:
        assert (await direct.info("replication"))["role"] == "slave"


async def test_a_hung_primary_is_replaced_too(valkey_cluster: ValkeyCluster) -> None:
    (hung, *_) = await valkey_cluster.primaries()
    hung.pause()
    await valkey_cluster.wait_ok()
    assert hung not in await valkey_cluster.primaries()
    await valkey_cluster.heal()
    assert all(node.serving for node in valkey_cluster.nodes)


async def test_a_cluster_without_a_majority_is_not_ok(valkey_cluster: ValkeyCluster) -> None:
    primaries = await valkey_cluster.primaries()
    for node in primaries[:2]:
        node.kill()
    with pytest.raises(ServerUnreachable, match=r"is not ok after 0\.5 seconds"):
        await valkey_cluster.wait_ok(seconds=0.5)
    await valkey_cluster.heal()


async def test_a_cluster_of_its_own_comes_back_on_its_ports_and_is_made_anew_on_others(
    processes: Processes, choose_ports: ChoosePorts
) -> None:
    ports = choose_ports(7)
    directory = processes.state.path / "own-cluster"
    access = Access(password="secret", users=("user shop on >shop ~cs:* &cs:* +@all",))
    cluster = ValkeyCluster(processes, directory, ports[:6], access=access)
    await cluster.start()
    try:
        async with _client(cluster, username="shop", password="shop") as client:
            await client.set("cs:a", "1")
        ids = await _ids(cluster)
        await cluster.restart()
        assert await _ids(cluster) == ids
    finally:
        await cluster.stop()
    moved = ValkeyCluster(processes, directory, ports[1:], access=access)
    await moved.start()
    try:
        assert not set(await _ids(moved)) & set(ids)
    finally:
        await moved.stop()


def _client(cluster: ValkeyCluster, **access: str) -> RedisCluster:
    return RedisCluster(host="127.0.0.1", port=cluster.nodes[-1].port, decode_responses=True, **access)


async def _owner(cluster: ValkeyCluster, client: RedisCluster, key: str) -> ValkeyServer:
    port = client.get_node_from_key(key).port
    return next(node for node in cluster.nodes if node.port == port)


async def _ids(cluster: ValkeyCluster) -> list[str]:
    ids = []
    for node in cluster.nodes:
        async with node.client() as client:
            ids.append(await client.execute_command("CLUSTER MYID"))
    return ids
