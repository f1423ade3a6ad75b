"""Servers and L2s for the tests of the tiers."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.redis.l2 import RedisL2
from tests.conftest import ChoosePorts
from tests.sidecars import until
from tests.tiers import Case, open_case, open_l2

OpenCase = Callable[..., AbstractAsyncContextManager[Case]]
OpenL2 = Callable[..., AbstractAsyncContextManager[RedisL2]]


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
    """A replica of the single server, with all that it holds now."""
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


@pytest.fixture(params=["cluster", "single"])
def open_either(request: pytest.FixtureRequest, valkey_cluster: ValkeyCluster, valkey: ValkeyServer, namespace: str) -> OpenL2:
    """Opens an L2 on the cluster, then on the single server."""
    nodes = ",".join(valkey_cluster.addresses) if request.param == "cluster" else valkey.address
    return partial(open_l2, nodes, namespace)


@pytest.fixture
async def l2(valkey_cluster: ValkeyCluster, namespace: str) -> AsyncIterator[RedisL2]:
    """An L2 on the cluster."""
    async with open_l2(",".join(valkey_cluster.addresses), namespace) as opened:
        yield opened


@pytest.fixture
def open_sidecar(valkey_cluster: ValkeyCluster, namespace: str) -> OpenCase:
    """Opens a dataset on the cluster; several share its namespace."""
    return partial(open_case, ",".join(valkey_cluster.addresses), namespace)


@pytest.fixture
async def case(open_sidecar: OpenCase) -> AsyncIterator[Case]:
    """A dataset on the cluster."""
    async with open_sidecar() as opened:
        yield opened


@pytest.fixture
async def pair(valkey_cluster: ValkeyCluster, namespace: str) -> AsyncIterator[tuple[Case, Case]]:
    """Two sidecars' datasets on the cluster, with the same rows and clock: `a` and `b`."""
    nodes = ",".join(valkey_cluster.addresses)
    async with open_case(nodes, namespace) as a, open_case(nodes, namespace, rows=a.rows, clock=a.clock) as b:
        yield a, b


@pytest.fixture
def a(pair: tuple[Case, Case]) -> Case:
    return pair[0]


@pytest.fixture
def b(pair: tuple[Case, Case]) -> Case:
    return pair[1]
