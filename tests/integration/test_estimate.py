"""`cache-sidecar estimate` against measured runs: memory, Redis, and what becomes of reads. Its figures may be off by 15 %."""

import asyncio
import random
from itertools import accumulate
from pathlib import Path
from uuid import uuid4

import pytest

from cache_sidecar.datasets import ALL, PRODUCT
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.estimate.formulas import REDIS_OVERHEAD, SESSION_OVERHEAD, popularity, read_products
from cache_sidecar.estimate.inputs import EXAMPLE, Inputs, read
from cache_sidecar.estimate.report import l1_entry_bytes
from cache_sidecar.tiers.ports import Source
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.session_service_pb2 import CreateSessionRequest
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.customers import Customer
from tests.support.databases import run
from tests.support.shop import Open, Shop

MANY, PIECE = 2000, 100
TEXT = "a text of some length that says what the product is for, "


async def insert(database: str, count: int, texts: int = 2) -> list[str]:
    """Inserts products whose descriptions have about that many texts; returns their ids."""
    statement = (
        "INSERT INTO cache_sidecar.products (product_id, title, description, price_units, currency_code) "
        f"SELECT 'SKU-' || lpad(n::text, 8, '0'), 'product ' || n, repeat('{TEXT}', {texts} + n % 10), 12, 'EUR' FROM generate_series(1, {count}) n"
    )
    await run(database, statement)
    return [f"SKU-{number:08}" for number in range(1, count + 1)]


async def read_all(shop: Shop, ids: list[str]) -> float:
    """Reads products; returns the mean size of one as it is in a cache."""
    size = 0
    for start in range(0, len(ids), PIECE):
        reply = await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=ids[start : start + PIECE]))
        assert len(reply.products) == len(ids[start : start + PIECE])
        size += sum(pb.GetProductResponse(product=product).ByteSize() for product in reply.products)
    return size / len(ids)


def example(engine: str, product: float) -> Inputs:
    """Returns the example with another engine and size."""
    found = read(EXAMPLE)
    return found.model_copy(
        update={
            "deployment": found.deployment.model_copy(update={"engine": engine}),
            "bytes": found.bytes.model_copy(update={"product": round(product)}),
        }
    )


async def test_values_in_memory_take_what_is_estimated(open_shop: Open, database: str, engine: str) -> None:
    ids = await insert(database, MANY)
    async with open_shop() as shop:
        size = await read_all(shop, ids)
        held = inside.dataset(shop.app, "product").stats()[Source.L1]
        assert held.entries == MANY
        assert l1_entry_bytes(example(engine, size)) * MANY == pytest.approx(held.bytes, rel=0.15)


# Bytes that a key takes in the tables of keys and of expiries, which are half empty after they have grown.
TABLES = 67


async def used(valkey: ValkeyServer, namespace: str) -> int:
    """Returns what the keys of a namespace take, without what the server has for its connections."""
    async with valkey.client() as client:
        keys = [key async for key in client.scan_iter(match=f"*{namespace}*", count=10_000)]
        async with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.memory_usage(key, samples=0)
            return sum(size + TABLES for size in await pipeline.execute() if size)


async def test_redis_takes_what_is_estimated(open_shop: Open, database: str, valkey: ValkeyServer, namespace: str) -> None:
    ids = await insert(database, MANY)
    async with open_shop(redis=valkey.address, redis_mode="single") as shop:
        customer = Customer(shop.sidecar)
        before = await used(valkey, namespace)
        size = await read_all(shop, ids)
        after_products = await used(valkey, namespace)
        assert MANY * (REDIS_OVERHEAD + len(ids[0]) + size) == pytest.approx(after_products - before, rel=0.15)

        async def create_sessions(name: str) -> int:
            """Creates fifty together, and returns the size of their ids and values."""
            calls = [
                customer.sessions.CreateSession(
                    CreateSessionRequest(user_id=f"{name}-{n}", attributes={"theme": TEXT}, request_id=str(uuid4()))
                )
                for n in range(50)
            ]
            return sum(len(reply.session_id) + reply.session.ByteSize() for reply in await asyncio.gather(*calls))

        before_sessions = await used(valkey, namespace)
        sizes = sum([await create_sessions(f"u-{number}") for number in range(10)])
        after_sessions = await used(valkey, namespace)
        assert 500 * SESSION_OVERHEAD + sizes == pytest.approx(after_sessions - before_sessions, rel=0.15)


PRODUCTS, SKEW = 400, 0.9
SOFT, HARD, L2_TTL = 30.0, 60.0, 300.0
RATE, WARM, MEASURED = 3.0, 2000, 9000
"Reads a second, reads before anything is counted, and reads that are counted."


@pytest.mark.parametrize("share", [1.0, 0.15])
async def test_reads_become_what_is_estimated(
    open_shop: Open, database: str, tmp_path: Path, engine: str, share: float
) -> None:
    """One sidecar reads products by Zipf's law, in time that the test moves; memory has room for all of them, or for some."""
    ids = await insert(database, PRODUCTS, 400)
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f"[product]\nl1_soft_ttl = {SOFT}\nl1_hard_ttl = {HARD}\nl2_ttl = {L2_TTL}\njitter = 0\ninspect_every = 0\n"
    )
    clock, chance = ManualClock(), random.Random(17)
    weights = list(accumulate(rank**-SKEW for rank in range(1, PRODUCTS + 1)))
    async with open_shop(clock=clock, policy_file=str(policy)) as shop:
        size = await read_all(shop, ids)
    # Other datasets have their parts.
    all_bytes = share * PRODUCTS * l1_entry_bytes(example(engine, size)) * sum(one.memory for one in ALL) / PRODUCT.memory
    async with open_shop(clock=clock, policy_file=str(policy), l1_max_bytes=round(all_bytes)) as shop:
        before = inside.dataset(shop.app, "product").stats()
        for number in range(WARM + MEASURED):
            if number == WARM:
                before = inside.dataset(shop.app, "product").stats()
            clock.advance(chance.expovariate(RATE))
            await shop.get(chance.choices(ids, cum_weights=weights)[0])
        after = inside.dataset(shop.app, "product").stats()

    def grew(source: Source) -> int:
        return after[source].loads - before[source].loads

    found = read_products(
        popularity(PRODUCTS, SKEW), RATE, pods=1, soft=SOFT, hard=HARD, l2_ttl=L2_TTL, capacity=share * PRODUCTS
    )
    hits = after[Source.L1].counters.hits - before[Source.L1].counters.hits
    assert found.l1_hit_ratio == pytest.approx(hits / MEASURED, rel=0.15)
    assert found.l2 / RATE * MEASURED == pytest.approx(grew(Source.L2), rel=0.15)
    assert found.store / RATE * MEASURED == pytest.approx(grew(Source.STORE), rel=0.15)
    assert found.l1_entries == pytest.approx(after[Source.L1].entries, rel=0.15)
