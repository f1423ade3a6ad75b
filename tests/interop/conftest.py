"""Engines that host gRPC's interop service, and the programs in other languages that call them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar.devstack.processes import Processes
from tests.interop import build
from tests.interop.mongo_server import MongoServer
from tests.interop.running import got
from tests.interop.service import Place, hosted
from tests.support.engine_params import ENGINES
from tests.support.free_ports import ChoosePorts

# Generated, and named test_...
collect_ignore = ["grpc"]


@pytest.fixture(scope="package", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that answers the calls: every test runs on each."""
    return str(request.param)


@pytest.fixture(scope="package")
async def place(engine: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """Where the engine hosts the interop service."""
    async with hosted(engine, tmp_path_factory.mktemp("interop")) as found:
        yield found


@pytest.fixture(params=["tcp", "unix", "tls"])
def transport(request: pytest.FixtureRequest) -> str:
    """How it is called."""
    return str(request.param)


@pytest.fixture(scope="session")
def go() -> Path:
    """grpc-go's interop client."""
    return got(build.GO)


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """grpcurl."""
    return got(build.GRPCURL)


@pytest.fixture(scope="session")
def java() -> Path:
    """The folder with grpc-java's interop suite, and what it needs."""
    return got(build.JAVA)


@pytest.fixture(scope="session")
def node() -> Path:
    """The folder with the modules for Node.js."""
    return got(build.NODE)


@pytest.fixture(scope="session")
async def mongodb(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[MongoServer]:
    """A server that speaks MongoDB's protocol; a test that kills it starts it again."""
    server = MongoServer(processes, got(build.MONGODB), choose_ports(1)[0])
    await server.start()
    yield server
    await server.stop()
