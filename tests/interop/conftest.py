"""Engines that host gRPC's interop service, and the programs in other languages that call them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engines import ENGINES
from tests.interop import build
from tests.interop.service import Place, hosted

# Generated, and named test_...
collect_ignore = ["grpc"]


@pytest.fixture(scope="package", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """What answers the calls: every test is made on each."""
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


def got(client: build.Client) -> Path:
    """Returns where a client is, or skips the test."""
    try:
        path = client.path()
    except build.CannotBuild as error:
        pytest.skip(f"no {client.name}: {error}")
    if not path.exists():
        pytest.skip(f"no {client.name}: `python -m tests.interop.build` gets it, or says why it cannot")
    return path


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
