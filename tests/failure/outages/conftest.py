"""The servers that outages break, and the table of results."""

from collections.abc import AsyncIterator

import pytest

from cache_sidecar.devstack.processes import Processes
from tests.failure.outages.ground import Ground, ground
from tests.failure.outages.report import Report
from tests.failure.outages.trial import REPORT, SECONDS, Trial
from tests.support.free_ports import ChoosePorts


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--phase", type=float, default=SECONDS, help="seconds before, during and after each outage")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


def pytest_unconfigure(config: pytest.Config) -> None:
    if config.getoption("--phase", SECONDS) != SECONDS:
        config.stash[REPORT].publish()


@pytest.fixture(scope="package")
async def clustered(
    processes: Processes, choose_ports: ChoosePorts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Ground]:
    """On a cluster. A test that breaks something mends it."""
    async with ground(processes, choose_ports, tmp_path_factory.mktemp("outages"), is_cluster=True) as running:
        yield running


@pytest.fixture(scope="package")
async def alone(
    processes: Processes, choose_ports: ChoosePorts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Ground]:
    """On a single server with a replica."""
    async with ground(processes, choose_ports, tmp_path_factory.mktemp("outages"), is_cluster=False) as running:
        yield running


@pytest.fixture
def on_cluster(clustered: Ground, request: pytest.FixtureRequest) -> Trial:
    """Runs outages of the cluster."""
    return Trial(clustered, request.config)


@pytest.fixture
def on_single(alone: Ground, request: pytest.FixtureRequest) -> Trial:
    """Runs outages of the single server."""
    return Trial(alone, request.config)
