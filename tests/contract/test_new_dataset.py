"""A dataset is added by its specification alone: whatever the sidecar does with the others, it does with this one.

What is forgotten when one is added by hand fails silently: replies that never say stale, a `verify` that skips it, memory that
hears of no change. So each of them is looked for here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from redis.asyncio import RedisCluster

from cache_sidecar import datasets, verify
from cache_sidecar.config import policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay import process as relay
from cache_sidecar.tiers.ports import Record
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1 import admin_service_pb2, cache_pb2
from tests.contract.gift.dataset import MIGRATION, generated, with_gifts
from tests.support import inside
from tests.support.acl import allow
from tests.support.launch import PATIENT, in_process, rests_on_redis, settings_for
from tests.support.shop import L1, L2, STORE, Shop
from tests.support.until import until


class Gifts:
    """Gifts as callers of a sidecar see them."""

    def __init__(self, shop: Shop, pb: Any, pb_grpc: Any) -> None:
        self.shop = shop
        self._pb = pb
        self._stub = pb_grpc.GiftServiceStub(shop.channel)

    async def get(self, gift_id: str, **options: Any) -> Any:
        asked = cache_pb2.ReadOptions(**options) if options else None
        return await self._stub.GetGift(self._pb.GetGiftRequest(gift_id=gift_id, options=asked))

    async def title(self, gift_id: str) -> str:
        return str((await self.get(gift_id)).gift.title)

    async def source(self, gift_id: str) -> int:
        return int((await self.get(gift_id)).cache.source)

    async def stats(self) -> Any:
        return await self.shop.admin.GetStats(admin_service_pb2.GetStatsRequest(dataset="gift"))


class Ground:
    """Two sidecars that have gifts, the relay, and PostgreSQL as another program sees it."""

    def __init__(self, first: Gifts, second: Gifts, settings: Settings, more: dict[str, Any], store: Any) -> None:
        self.first, self.second, self.settings, self.more, self.store = first, second, settings, more, store
        self._relay: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def relay(self) -> None:
        self._stopping.clear()
        run = relay.run(self.settings, self._stopping, default_policy=self.more["default_policy"])
        self._relay = asyncio.create_task(run)

    async def end_relay(self) -> None:
        if self._relay is not None:
            # Not cancelled: repeated while the relay closes its connections, that would leave them open.
            self._stopping.set()
            await self._relay
            self._relay = None


@pytest.fixture
async def ground(
    valkey_cluster: ValkeyCluster,
    database: str,
    namespace: str,
    engine: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Ground]:
    pb, pb_grpc = generated(tmp_path_factory.mktemp("gift"))
    more = with_gifts(pb, pb_grpc)
    user = await allow(valkey_cluster, namespace)
    settings = settings_for(",".join(valkey_cluster.addresses), database, namespace, **user | PATIENT | {"engine": engine})
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as store:
        await store.execute(MIGRATION)
        await store.execute("INSERT INTO cache_sidecar.gifts (gift_id, title) VALUES ('g', 'A mug'), ('h', 'A hat')")
        async with _sidecar(settings, more) as first, _sidecar(settings, more) as second:
            ground = Ground(Gifts(first, pb, pb_grpc), Gifts(second, pb, pb_grpc), settings, more, store)
            ground.relay()
            await until(lambda: all(rests_on_redis(shop.app) for shop in (first, second)))
            try:
                yield ground
            finally:
                await ground.end_relay()


@asynccontextmanager
async def _sidecar(settings: Settings, more: dict[str, Any]) -> AsyncIterator[Shop]:
    async with in_process(settings, relay=False, **more) as sidecar:
        yield Shop(sidecar)


async def _settled(gifts: Gifts, gift_id: str) -> bool:
    """Whether it is answered from memory, without a mark."""
    cache = (await gifts.get(gift_id)).cache
    return bool(cache.source == L1 and not cache.stale)


async def test_it_is_cached_and_invalidated(ground: Ground) -> None:
    first, second = ground.first, ground.second
    assert await first.source("g") == STORE
    await until(lambda: _settled(first, "g"))
    assert await second.source("g") == L2
    await until(lambda: _settled(second, "g"))
    await ground.store.execute("UPDATE cache_sidecar.gifts SET title = 'A bowl' WHERE gift_id = 'g'")
    for gifts in (first, second):
        await until(lambda gifts=gifts: _has_title(gifts, "A bowl"))


async def _has_title(gifts: Gifts, title: str) -> bool:
    return await gifts.title("g") == title


async def test_it_is_marked_stale_when_the_relay_is_late(ground: Ground) -> None:
    await until(lambda: _settled(ground.first, "g"))
    await ground.end_relay()
    # Its bound is one second; nothing else in this test waits for that.
    await until(lambda: _is_stale(ground.first))
    ground.relay()
    await until(lambda: _settled(ground.first, "g"))


async def _is_stale(gifts: Gifts) -> bool:
    return bool((await gifts.get("g")).cache.stale)


async def test_it_is_counted_and_inspected(ground: Ground, engine: str) -> None:
    gifts = ground.first
    await until(lambda: _settled(gifts, "g"))
    await until(lambda: _is_inspected(gifts))
    tiers = {tier.tier: tier for tier in (await gifts.stats()).tiers}
    assert tiers["store"].loads >= 1
    assert tiers["l1"].hits >= 1
    assert tiers["l1"].entries == 1
    if engine == "native":
        counts, _ = inside.listener_of(inside.engine_of(gifts.shop.app.server)).hits()["/shop.v1.GiftService/GetGift"]
        assert sum(counts) >= 1


async def _is_inspected(gifts: Gifts) -> bool:
    await gifts.get("g")
    (inspection,) = (await gifts.stats()).inspections
    return bool(inspection.fresh)


async def test_it_is_emptied_and_verified(ground: Ground, valkey_cluster: ValkeyCluster, namespace: str) -> None:
    gifts = ground.first
    await until(lambda: _settled(gifts, "g"))
    await gifts.shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="gift", ids=["g"]))
    assert await gifts.source("g") == STORE
    host, _, port = valkey_cluster.addresses[0].partition(":")
    async with RedisCluster(host=host, port=int(port)) as redis:
        await redis.set(KeyNames(namespace).key("gift", "h"), codec.encode(Record(1, 0.0, b"")))

    async def at_once(_: float) -> None:
        pass

    (report,) = await verify.verify(ground.settings, ["gift"], progress=lambda *_: None, wait=at_once, **ground.more)
    assert report.overdue[verify.Verdict.OLDER] == 1
    assert report.found[verify.Verdict.SAME] >= 1


def test_the_policy_has_a_table_for_each_dataset() -> None:
    datasets.check_policy(datasets.ALL, policy.default())
    with pytest.raises(SettingsError, match="the policy has no table for cart"):
        datasets.check_policy(datasets.ALL, set(policy.default()) - {"cart"})
    with pytest.raises(SettingsError, match="datasets that do not exist: gift"):
        datasets.check_policy(datasets.ALL, [*policy.default(), "gift"])
