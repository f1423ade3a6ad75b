"""What tests break."""

from collections.abc import AsyncIterator

import pytest

from cache_sidecar.devstack.processes import Processes
from tests.conftest import ChoosePorts
from tests.failure.inventory_stack import InventoryStack, inventory_stack


@pytest.fixture(scope="package")
async def stack(
    processes: Processes, choose_ports: ChoosePorts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InventoryStack]:
    """Four sidecars and all they need. A test that breaks something heals it."""
    async with inventory_stack(processes, choose_ports, tmp_path_factory.mktemp("inventory")) as running:
        yield running
