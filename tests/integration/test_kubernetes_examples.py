"""The examples in k8s, as far as they run without a kubelet: Valkey with its configuration, a sidecar with its settings, the shop.

`valkey-cli`, with which a Job joins the nodes and the probe asks them, is in their image only.
"""

import asyncio
import runpy
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.wheels import valkey_server
from cache_sidecar.v1.product_service_pb2 import CreateProductRequest
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub
from tests.conftest import ChoosePorts
from tests.contract.shop import product
from tests.injector.manifests import K8S, Object, is_named, rendered
from tests.sidecars import in_process, settings_for, until

LAST_SLOT = 16383


def one(example: str, kind: str, name: str) -> Object:
    (found,) = [thing for thing in rendered(example) if is_named(thing, kind, name)]
    return found


@pytest.fixture
async def valkey_port(processes: Processes, choose_ports: ChoosePorts, tmp_path: Path) -> AsyncIterator[int]:
    """A node of the example's cluster, which owns all slots."""
    (port,) = choose_ports(1)
    configuration = one("redis-cluster", "ConfigMap", "valkey")["data"]["valkey.conf"]
    for place, here in (("/data", tmp_path), ("/etc/valkey-users", tmp_path)):
        assert place in configuration
        configuration = configuration.replace(place, str(here))
    (tmp_path / "valkey.conf").write_text(configuration)
    secret = one("redis-cluster", "Secret", "valkey")["stringData"]
    (tmp_path / "users.acl").write_text(secret["users.acl"])
    container = one("redis-cluster", "StatefulSet", "valkey")["spec"]["template"]["spec"]["containers"][0]
    places = {
        "/etc/valkey/valkey.conf": str(tmp_path / "valkey.conf"),
        "$(POD_NAME).valkey.stores.svc.cluster.local": "localhost",
        "$(REDISCLI_AUTH)": secret["admin-password"],
    }
    arguments = [places.get(argument, argument) for argument in container["args"]]
    command = [str(valkey_server()), *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    child = processes.start("example-valkey", command, directory=tmp_path)
    async with Redis(host="127.0.0.1", port=port, password=secret["admin-password"], decode_responses=True) as admin:

        async def answers() -> bool:
            assert child.running, child.last_line()
            try:
                return bool(await admin.ping())
            except RedisError:
                return False

        async def is_a_cluster() -> bool:
            return (await admin.execute_command("CLUSTER INFO"))["cluster_state"] == "ok"

        await until(answers)
        await admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, LAST_SLOT)
        await until(is_a_cluster)
    yield port
    await processes.stop([child])


def settings(valkey_port: int, database: str) -> dict[str, Any]:
    """Returns what the example tells the sidecars, but for where things are."""
    said = one("shop", "ConfigMap", "cache-sidecar")["data"] | one("shop", "Secret", "cache-sidecar")["stringData"]
    values = {name.removeprefix("CACHE_SIDECAR_").lower(): value for name, value in said.items()}
    places = {"redis_nodes": f"127.0.0.1:{valkey_port}", "postgres_catalog": database}
    assert places.keys() <= values.keys(), "it says where they are"
    return values | places


async def test_the_shop_of_the_example_runs_on_its_stores(valkey_port: int, database: str) -> None:
    values = settings(valkey_port, database)
    user, password = values["redis_username"], values["redis_password"]
    async with Redis(host="127.0.0.1", port=valkey_port, username=user, password=password) as sidecars:
        with pytest.raises(NoPermissionError):
            await sidecars.get("not-the-sidecars")
    nodes, dsn = values.pop("redis_nodes"), values.pop("postgres_catalog")
    async with in_process(settings_for(nodes, dsn, "cs", **values)) as sidecar:
        created = CreateProductRequest(product=product("mug"))
        await sidecar.stub(ProductServiceStub).CreateProduct(created)
        program = runpy.run_path(str(K8S / "examples" / "shop" / "app.py"))
        page = program["serve"](sidecar.address, 0)
        serving = threading.Thread(target=page.serve_forever)
        serving.start()
        try:
            here = f"http://127.0.0.1:{page.server_port}"
            assert await asyncio.to_thread(_get, f"{here}/healthz") == (200, "ok\n")
            status, text = await asyncio.to_thread(_get, f"{here}/products/mug")
            assert (status, '"title": "A mug"' in text) == (200, True)
            assert (await asyncio.to_thread(_get, f"{here}/products/none"))[0] == 404
        finally:
            await asyncio.to_thread(page.shutdown)
            serving.join()
            page.server_close()


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
