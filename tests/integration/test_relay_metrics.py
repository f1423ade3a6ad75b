"""GET /metrics of a relay: who leads, what waits in the outbox, and what was done."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.metrics import definitions
from cache_sidecar.metrics.definitions import Process
from cache_sidecar.store.outbox import COUNTED, Progress, RelayStore
from tests.injector.webhook import make_certificate
from tests.support import scrape
from tests.support.databases import INSERT, RELAY, UNLISTED, as_role, open_database, run
from tests.support.free_ports import ChoosePorts
from tests.support.launch import process
from tests.support.until import until

ROLES = "catalog, user, analytics"
NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
async def _unlisted(database: str) -> None:
    await run(database, UNLISTED)


@asynccontextmanager
async def relay(folder: Path, port: int, redis: str, database: str, namespace: str, **more: Any) -> AsyncIterator[str]:
    """Runs a relay with the rights of a relay, and returns where its metrics are once they are served."""
    address = f"127.0.0.1:{port}"
    settings = {"redis_nodes": redis, "postgres_catalog": as_role(RELAY, database), "namespace": namespace}
    async with process("relay", folder, settings | {"web_address": address} | more):

        async def is_served() -> bool:
            try:
                return bool(await scrape.values(address))
            except ConnectionError:
                return False

        await until(is_served)
        yield address


async def value(address: str, name: str, *labels: str) -> float | None:
    return (await scrape.values(address)).get(f"cache_sidecar_{name}", {}).get(labels)


async def test_every_metric_of_the_list_is_served(
    tmp_path: Path, choose_ports: ChoosePorts, valkey_cluster: ValkeyCluster, database: str, namespace: str
) -> None:
    make_certificate(tmp_path, now=time.time())
    (port,) = choose_ports(1)
    redis, ca = ",".join(valkey_cluster.addresses), str(tmp_path / "ca.crt")
    async with relay(tmp_path, port, redis, database, namespace, redis_tls_ca=ca) as address:
        listed = {metric.name for metric in definitions.of(Process.RELAY)}
        # The container has no limit, Redis no maxmemory, and a forecast takes an hour.
        absent = {
            one.name
            for one in (
                definitions.MEMORY_LIMIT,
                definitions.MEMORY_USED,
                definitions.REDIS_LIMIT,
                definitions.REDIS_GROWTH,
                definitions.REDIS_DAYS_LEFT,
            )
        }

        async def are_all_served() -> bool:
            found = await scrape.served(address)
            assert found <= listed
            return listed - found <= absent

        await until(are_all_served)
        (expiry,) = (await scrape.values(address))["cache_sidecar_certificate_not_after_seconds"].values()
        assert expiry > time.time()


async def test_a_relay_says_what_it_published(
    tmp_path: Path, choose_ports: ChoosePorts, valkey_cluster: ValkeyCluster, database: str, namespace: str
) -> None:
    (port,) = choose_ports(1)
    async with relay(tmp_path, port, ",".join(valkey_cluster.addresses), database, namespace) as address:
        for id in "abc":
            await run(database, INSERT, [id, "Sofa"])
        await until(lambda: is_value(address, 3, "relay_changes_published_total", ROLES))
        await until(lambda: is_value(address, 0, "outbox_changes", ROLES))
        assert await value(address, "outbox_age_seconds", ROLES) == 0
        assert await value(address, "relay_leading", "changes", ROLES) == 1
        assert await value(address, "relay_partitions_lacking", ROLES) == 0
        await until(lambda: is_value(address, 1, "relay_leading", "user events", ROLES))


async def is_value(address: str, wanted: float, name: str, *labels: str) -> bool:
    return await value(address, name, *labels) == wanted


async def test_what_redis_does_not_take_waits_in_the_outbox(
    tmp_path: Path, choose_ports: ChoosePorts, database: str, namespace: str
) -> None:
    (port,) = choose_ports(1)
    async with relay(tmp_path, port, NOBODY, database, namespace) as address:
        for id in "abc":
            await run(database, INSERT, [id, "Sofa"])
        await until(lambda: is_value(address, 3, "outbox_changes", ROLES))
        age = await value(address, "outbox_age_seconds", ROLES) or 0.0
        assert age > 0
        assert await value(address, "relay_changes_published_total", ROLES) == 0
        assert await value(address, "dependency_failing", "relay", ROLES) == 1

        async def is_older() -> bool:
            return (await value(address, "outbox_age_seconds", ROLES) or 0.0) > age

        await until(is_older)


async def test_one_of_two_relays_leads_and_both_count_the_outbox(
    tmp_path: Path, choose_ports: ChoosePorts, database: str, namespace: str
) -> None:
    ports = choose_ports(2)
    async with relay(tmp_path, ports[0], NOBODY, database, namespace) as second:
        async with relay(tmp_path, ports[1], NOBODY, database, namespace) as first:

            async def leading() -> list[float | None]:
                return [await value(each, "relay_leading", "changes", ROLES) for each in (first, second)]

            async def is_led() -> bool:
                return await leading() in ([0, 1], [1, 0])

            await until(is_led)
            await run(database, INSERT, ["a", "Sofa"])
            for each in (first, second):
                await until(lambda each=each: is_value(each, 1, "outbox_changes", ROLES))
        await until(lambda: is_value(second, 1, "relay_leading", "changes", ROLES))


async def test_without_postgresql_nothing_is_said_of_the_outbox(
    tmp_path: Path, choose_ports: ChoosePorts, namespace: str
) -> None:
    (port,) = choose_ports(1)
    nowhere = f"postgresql://shop@{NOBODY}/shop"
    async with relay(tmp_path, port, NOBODY, nowhere, namespace) as address:
        await until(lambda: is_value(address, 1, "dependency_failing", "postgresql", ROLES))
        assert await value(address, "outbox_changes", ROLES) is None
        assert await value(address, "relay_leading", "changes", ROLES) == 0


@pytest.mark.parametrize("rows", [0, 3])
async def test_a_backlog_is_what_a_region_lacks(database: str, rows: int) -> None:
    async with open_database(database) as opened:
        store = RelayStore(opened)
        for number in range(rows):
            await run(database, INSERT, [str(number), "Sofa"])
        assert (await store.backlog("eu")).changes == rows, "those without a position, too"
        (*_, last) = [0, *(change.position for change in await store.after(0, limit=10))]
        assert (await store.backlog("eu")).changes == rows
        await run(database, "INSERT INTO cache_sidecar.relays VALUES ('eu', %s)", [last])
        assert await store.backlog("eu") == (0, 0.0)
        assert (await store.backlog("us")).changes == rows


async def test_a_long_backlog_is_counted_up_to_a_bound(database: str) -> None:
    async with open_database(database) as opened:
        store = RelayStore(opened)
        await run(
            database,
            """INSERT INTO cache_sidecar.outbox (version, dataset, id, kind, change_time)
               SELECT n, 'product', n::text, 'created', now() - interval '1 hour' FROM generate_series(1, %s) AS n""",
            [COUNTED + 10],
        )
        found = await store.backlog("eu")
        assert found.changes == COUNTED
        assert 3600 <= found.age < 3700
        assert await store.progress("eu") == Progress(0, 0)
