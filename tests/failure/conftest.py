"""The stack that the tests of this folder break."""

from collections.abc import AsyncIterator

import pytest

from cache_sidecar.devstack.processes import Processes
from tests.failure.inventory_stack import InventoryStack, inventory_stack
from tests.support.free_ports import ChoosePorts


@pytest.fixture(scope="package")
async def running_stack(
    processes: Processes, choose_ports: ChoosePorts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InventoryStack]:
    """Runs what `stack` shares."""
    async with inventory_stack(processes, choose_ports, tmp_path_factory.mktemp("inventory")) as running:
        yield running


@pytest.fixture
async def stack(running_stack: InventoryStack) -> AsyncIterator[InventoryStack]:
    """Four sidecars and their servers; what a test breaks is healed after it, even if it failed."""
    yield running_stack
    await running_stack.heal()
