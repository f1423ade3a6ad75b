"""WatchCart and ListAbandonedCarts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from google.protobuf.duration_pb2 import Duration
from psycopg import sql

from cache_sidecar.store.outbox import Change
from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart
from tests.support import inside
from tests.support.customers import STORE, Customer, item, lines, new_request, new_user
from tests.support.shop import Open
from tests.support.until import until


async def _next(stream: AsyncIterator[pb.WatchCartResponse]) -> Cart:
    async with asyncio.timeout(10):
        return (await anext(aiter(stream))).cart


async def test_two_tabs_see_the_same_cart(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user = new_user()
    streams = [first.watch(user), second.watch(user)]
    for stream in streams:
        assert await _next(stream) == Cart(user_id=user, etag="0")
    for customer, product in ((first, "a"), (second, "b")):
        cart = await customer.add(user, item(product))
        for stream in streams:
            assert await _next(stream) == cart
    for stream in streams:
        stream.cancel()  # type: ignore[attr-defined]


async def test_a_watch_is_of_one_cart(customers: tuple[Customer, Customer]) -> None:
    first, second = customers
    user, other = new_user(), new_user()
    stream = first.watch(user)
    await _next(stream)
    await second.add(other, item("a"))
    cart = await second.add(user, item("b"))
    assert await _next(stream) == cart
    stream.cancel()  # type: ignore[attr-defined]


async def test_a_change_in_plain_sql_is_seen(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        customer, user = Customer(shop.sidecar), new_user()
        await customer.add(user, item("a"))
        stream = customer.watch(user)
        assert lines(await _next(stream)) == {"a": 1}
        await _execute(database, "UPDATE cache_sidecar.carts SET items = '[]' WHERE user_id = %s", user)
        assert lines(await _next(stream)) == {}
        stream.cancel()  # type: ignore[attr-defined]


async def test_a_slow_reader_gets_the_newest_cart(open_shop: Open) -> None:
    """What happens while the service cannot send is one change to the watcher, however much it was."""
    async with open_shop() as shop:
        customer, user = Customer(shop.sidecar), new_user()
        assert shop.sidecar.app is not None
        changes = shop.sidecar.app.store("catalog").changes
        versions = changes.versions("cart", user)
        assert await anext(versions) == 0
        for quantity in range(1, 21):
            cart = await customer.replace(user, item("a", quantity))
        newest = int(cart.etag, 16)
        (watcher,) = inside.watchers_of(changes)
        await until(lambda: getattr(watcher, "version", 0) == newest)
        assert await anext(versions) == newest
        assert not watcher.has_news.is_set()  # type: ignore[union-attr]
        await versions.aclose()  # type: ignore[attr-defined]
        assert not inside.watchers_of(changes)


async def test_a_watcher_of_carts_holds_nothing_of_other_changes(open_shop: Open) -> None:
    async with open_shop() as shop:
        assert shop.sidecar.app is not None
        changes = shop.sidecar.app.store("catalog").changes
        versions = changes.versions("cart", "mine")
        await anext(versions)
        for number in range(5000):
            inside.pass_on(changes, Change(number, number, "cart", f"other-{number}", "updated", None))  # type: ignore[arg-type]
        inside.pass_on(changes, Change(1, 7, "product", "mine", "updated", None))  # type: ignore[arg-type]
        inside.pass_on(changes, Change(2, 8, "cart", "mine", "updated", None))  # type: ignore[arg-type]
        assert await anext(versions) == 8
        await versions.aclose()  # type: ignore[attr-defined]


async def test_carts_left_alone_are_listed_the_longest_first(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        customer = Customer(shop.sidecar)
        users = [new_user() for _ in range(7)]
        for number, user in enumerate(users):
            await customer.replace(user, item("a", number + 1))
            await _age(database, user, hours=number)
        empty = new_user()
        await customer.replace(empty, item("a"))
        await customer.carts.ClearCart(pb.ClearCartRequest(user_id=empty))
        await _age(database, empty, hours=9)
        found, pages = await _abandoned(customer, hours=2, page_size=2)
        assert [cart.user_id for cart in found] == users[:1:-1]
        assert pages == 3
        assert [lines(cart) for cart in found] == [{"a": number} for number in (7, 6, 5, 4, 3)]
        await customer.cart(users[6])  # reading is no change
        assert len((await _abandoned(customer, hours=2, page_size=0))[0]) == 5
        await customer.add(users[6], item("b"))
        assert len((await _abandoned(customer, hours=2, page_size=0))[0]) == 4


async def test_a_page_of_abandoned_carts_may_end_between_carts_of_one_moment(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        customer = Customer(shop.sidecar)
        users = sorted(f"{{ {number}" for number in range(5))
        for user in users:
            await customer.replace(user, item("a"))
        await _execute(database, "UPDATE cache_sidecar.carts SET update_time = '2020-02-02 02:02:02.000002Z'")
        found, pages = await _abandoned(customer, hours=1, page_size=2)
        assert [cart.user_id for cart in found] == users
        assert pages == 3


async def test_a_token_of_another_listing_is_refused(customers: tuple[Customer, Customer]) -> None:
    from tests.support.shop import refused  # noqa: PLC0415

    customer = customers[0]
    for _ in range(2):
        await customer.add(new_user(), item("a"), new_request())
    asked: dict[str, Any] = {"idle_for": Duration(seconds=1), "page_size": 1}
    request = pb.ListAbandonedCartsRequest(**asked)
    reply = await until(lambda: _more(customer, request))
    asked |= {"idle_for": Duration(seconds=2), "page_token": reply.next_page_token}
    refusal = await refused(customer.carts.ListAbandonedCarts(pb.ListAbandonedCartsRequest(**asked)))
    assert set(refusal.violations) == {"page_token"}


async def _more(customer: Customer, request: pb.ListAbandonedCartsRequest) -> pb.ListAbandonedCartsResponse | None:
    reply: pb.ListAbandonedCartsResponse = await customer.carts.ListAbandonedCarts(request)
    return reply if reply.next_page_token else None


async def _abandoned(customer: Customer, *, hours: int, page_size: int) -> tuple[list[Cart], int]:
    found, token, pages = [], "", 0
    while True:
        # The carts were made just now, so that none is at the edge.
        request = pb.ListAbandonedCartsRequest(
            idle_for=Duration(seconds=hours * 3600 - 1800), page_size=page_size, page_token=token
        )
        reply = await customer.carts.ListAbandonedCarts(request)
        assert reply.cache.source == STORE
        found += reply.carts
        pages += 1
        token = reply.next_page_token
        if not token:
            return found, pages


async def _age(dsn: str, user: str, *, hours: int) -> None:
    change = "UPDATE cache_sidecar.carts SET update_time = now() - make_interval(hours => %s) WHERE user_id = %s"
    await _execute(dsn, change, hours, user)


async def _execute(dsn: str, text: str, *parameters: object) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(sql.SQL(text), parameters)  # type: ignore[arg-type]
