"""Fixtures that run a whole sidecar for one test."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cache_sidecar.core.clock import Clock
from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.support.acl import allow
from tests.support.clocks import ManualClock
from tests.support.customers import Customer
from tests.support.databases import SIDECAR, as_role
from tests.support.engine_params import HAS_NATIVE
from tests.support.launch import PATIENT, in_process, settings_for
from tests.support.shop import Open, Shop

OpenCustomer = Callable[[], contextlib.AbstractAsyncContextManager[Customer]]


@pytest.fixture(scope="session")
def engine() -> str:
    """The engine of `open_shop`, where a folder does not run its tests on each."""
    return "native" if HAS_NATIVE else "aio"


@pytest.fixture
def open_shop(valkey_cluster: ValkeyCluster, database: str, namespace: str, engine: str) -> Open:
    """Opens sidecars: `open_shop(clock=..., **settings)`. Those of one test share database and Redis."""

    @contextlib.asynccontextmanager
    async def opened(
        *,
        clock: Clock | None = None,
        trusted: bool = True,
        credentials: grpc.ChannelCredentials | None = None,
        **settings: Any,
    ) -> AsyncIterator[Shop]:
        user = await allow(valkey_cluster, namespace) if settings.keys().isdisjoint({"redis", "namespace"}) else {}
        made = settings_for(
            settings.pop("redis", ",".join(valkey_cluster.addresses)),
            settings.pop("postgres", as_role(SIDECAR, database)),
            settings.pop("namespace", namespace),
            **user | PATIENT | {"engine": engine} | settings,
        )
        async with in_process(made, clock=clock, trusted=trusted, credentials=credentials) as sidecar:
            yield Shop(sidecar)

    return opened


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the sidecars that `open_customer` opens."""
    return ManualClock()


@pytest.fixture
def open_customer(valkey_cluster: ValkeyCluster, database: str, namespace: str, clock: ManualClock) -> OpenCustomer:
    """Opens sidecars with the test's clock, as callers of carts and sessions see them; all share database and Redis."""
    settings = settings_for(",".join(valkey_cluster.addresses), as_role(SIDECAR, database), namespace)

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Customer]:
        async with in_process(settings, clock=clock) as sidecar:
            yield Customer(sidecar)

    return opened


@pytest.fixture
async def customer(open_customer: OpenCustomer) -> AsyncIterator[Customer]:
    """One such sidecar."""
    async with open_customer() as opened:
        yield opened


@pytest.fixture
def exact_policy(tmp_path: Path) -> str:
    """The path of a policy file without jitter, and with short, round times."""
    file = tmp_path / "policy.toml"
    file.write_text(
        "[product]\nl1_soft_ttl = 100\nl1_hard_ttl = 200\nl2_ttl = 1000\njitter = 0\nnegative_ttl = 10\nstale_limit = 5\n"
    )
    return str(file)
