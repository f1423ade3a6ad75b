"""The sidecar under attack, one for each engine, and its honest callers."""

import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.contract.hostile.others import Others
from tests.contract.hostile.report import Report
from tests.contract.hostile.victim import CALLS, PRODUCT, REPORT, Attacked, Victim
from tests.support.authority import Authority, listen
from tests.support.free_ports import ChoosePorts
from tests.support.launch import PATIENT, Sidecar, process, relaying, serving, settings_for
from tests.support.shop import Shop


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--attacks", type=int, default=1, help="how many times larger each attack is; prints the table")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


def pytest_unconfigure(config: pytest.Config) -> None:
    if config.getoption("--attacks", 1) != 1:
        config.stash[REPORT].publish()


@pytest.fixture(scope="package")
def many_files() -> Iterator[int]:
    """Returns how many files a process may open, after having raised that as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="package")
def attacked(
    valkey_cluster: ValkeyCluster,
    shared_database: str,
    engine: str,
    choose_ports: ChoosePorts,
    many_files: int,  # which the process inherits
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Attacked:
    """Runs a sidecar that serves others, by `address` where that is not the one that is attacked."""

    @contextlib.asynccontextmanager
    async def run(*, address: str = "", **settings: str) -> AsyncIterator[Victim]:
        (port,) = choose_ports(1)
        target = f"127.0.0.1:{port}"
        config = {
            "redis_nodes": ",".join(valkey_cluster.addresses),
            "postgres_catalog": shared_database,
            "namespace": f"hostile_{engine}",
            "engine": engine,
            "listen_address": target,
            "log_level": "error",
            **PATIENT,
            **settings,
        }
        address = address or target
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(relaying(settings_for(config["redis_nodes"], shared_database, config["namespace"])))
            started = await stack.enter_async_context(process("serve", tmp_path_factory.mktemp("hostile"), config))
            await serving(address)
            shop = Shop(Sidecar(address, await stack.enter_async_context(grpc.aio.insecure_channel(address))))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await shop.create(PRODUCT)  # the other engine may have
            others = await stack.enter_async_context(Others(address, PRODUCT))
            await others.take(at_least=CALLS)
            yield Victim(shop, target, engine, psutil.Process(started.pid), others, request.config)

    return run


@pytest.fixture(scope="package")
async def victim(attacked: Attacked) -> AsyncIterator[Victim]:
    """One that is shared by the attacks."""
    async with attacked() as found:
        yield found


@pytest.fixture
async def victim_with_tls(attacked: Attacked, tmp_path: Path) -> AsyncIterator[Victim]:
    """One with TLS on its port, that serves others by a unix socket."""
    path = tmp_path / "s.sock"
    async with attacked(address=f"unix:{path}", listen_socket=str(path), **listen(tmp_path, Authority().server())) as found:
        yield found
