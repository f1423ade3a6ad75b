"""Whatever another program writes into our part of Redis: calls go on, and so does invalidation."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from redis.crc import key_slot

from cache_sidecar.inventory.stock import BucketRecord
from cache_sidecar.services.session import hash_of
from cache_sidecar.tiers.ports import Expiry, Record, partition_of
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from cache_sidecar.v1.cart_pb2 import Cart
from cache_sidecar.v1.cart_service_pb2 import GetCartResponse
from cache_sidecar.v1.product_service_pb2 import GetProductResponse
from cache_sidecar.v1.session_pb2 import Session
from cache_sidecar.v1.session_service_pb2 import DeleteSessionRequest
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.customers import Customer, item, lines, new_user
from tests.support.session_uses import flush
from tests.support.shop import L2, STORE, Open, Shop, new_id, product, refused
from tests.support.stockroom import Stockroom
from tests.support.tokens import secret_file
from tests.support.until import until

FORGED = ["ffffffffffffffff", "8000000000000000", "-000000000000001", "0x00000000000001", "one"]


async def run(shop: Shop, command: str, key: str, *arguments: Any) -> None:
    await inside.connection_of(shop.app).cluster.ask(key_slot(key.encode()), command, key, *arguments)


async def keep(shop: Shop, id: str) -> bool:
    """Reads a product, and returns whether it is in memory now: a partition that is dropped meanwhile refuses it."""
    await shop.get(id)
    return shop.remembers(id)


@pytest.mark.parametrize("version", FORGED)
async def test_no_message_ends_invalidation(open_shop: Open, namespace: str, version: str) -> None:
    async with open_shop() as first, open_shop() as second:
        id = (await first.create(title="old")).product_id
        await until(lambda: keep(second, id))
        channel = KeyNames(namespace).channel(partition_of(id))
        await run(first, "SPUBLISH", channel, f"1 {version} product {id}")
        await run(first, "SPUBLISH", channel, f"2 {version} session {id}")
        await until(lambda: keep(second, id))
        await first.update(id, "title", title="new")
        await until(lambda: not second.remembers(id))
        assert (await second.get(id)).product.title == "new"


@pytest.mark.parametrize("version", [2**63, 2**64 - 1])
async def test_a_version_that_postgresql_cannot_have_is_not_read(open_shop: Open, namespace: str, version: int) -> None:
    async with open_shop() as shop:
        id = new_id()
        await shop.create(id, title="ours")
        await inside.served_of(shop.app)["product"].dataset.drop([id])
        forged = codec.encode(Record(version, inside.clock_of(shop.app).now(), b"\x0a\x02\x0a\x00"))
        await run(shop, "SET", KeyNames(namespace).key("product", id), forged)
        reply = await shop.get(id)
        assert (reply.product.title, reply.cache.source) == ("ours", STORE)
        assert (await shop.get(id)).product.title == "ours"


async def put(shop: Shop, dataset: str, id: str, record: Record) -> None:
    """Writes a record into Redis that is none of ours."""
    await run(shop, "SET", inside.names_of(shop.app).key(dataset, id), codec.encode(record))


def now(shop: Shop) -> float:
    return float(inside.clock_of(shop.app).now())


async def test_no_forged_version_outlives_an_update(open_shop: Open) -> None:
    async with open_shop() as first, open_shop() as second:
        id = (await first.create(title="old")).product_id
        forged = GetProductResponse(product=product(id, title="forged")).SerializeToString()
        await put(first, "product", id, Record(2**62, now(first), forged))
        forget(second, id)
        assert (await second.get(id)).product.title == "forged", "Redis is trusted for reads"
        await first.update(id, "title", title="new")
        assert (await first.get(id)).product.title == "new"
        await until(lambda: reads(second, id, "new"))
        (l1, l2, _) = (await first.admin.GetStats(GetStatsRequest(dataset="product"))).tiers
        assert (l1.newer, l2.newer) == (0, 1)


def forget(shop: Shop, id: str) -> None:
    """Drops a product from memory alone."""
    inside.l1_of(inside.dataset(shop.app, "product")).drop_partition(partition_of(id))


async def reads(shop: Shop, id: str, title: str) -> bool:
    return (await shop.get(id)).product.title == title


def junk(id: str) -> list[bytes]:
    """Returns what a product's reply cannot be put together from."""
    good = GetProductResponse(product=product(id, title="forged")).SerializeToString()
    other = GetProductResponse(product=product("another", title="forged")).SerializeToString()
    with_cache = GetProductResponse(product=product(id, title="forged"))
    with_cache.cache.version = 5
    return [b"\xff", b"", other, good[:-1], with_cache.SerializeToString(), good + b"\x12\x01x"]


@pytest.mark.parametrize("number", range(6))
async def test_bytes_that_are_no_product_reach_nobody(open_shop: Open, number: int) -> None:
    async with open_shop() as shop:
        made = await shop.create(title="ours")
        id = made.product_id
        forget(shop, id)
        await put(shop, "product", id, Record(2**62, now(shop), junk(id)[number]))
        reply = await shop.get(id)
        assert (reply.product, reply.cache.source) == (made, STORE)
        assert (await shop.get(id)).product == made
        (_, l2, _) = (await shop.admin.GetStats(GetStatsRequest(dataset="product"))).tiers
        assert (l2.unreadable, l2.newer) == (1, 0), "it was replaced by what PostgreSQL has"


@pytest.mark.parametrize("value", [b"\xff", Session(expire_time=Timestamp(seconds=1)).SerializeToString()])
async def test_bytes_that_are_no_session_reach_nobody(open_shop: Open, value: bytes) -> None:
    async with open_shop() as shop:
        customer = Customer(shop.sidecar)
        session_id = await customer.create("ada")
        at = now(shop)
        await put(shop, "session", hash_of(session_id), Record(2**62, at, value, Expiry(at, at + 1000, at)))
        for _ in range(2):
            assert (await customer.session(session_id)).session.user_id == "ada"


@pytest.mark.parametrize("user_id", ["another", None])
async def test_bytes_that_are_no_cart_reach_nobody(open_shop: Open, user_id: str | None) -> None:
    async with open_shop() as shop:
        customer, user = Customer(shop.sidecar), new_user()
        await customer.add(user, item("prod456", 2))
        value = b"\xff" if user_id is None else GetCartResponse(cart=Cart(user_id=user_id)).SerializeToString()
        await put(shop, "cart", user, Record(2**62, now(shop), value, Expiry(now(shop))))
        for _ in range(2):
            assert lines(await customer.cart(user)) == {"prod456": 2}


BUCKET = BucketRecord(available=5, reserved=0, buckets=1, grant_version=0, update_time=0, epoch=1, steps=1)
IMPOSSIBLE = [
    BUCKET._replace(epoch=2**62),
    BUCKET._replace(steps=2**62),
    BUCKET._replace(available=-1),
    BUCKET._replace(available=2**63 - 1),
    BUCKET._replace(buckets=255),
    BUCKET._replace(update_time=2**62),
]


@pytest.mark.parametrize("forged", IMPOSSIBLE)
async def test_numbers_that_no_stock_has_reach_nobody(open_shop: Open, forged: BucketRecord) -> None:
    async with open_shop() as shop:
        stock, id = Stockroom(shop.channel), new_id()
        await stock.set(id, 7)
        await put(shop, "inventory", id, Record(2**62, now(shop), forged.pack()))
        for _ in range(2):
            assert await stock.numbers(id) == (7, 0)


async def test_a_forged_deletion_of_a_stock_breaks_no_call(open_shop: Open) -> None:
    async with open_shop() as shop:
        stock, id = Stockroom(shop.channel), new_id()
        await stock.set(id, 7)
        await put(shop, "inventory", id, Record(2**63 - 1, now(shop), None))
        refusal = await refused(stock.get(id))
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        assert (await stock.read(id, bypass=True)).inventory.available == 7
        await until(lambda: is_there(stock, id))


async def is_there(stock: Stockroom, id: str) -> bool:
    try:
        return (await stock.get(id)).available == 7
    except grpc.aio.AioRpcError:
        return False


async def test_with_keys_nobody_logs_in_by_writing_to_redis(open_shop: Open, tmp_path: Path) -> None:
    keys = secret_file(tmp_path / "keys", "0123456789abcdef0123456789abcdef\n")
    async with open_shop(redis_mac_keys_file=str(keys)) as shop, open_shop(redis_mac_keys_file=str(keys)) as other:
        customer, invented = Customer(shop.sidecar), "A" * 43
        session_id = await customer.create("eve")
        at = now(shop)
        admin = Record(2**62, at, Session(user_id="admin").SerializeToString(), Expiry(at, at + 1000, at))
        for id in (session_id, invented):
            await put(shop, "session", hash_of(id), admin)
        assert (await customer.session(session_id)).session.user_id == "eve"
        assert (await refused(customer.session(invented))).code is grpc.StatusCode.NOT_FOUND
        reply = await until_from(Customer(other.sidecar), session_id, L2)
        assert reply.session.user_id == "eve"
        (_, l2, _) = (await shop.admin.GetStats(GetStatsRequest(dataset="session"))).tiers
        assert l2.unsigned == 2


async def test_with_keys_a_session_that_is_put_back_after_its_end_is_believed_no_longer_than_l2_ttl(
    open_shop: Open, tmp_path: Path
) -> None:
    keys, clock = secret_file(tmp_path / "keys", "0123456789abcdef0123456789abcdef\n"), ManualClock()
    settings = {"redis_mac_keys_file": str(keys), "clock": clock}
    async with open_shop(**settings) as shop, open_shop(**settings) as other:
        customer, victim = Customer(shop.sidecar), Customer(other.sidecar)
        session_id, kept = await customer.create("eve"), await customer.create("ada")
        key = inside.names_of(shop.app).key("session", hash_of(session_id))
        saved = await inside.connection_of(shop.app).cluster.ask(key_slot(key.encode()), "GET", key)
        await customer.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id))
        await run(shop, "SET", key, saved)
        for _ in range(2):
            # Or else the first use that is due in PostgreSQL finds out. The uses have no MAC.
            await run(shop, "SETRANGE", key, 63, codec.milliseconds(clock.now()))
            assert (await victim.session(session_id)).cache.source == L2, "that is what a MAC cannot tell"
            clock.advance(899)
            assert (await victim.session(kept)).session.user_id == "ada"
            await flush(victim)
        clock.advance(2)
        await run(shop, "SETRANGE", key, 63, codec.milliseconds(clock.now()))
        assert (await refused(victim.session(session_id))).code is grpc.StatusCode.NOT_FOUND
        for _ in range(4):
            clock.advance(1000)
            assert (await victim.session(kept)).session.user_id == "ada", "who uses a session keeps it"
            await flush(victim)


async def until_from(customer: Customer, session_id: str, source: int) -> Any:
    """Reads a session until it comes from a tier; fills go on behind the replies."""
    replies: list[Any] = []

    async def is_from() -> bool:
        replies.append(await customer.session(session_id))
        return bool(replies[-1].cache.source == source)

    await until(is_from)
    return replies[-1]
