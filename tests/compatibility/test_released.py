"""What a released version has written, and what this one writes for it: databases, Redis, policy, settings, manifests.

`releases/VERSION` has the files that the version wrote itself. tests/failure/test_two_versions.py runs both, side by side.
"""

import base64
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

import grpc
import psycopg
import pytest
from click.testing import CliRunner
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from ruamel.yaml import YAML

from cache_sidecar.cli import cli
from cache_sidecar.config import policy
from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.store.migrate import SHARED, migrate, migrations
from cache_sidecar.store.rights import grants
from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from tests.compatibility.record import NAMESPACE, RELEASES, ROOT
from tests.support.clocks import ManualClock
from tests.support.customers import Customer, item, lines
from tests.support.databases import RELAY, SIDECAR, run
from tests.support.shop import L2, Open, Shop
from tests.support.stockroom import Stockroom

BUF = Path(sys.executable).parent / "buf"
# Every column and what it takes.
COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable, column_default IS NOT NULL, is_generated
    FROM information_schema.columns WHERE table_schema = 'cache_sidecar' ORDER BY 1, 2"""
TABLES = """
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = 'cache_sidecar' AND table_type = 'BASE TABLE' AND table_name <> 'migrations' ORDER BY 1"""
LEDGER = "SELECT role, name FROM cache_sidecar.migrations"


class Released(NamedTuple):
    """A version, and what it wrote."""

    folder: Path
    data: dict[str, Any]

    def read(self, name: str) -> str:
        """Returns a file's text."""
        return (self.folder / name).read_text()


@pytest.fixture(params=sorted(RELEASES.iterdir()), ids=lambda folder: str(folder.name))
def released(request: pytest.FixtureRequest) -> Released:
    """Each of the versions."""
    folder: Path = request.param
    return Released(folder, json.loads((folder / "data.json").read_text()))


@pytest.fixture
async def older(released: Released, postgres: Postgres, template: str) -> AsyncIterator[str]:
    """The DSN of its database, not migrated yet; `template` brings the roles."""
    name = f"released_{uuid4().hex[:8]}"
    await run(postgres.dsn("postgres"), f"CREATE DATABASE {name}")
    async with await psycopg.AsyncConnection.connect(postgres.dsn(name), autocommit=True) as connection:
        await connection.execute(released.read("schema.sql").encode())
    yield postgres.dsn(name)
    await run(postgres.dsn("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


async def upgrade(dsn: str) -> list[str]:
    return await migrate(dsn, *ROLES, grants=grants(sidecar=SIDECAR, relay=RELAY))


@pytest.fixture
async def redis(released: Released, valkey_cluster: ValkeyCluster, namespace: str) -> AsyncIterator["RedisCluster[bytes]"]:
    """Redis with its records, in the test's namespace."""
    host, _, port = valkey_cluster.addresses[0].rpartition(":")
    client: RedisCluster[bytes] = RedisCluster(host=host, port=int(port))
    for key, record in released.data["redis"].items():
        renamed = namespace + key.removeprefix(NAMESPACE)
        await client.restore(renamed, max(0, record["ttl"]), base64.b64decode(record["dump"]), replace=True)
    yield client
    await client.aclose()


async def test_migrate_applies_what_is_missing_and_keeps_what_is_there(older: str) -> None:
    applied = {(role, name) for role, name in await run(older, LEDGER)}
    tables = [name for (name,) in await run(older, TABLES)]
    before = {table: await run(older, f"SELECT * FROM cache_sidecar.{table} ORDER BY 1") for table in tables}
    missing = [one.name for role in (SHARED, *ROLES) for one in migrations(role) if (role, one.name) not in applied]
    assert await upgrade(older) == missing
    for table, rows in before.items():
        after = await run(older, f"SELECT * FROM cache_sidecar.{table} ORDER BY 1")
        # Lists are compared with the products, which adds their changes.
        after = [row for row in after if table != "outbox" or "product_list" not in row]
        assert [row[: len(old)] for row, old in zip(after, rows, strict=True)] == rows, table
    assert await upgrade(older) == []


async def test_the_older_version_can_go_on_with_the_migrated_schema(older: str) -> None:
    before = await run(older, COLUMNS)
    await upgrade(older)
    after = await run(older, COLUMNS)
    assert set(before) <= set(after), "a column that it uses is gone, or takes other values"
    its_own = {table for table, *_ in before}
    for table, column, _, nullable, has_default, generated in set(after) - set(before):
        if table in its_own:
            assert nullable == "YES" or has_default or generated == "ALWAYS", f"it cannot write {table} without {column}"


async def test_what_it_wrote_is_read_and_can_be_changed(
    released: Released, older: str, redis: "RedisCluster[bytes]", open_shop: Open
) -> None:
    await upgrade(older)
    clock = ManualClock(released.data["moment"])
    async with open_shop(clock=clock, postgres=older) as shop:
        customer, room = Customer(shop.sidecar), Stockroom(shop.channel)
        product = await shop.get("mug")
        assert (product.product.title, product.product.etag, product.cache.source) == ("A mug", released.data["etag"], L2)
        session = await customer.session(released.data["session_id"])
        assert (dict(session.session.attributes), session.cache.source) == ({"basket": "full"}, L2)
        cart = await customer.read("ada")
        assert (lines(cart.cart), cart.cache.source) == ({"mug": 2}, L2)
        assert await room.numbers("mug") == (7, 3)
        assert await is_missing(shop, "gone")
        tiers = (await shop.admin.GetStats(GetStatsRequest())).tiers
        assert not any(tier.errors or tier.unreadable for tier in tiers)
        # And PostgreSQL says the same.
        assert (await shop.get("mug", bypass=True)).product == product.product
        assert lines((await customer.read("ada", bypass=True)).cart) == {"mug": 2}
        await room.commit(released.data["reservation_id"])
        assert await room.numbers("mug", bypass=True) == (7, 0)
        updated = await shop.update("mug", "title", title="Two mugs", etag=released.data["etag"])
        assert (await shop.get("mug")).product.title == updated.title == "Two mugs"
        assert lines(await customer.add("ada", item("mug", 1))) == {"mug": 3}


async def is_missing(shop: Shop, id: str) -> bool:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.get(id)
    return caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.fixture
def codec(released: Released) -> ModuleType:
    """The record format as the version knows it: its own code."""
    spec = importlib.util.spec_from_file_location("released_codec", released.folder / "codec.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_older_version_reads_what_this_one_writes_to_redis(
    codec: ModuleType, valkey_cluster: ValkeyCluster, namespace: str, open_shop: Open
) -> None:
    async with open_shop() as shop:
        customer, room = Customer(shop.sidecar), Stockroom(shop.channel)
        product = await shop.create("mug")
        await shop.get("mug")
        await shop.create("gone")
        await shop.delete("gone")
        session_id = await customer.create("ada", basket="full")
        await customer.touch(session_id)
        await customer.add("ada", item("mug"))
        await room.set("mug", 3)
        await room.get("mug")
        assert await is_missing(shop, "none")
    records = {key: codec.decode(value) for key, value in (await values(valkey_cluster, namespace)).items()}
    assert {key.split(":")[1] for key in records} == {"product", "session", "cart", "inventory"}
    by_id = {key.rpartition(":")[2]: record for key, record in records.items() if ":product:" in key}
    assert by_id["mug"].version == int(product.etag)
    assert by_id["mug"].value is not None
    assert (by_id["gone"].value, by_id["none"].value) == (None, None)
    assert by_id["gone"].version > by_id["mug"].version > by_id["none"].version == 0
    sliding = [record for key, record in records.items() if key.split(":")[1] in {"session", "cart"}]
    assert all(record.expiry is not None for record in sliding)


async def values(cluster: ValkeyCluster, namespace: str) -> dict[str, bytes]:
    """Returns the records of a namespace."""
    found = {}
    for address in cluster.addresses:
        host, _, port = address.rpartition(":")
        async with Redis(host=host, port=int(port)) as node:
            if (await node.info("replication"))["role"] != "master":
                continue
            for dataset in ("product", "session", "cart", "inventory"):
                async for key in node.scan_iter(f"{namespace}:{dataset}:*"):
                    found[key.decode()] = await node.get(key)
    return found


def test_its_clients_can_call_this_version(released: Released) -> None:
    command = [BUF, "breaking", ROOT / "protos", "--against", released.folder / "protos.binpb.gz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_its_policy_is_one_of_this_version(released: Released) -> None:
    policy.load(str(released.folder / "policy.toml"), policy.default())


def test_its_settings_are_still_there(released: Released) -> None:
    assert set(released.read("settings.txt").split()) <= set(Settings.model_fields)


def test_manifests_that_it_injected_are_taken_back_and_brought_up_to_date(released: Released) -> None:
    injected, manifest = released.folder / "injected.yaml", released.folder / "manifest.yaml"
    assert documents(command("uninject", injected)) == documents(manifest.read_text())
    upgraded = command("inject", injected)
    assert documents(upgraded) == documents(command("inject", manifest))
    assert documents(upgraded) != documents(injected.read_text())


def command(name: str, file: Path) -> str:
    done = CliRunner().invoke(cli, [name, "-f", str(file)], prog_name="cache-sidecar")
    assert done.exit_code == 0, done.stderr
    return done.stdout


def documents(text: str) -> list[Any]:
    return [document for document in YAML(typ="safe").load_all(text) if document]
