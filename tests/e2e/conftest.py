"""Two versions of Kubernetes, the injector's manifests on each, and the programs that were built for it."""

from collections.abc import AsyncIterator

import pytest

from cache_sidecar.devstack.processes import Processes
from tests.e2e import build
from tests.e2e.cluster import Cluster, cluster
from tests.e2e.installed import TRIAL, Installed
from tests.e2e.versions import NEWEST, OLDEST, program
from tests.support.free_ports import ChoosePorts


@pytest.fixture(scope="session", params=[OLDEST, NEWEST])
async def kube(request: pytest.FixtureRequest, processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[Cluster]:
    """A cluster of each of the versions."""
    folder = processes.state.path / f"kube-{request.param}"
    async with cluster(program(build.KUBE), folder, processes, choose_ports, version=request.param) as started:
        yield started


@pytest.fixture(scope="session")
async def installed(kube: Cluster, choose_ports: ChoosePorts) -> Installed:
    """The overlay dev on it, and a namespace whose pods are to get sidecars; no injector runs yet."""
    made = Installed(kube, choose_ports)
    await made.reset()
    await kube.namespace(TRIAL, {"cache-sidecar.io/inject": "enabled"})
    return made
