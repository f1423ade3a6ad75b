"""The sidecar that is attacked, one for each engine, and those that it serves meanwhile."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.conftest import ChoosePorts
from tests.contract.conftest import PATIENT
from tests.contract.hostile.others import Others
from tests.contract.hostile.report import Report
from tests.contract.shop import Shop
from tests.sidecars import Sidecar, process, serving

REPORT = pytest.StashKey[Report]()
PRODUCT = "wanted"
CALLS = 50
EVERY = 0.01


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--attacks", type=int, default=1, help="how many times larger each attack is; prints the table")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


def pytest_unconfigure(config: pytest.Config) -> None:
    if config.getoption("--attacks", 1) != 1:
        config.stash[REPORT].publish()


class Victim:
    """A sidecar in a process of its own."""

    def __init__(self, shop: Shop, engine: str, process_: psutil.Process, others: Others, config: pytest.Config) -> None:
        self.shop = shop
        self.engine = engine
        self.address = shop.address
        self.scale: int = config.getoption("--attacks", 1)
        self._process = process_
        self._others = others
        self._report = config.stash.setdefault(REPORT, Report())

    async def during(self, name: str, attack: Callable[["Victim"], Awaitable[Any]]) -> dict[str, Any]:
        """Returns memory, and what others saw, before and during an attack."""
        await self._others.take(at_least=0)
        before = await self._others.take(at_least=CALLS)
        rss = most = self._process.memory_info().rss
        attacking = asyncio.ensure_future(attack(self))
        while not attacking.done():
            most = max(most, self._process.memory_info().rss)
            await asyncio.wait([attacking], timeout=EVERY)
        await attacking
        seen = await self._others.take(at_least=CALLS)
        row = {"attack": name, "engine": self.engine, "rss_before": rss, "rss_growth": most - rss}
        self._report.rows.append(row | {"before": before, "during": seen})
        return self._report.rows[-1]


@pytest.fixture(scope="package")
def many_files() -> Iterator[int]:
    """Returns how many files a process may open, after having raised that as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="package")
async def victim(
    valkey_cluster: ValkeyCluster,
    shared_database: str,
    engine: str,
    choose_ports: ChoosePorts,
    many_files: int,  # which the process inherits
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Victim]:
    """A sidecar that serves others."""
    (port,) = choose_ports(1)
    address = f"127.0.0.1:{port}"
    config = {
        "redis_nodes": ",".join(valkey_cluster.addresses),
        "postgres_catalog": shared_database,
        "namespace": f"hostile_{engine}",
        "engine": engine,
        "listen_address": address,
        "log_level": "error",
        **PATIENT,
    }
    async with contextlib.AsyncExitStack() as stack:
        started = await stack.enter_async_context(process("serve", tmp_path_factory.mktemp("hostile"), config))
        await serving(address)
        shop = Shop(Sidecar(address, await stack.enter_async_context(grpc.aio.insecure_channel(address))))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await shop.create(PRODUCT)  # the other engine may have
        others = await stack.enter_async_context(Others(address, PRODUCT))
        await others.take(at_least=CALLS)
        yield Victim(shop, engine, psutil.Process(started.pid), others, request.config)
