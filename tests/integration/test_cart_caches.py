"""Carts whose copy in Redis is gone, older or unreadable; and what a sidecar says of its own writes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from zlib import crc32

import pytest
from redis.asyncio import Redis

from cache_sidecar.config.settings import Settings
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.services.session import hash_of
from cache_sidecar.tiers.ports import Record
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2 import GetStatsRequest
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.customers import L2, STORE, Customer, cart_key, item, lines, new_request, new_user
from tests.support.gates import Gate
from tests.support.launch import in_process, process, settings_for
from tests.support.proxy import Proxy
from tests.support.until import until

DAY = 86_400.0


@pytest.fixture
async def redis(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(f"redis://{valkey.address}") as client:
        yield client


@pytest.fixture
async def proxy(valkey: ValkeyServer) -> AsyncIterator[Proxy]:
    """The way of the first sidecar to Redis."""
    async with Proxy(valkey.address) as proxy:
        yield proxy


def _settings(redis: str, database: str, namespace: str) -> Settings:
    return settings_for(redis, database, namespace, redis_mode="single", redis_timeout=1.0)


@pytest.fixture
async def cut_off(proxy: Proxy, database: str, namespace: str) -> AsyncIterator[Customer]:
    """A sidecar whose way to Redis a test can block."""
    async with in_process(_settings(proxy.address, database, namespace)) as sidecar:
        yield Customer(sidecar)


@pytest.fixture
async def other(valkey: ValkeyServer, database: str, namespace: str) -> AsyncIterator[Customer]:
    """A sidecar whose way is free."""
    async with in_process(_settings(valkey.address, database, namespace)) as sidecar:
        yield Customer(sidecar)


GARBAGE = [
    b"",
    b"hello",
    b"\xff" * 200,
    b"0" * 75,
    b"%016x03v" % 2**60 + b"g" * 200,
    b"%016x01l" % 2**60,
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_an_unreadable_copy_is_read_from_postgresql_and_mended(
    other: Customer, redis: Redis, namespace: str, garbage: bytes
) -> None:
    user = new_user()
    cart = await other.add(user, item("a", 2))
    await redis.set(cart_key(namespace, user), garbage)
    reply = await other.read(user)
    assert (reply.cart, reply.cache.source) == (cart, STORE)
    cart = await other.add(user, item("b"))
    assert await other.cart(user) == cart


async def test_a_copy_in_the_layout_of_before_is_counted_as_unreadable_and_mended(
    other: Customer, redis: Redis, namespace: str
) -> None:
    user = new_user()
    cart = await other.add(user, item("a", 2))
    session_id = await other.create(user, theme="dark")
    keys = [cart_key(namespace, user), KeyNames(namespace).key("session", hash_of(session_id))]
    for key in keys:
        record = await redis.get(key)
        assert record[16:18] == b"03"
        # Its checksum, which covers the layout, was right.
        head = record[:16] + b"02" + record[18:31]
        await redis.set(key, head + b"%08x" % crc32(record[75:], crc32(head)) + record[39:])
    reply, session = await other.read(user), await other.session(session_id)
    assert (reply.cart, reply.cache.source) == (cart, STORE)
    assert (session.session.attributes, session.cache.source) == ({"theme": "dark"}, STORE)
    stats = (await other.admin.GetStats(GetStatsRequest())).tiers
    assert {row.dataset: row.unreadable for row in stats if row.unreadable} == {"cart": 1, "session": 1}
    assert [(await redis.get(key))[16:18] for key in keys] == [b"03"] * 2


async def test_a_copy_cut_short_or_changed_is_read_from_postgresql(other: Customer, redis: Redis, namespace: str) -> None:
    user = new_user()
    cart = await other.add(user, item("a", 2))
    whole = await redis.get(cart_key(namespace, user))
    assert whole is not None
    for damaged in (whole[:-1], whole[:80], whole[:-1] + bytes([whole[-1] ^ 1]), whole[:39] + b"x" + whole[40:]):
        await redis.set(cart_key(namespace, user), damaged)
        reply = await other.read(user)
        assert (reply.cart, reply.cache.source) == (cart, STORE), damaged


async def test_a_copy_of_another_kind_is_read_from_postgresql(other: Customer, redis: Redis, namespace: str) -> None:
    user = new_user()
    cart = await other.add(user, item("a", 2))
    await redis.delete(cart_key(namespace, user))
    await redis.hset(cart_key(namespace, user), "a", "b")  # type: ignore[misc]
    assert await other.cart(user) == cart


async def test_a_copy_that_is_gone_is_read_from_postgresql_and_filled_in(other: Customer, redis: Redis) -> None:
    user = new_user()
    cart = await other.add(user, item("a", 2))
    await redis.flushall()
    assert (await other.read(user)).cache.source == STORE
    reply = await until(lambda: _from_l2(other, user))
    assert reply.cart == cart


async def _from_l2(customer: Customer, user: str) -> pb.GetCartResponse | None:
    reply = await customer.read(user)
    return reply if reply.cache.source == L2 else None


@pytest.mark.parametrize("fault", ["cut", "stall"])
async def test_own_writes_are_read_whatever_redis_holds(
    cut_off: Customer, other: Customer, proxy: Proxy, redis: Redis, namespace: str, fault: str
) -> None:
    """Redis did not hear of the change, and answers again with the older copy."""
    user = new_user()
    await cut_off.add(user, item("a"))
    older = await redis.get(cart_key(namespace, user))
    proxy.cut() if fault == "cut" else proxy.stall()
    cart = await cut_off.add(user, item("b"))
    assert await cut_off.cart(user) == cart
    proxy.cut()  # with what was on its way
    await proxy.heal()
    assert older is not None
    await redis.set(cart_key(namespace, user), older)
    for _ in range(100):
        assert await cut_off.cart(user) == cart
        await asyncio.sleep(0.01)
        if (await cut_off.read(user)).cache.source == L2:
            break
    assert await other.cart(user, bypass=True) == cart
    reply = await until(lambda: _from_l2(cut_off, user))
    assert reply.cart == cart, "the older copy was overwritten by what the read found"


async def test_the_relay_tells_redis_of_a_change_whose_writer_could_not(
    cut_off: Customer, other: Customer, proxy: Proxy, valkey: ValkeyServer, database: str, namespace: str, tmp_path: object
) -> None:
    user = new_user()
    await cut_off.add(user, item("a"))
    assert lines(await other.cart(user)) == {"a": 1}
    proxy.cut()
    await cut_off.add(user, item("b"))
    assert lines(await other.cart(user)) == {"a": 1}, "as the proto says: until the relay told Redis"
    config = {"redis_nodes": valkey.address, "redis_mode": "single", "postgres_catalog": database, "namespace": namespace}
    async with process("relay", tmp_path, config):  # type: ignore[arg-type]
        await until(lambda: _has(other, user, {"a": 1, "b": 1}))


async def _has(customer: Customer, user: str, wanted: dict[str, int]) -> bool:
    return lines(await customer.cart(user)) == wanted


async def test_a_repeat_elsewhere_is_read_there(cut_off: Customer, other: Customer, proxy: Proxy) -> None:
    """The sidecar that wrote could not tell Redis; the one that is asked again holds the older cart, and must not show it."""
    user, request_id = new_user(), new_request()
    await other.add(user, item("a"))
    await other.cart(user)
    proxy.cut()
    cart = await cut_off.add(user, item("b"), request_id)
    assert await other.add(user, item("b"), request_id) == cart
    assert await other.cart(user) == cart


async def test_a_cart_slides_in_redis_and_stays_in_postgresql(
    valkey: ValkeyServer, database: str, namespace: str, redis: Redis
) -> None:
    clock, user = ManualClock(), new_user()
    async with in_process(_settings(valkey.address, database, namespace), clock=clock) as sidecar:
        customer = Customer(sidecar)
        cart = await customer.add(user, item("a"))
        for _ in range(3):
            clock.advance(6 * DAY)
            reply = await customer.read(user)
            assert (reply.cart, reply.cache.source) == (cart, L2)
            assert 7 * DAY * 1000 < await redis.pttl(cart_key(namespace, user)) <= (7 * DAY + 300) * 1000
        assert reply.cache.age.seconds == 18 * DAY
        clock.advance(7 * DAY + 1)
        reply = await customer.read(user)
        assert (reply.cart, reply.cache.source) == (cart, STORE)
        reply = await until(lambda: _from_l2(customer, user))
        assert reply.cache.age.seconds == 0


async def test_an_older_cart_is_not_filled_in_over_a_newer_one(cut_off: Customer, other: Customer, redis: Redis) -> None:
    user = new_user()
    await other.add(user, item("a"))
    for number in range(20):
        await redis.flushall()
        reading = asyncio.gather(*(customer.cart(user) for customer in (cut_off, other) * 3))
        cart = await other.add(user, item(f"b{number}"))
        await reading
        for customer in (cut_off, other):
            assert await customer.cart(user) == cart


async def test_two_queries_at_most_answer_everybody_who_asks_for_a_cold_cart(
    other: Customer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = new_user()
    cart = await other.add(user, item("a"))
    assert other.sidecar.app is not None
    dataset = inside.dataset(other.sidecar.app, "cart")
    await redis.flushall()
    before, gate, ask = dataset.loader.store_batch.loads, Gate(), inside.load_of(dataset.loader.l2_batch)

    async def held(ids: Sequence[str]) -> Mapping[str, Record]:
        await gate.passed()
        return await ask(ids)

    monkeypatch.setattr(dataset.loader.l2_batch, inside.LOAD, held)
    gate.close()
    readers = [asyncio.create_task(other.cart(user)) for _ in range(200)]
    await until(lambda: dataset.loader.l2_batch.entered - dataset.loader.l2_batch.left == 200)
    gate.open()
    assert await asyncio.gather(*readers) == [cart] * 200
    # Of those whose question Redis was being asked, and of all who came meanwhile: a reader joins nothing that began before it.
    assert dataset.loader.store_batch.loads - before <= 2
