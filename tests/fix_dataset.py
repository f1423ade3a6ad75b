"""Fixtures for the tiers: an L2, and datasets whose rows, clock and pauses the test decides."""

from collections.abc import AsyncIterator
from functools import partial

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.redis.l2 import RedisL2
from tests.support.dataset_case import Case, OpenCase, OpenL2, open_case, open_l2


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
async def pair(open_sidecar: OpenCase) -> AsyncIterator[tuple[Case, Case]]:
    """Two sidecars' datasets on the cluster, with the same rows and clock: `a` and `b`."""
    async with open_sidecar() as a, open_sidecar(rows=a.rows, clock=a.clock) as b:
        yield a, b


@pytest.fixture
def a(pair: tuple[Case, Case]) -> Case:
    """The first of the pair."""
    return pair[0]


@pytest.fixture
def b(pair: tuple[Case, Case]) -> Case:
    """The second of the pair."""
    return pair[1]
