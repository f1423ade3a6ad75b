"""A shard of Redis without any node: what it does not know concerns its own partitions."""

from collections.abc import AsyncIterator

import pytest

from cache_sidecar.config.settings import ROLES
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.tiers.ports import partition_of
from tests.failure.test_failover_of_redis import relaying
from tests.support import inside
from tests.support.databases import run
from tests.support.free_ports import ChoosePorts
from tests.support.launch import in_process, rests_on_redis, settings_for
from tests.support.shop import L1, Shop
from tests.support.until import until

BOUND = 2.0


@pytest.fixture
async def cluster(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyCluster]:
    own = ValkeyCluster(processes, processes.state.path / "valkey-shard", choose_ports(3), replicas=False)
    await own.start()
    for node in own.nodes:
        async with node.client() as client:
            await client.config_set("cluster-require-full-coverage", "no")
    yield own
    await own.stop()


async def test_the_others_go_on_fresh_and_are_told_and_it_is_told_what_it_missed(
    cluster: ValkeyCluster, database: str, namespace: str
) -> None:
    settings = settings_for(",".join(cluster.addresses), database, namespace, redis_timeout=1.0, postgres_timeout=20.0)
    async with relaying(cluster, database, namespace, roles=ROLES), in_process(settings, relay=False) as sidecar:
        app, shop = sidecar.app, Shop(sidecar)
        assert app is not None
        for dataset in inside.datasets_of(app):
            inside.policy_of(app).override(dataset, {"staleness_bound": BOUND})
        dead = cluster.nodes[0]
        owners = await inside.l2_of(app).owners()
        lost = {p for (_, port), held in owners.items() if port == dead.port for p in held}
        products = [await shop.create() for _ in range(12)]
        living = [product for product in products if partition_of(product.product_id) not in lost]
        dark = [product for product in products if partition_of(product.product_id) in lost]
        assert living
        assert dark
        await until(lambda: rests_on_redis(app) and not any(inside.lagging_of(inside.region_of(app)).values()))
        dead.kill()

        async def is_judged() -> bool:
            return any(inside.lagging_of(inside.region_of(app)).values())

        await until(is_judged)
        for member in inside.lagging_of(inside.region_of(app)).values():
            assert member <= lost, "only what the shard holds"
        # The relay goes on: what is changed past every sidecar is heard, in the living shards.
        for product in living:
            await shop.get(product.product_id)
        await run(database, "UPDATE cache_sidecar.products SET title = 'by hand'")

        async def is_heard() -> bool:
            replies = [await shop.get(product.product_id) for product in living]
            return all((one.product.title, one.cache.source, one.cache.stale) == ("by hand", L1, False) for one in replies)

        await until(is_heard)
        # Of the lost one PostgreSQL answers.
        for product in dark:
            reply = await shop.get(product.product_id)
            assert (reply.product.title, reply.cache.stale) == ("by hand", False)
        await dead.start()
        await until(lambda: not any(inside.lagging_of(inside.region_of(app)).values()))
        await until(app.coherence.is_trusted)
