"""Every server at hand takes the ACL line of the guide, in a file that it starts with, and it is all that a sidecar needs.

The wheel's Valkey is always there; `redis-server` and `valkey-server` are tried where they are installed, and each program that
CACHE_SIDECAR_TEST_SERVERS names, separated by colons.
"""

import os
import shutil
from pathlib import Path

import pytest

from cache_sidecar.devstack import valkey
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.devstack.wheels import valkey_server
from cache_sidecar.v1 import admin_service_pb2 as admin
from tests.support import acl
from tests.support.customers import Customer, item
from tests.support.free_ports import ChoosePorts
from tests.support.launch import in_process, settings_for
from tests.support.shop import L1, L2, Shop

INSTALLED = [found for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]
NAMED = [name for name in os.environ.get("CACHE_SIDECAR_TEST_SERVERS", "").split(":") if name]


@pytest.mark.parametrize("program", [valkey_server(), *map(Path, INSTALLED + NAMED)], ids=str)
async def test_a_sidecar_needs_no_more_than_the_line_of_the_guide(
    program: Path,
    processes: Processes,
    choose_ports: ChoosePorts,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(valkey, "valkey_server", lambda: program)
    file = tmp_path / "users.acl"
    file.write_text("user default on nopass ~* &* +@all\n" + acl.line().replace("PASSWORD", acl.PASSWORD) + "\n")
    (port,) = choose_ports(1)
    server = ValkeyServer(processes, tmp_path / "server", port, options={"aclfile": str(file)})
    await server.start()
    try:
        settings = settings_for(server.address, database, "cs", redis_username="cs_app", redis_password=acl.PASSWORD)
        async with in_process(settings) as one, in_process(settings) as other:
            first, second = Shop(one), Shop(other)
            made = await first.create()
            assert (await second.get(made.product_id)).cache.source == L2
            assert (await second.get(made.product_id)).cache.source == L1
            customer = Customer(one)
            await customer.add("somebody", item(made.product_id))
            assert (await customer.read("somebody")).cache.source == L2
            await first.delete(made.product_id)
            await first.admin.Invalidate(admin.InvalidateRequest(dataset="product", ids=["any"]))
            await first.admin.Invalidate(admin.InvalidateRequest(dataset="product", all=True))
            assert first.app.dependencies.failing() == []
        async with server.client() as client:
            assert await client.acl_log() == []
    finally:
        await server.stop()
