"""Fixtures for Redis: a cluster and a single server per session, and a namespace for each test."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from tests.support.free_ports import ChoosePorts
from tests.support.until import until


@pytest.fixture
def namespace() -> str:
    """A namespace for one test, since all tests share the servers."""
    return f"t{uuid4().hex[:8]}"


@pytest.fixture(scope="session")
async def valkey_cluster(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyCluster]:
    """Three primaries, three replicas. A test that breaks the cluster heals it."""
    cluster = ValkeyCluster(processes, processes.state.path / "valkey", choose_ports(6))
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture(scope="session")
async def valkey(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyServer]:
    """A single server. A test that breaks it starts it again."""
    (port,) = choose_ports(1)
    options = {"maxmemory-policy": "noeviction", "enable-debug-command": "yes"}
    server = ValkeyServer(processes, processes.state.path / "valkey-single", port, options=options)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def replica(processes: Processes, choose_ports: ChoosePorts, valkey: ValkeyServer) -> AsyncIterator[ValkeyServer]:
    """A replica of the single server, in sync with it."""
    (port,) = choose_ports(1)
    server = ValkeyServer(processes, processes.state.path / "valkey-replica", port)
    await server.start()
    async with server.client() as client:
        await client.replicaof("127.0.0.1", valkey.port)

        async def is_in_step() -> bool:
            return bool((await client.info("replication"))["master_link_status"] == "up")

        await until(is_in_step)
    yield server
    await server.stop()
