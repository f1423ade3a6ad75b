"""Replies are no larger than clients take: 4 MiB, unless `max_message_bytes` says otherwise."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc import StatusCode
from psycopg.types.json import Jsonb

from cache_sidecar.store.product import ProductStore
from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1 import session_service_pb2 as sessions
from cache_sidecar.v1.cart_pb2 import Cart
from cache_sidecar.v1.inventory_service_pb2 import BatchGetInventoryRequest, ListReservationsRequest
from tests.support.customers import Customer, item
from tests.support.shop import L1, STORE, Open, Refusal, Shop, refused
from tests.support.stockroom import Stockroom
from tests.support.until import DEADLINE, until

LIMIT = 4 << 20
SMALL = 20_000
"A limit that is reached sooner."
LONG = "x" * 16_000


async def insert(database: str, count: int, *, description: str = LONG, prefix: str = "p") -> list[str]:
    """Creates products, as another program would, and returns their ids in order."""
    ids = [f"{prefix}{number:04}" for number in range(count)]
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            """INSERT INTO cache_sidecar.products (product_id, title, description, price_units, currency_code)
               SELECT id, 'a mug', %s, 1, 'EUR' FROM unnest(%s::text[]) AS id""",
            [description, ids],
        )
    return ids


async def pages(method: Any, request: Any, field: str) -> list[list[Any]]:
    """Returns the pages of a listing, each of which fits into what the client takes."""
    found = []
    while True:
        reply = await method(request)
        found.append(list(getattr(reply, field)))
        if not reply.next_page_token:
            return found
        request.page_token = reply.next_page_token


def is_too_large(refusal: Refusal, limit: int) -> bool:
    """Whether a call was refused for the size of its reply, in a way that nobody takes for overload."""
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "REPLY_TOO_LARGE")
    assert refusal.retry_after is None
    assert refusal.metadata["limit"] == str(limit)
    return int(refusal.metadata["size"]) > limit


async def test_a_page_of_products_ends_early(open_shop: Open, database: str) -> None:
    ids = await insert(database, 300)
    async with open_shop() as shop:
        found = await pages(shop.products.ListProducts, pb.ListProductsRequest(page_size=300), "products")
    assert [product.product_id for page in found for product in page] == ids
    sizes = [sum(product.ByteSize() for product in page) for page in found]
    assert len(found) == 2
    assert max(sizes) > 0.95 * LIMIT, "about as much as fits"


async def test_what_postgresql_sends_for_a_page_is_bounded(open_shop: Open, database: str) -> None:
    await insert(database, 1000)
    async with open_shop() as shop:
        page = await ProductStore(shop.app.store("catalog").database).page(after="", category="", limit=1000, max_bytes=LIMIT)
    assert page.there == 1000
    assert sum(len(row.description) for row in page.rows) <= LIMIT + len(LONG)
    assert len(page.rows) > 200


async def test_a_batch_of_too_much_is_refused_from_every_tier(open_shop: Open, database: str) -> None:
    ids = await insert(database, 300)
    async with open_shop() as shop:
        for _ in range(3):
            assert is_too_large(await refused(batch(shop, ids)), LIMIT)
        for half in (ids[:150], ids[150:]):
            assert [product.product_id for product in (await batch(shop, half)).products] == half
        await until(lambda: all(shop.remembers(id) for id in ids))
        reply = await batch(shop, ids[:200])
        assert (reply.cache.source, len(reply.products)) == (L1, 200)
        assert is_too_large(await refused(batch(shop, ids)), LIMIT)
        assert is_too_large(await refused(batch(shop, ids, bypass=True)), LIMIT)


async def batch(shop: Shop, ids: list[str], **options: Any) -> pb.BatchGetProductsResponse:
    reply: pb.BatchGetProductsResponse = await shop.products.BatchGetProducts(
        pb.BatchGetProductsRequest(product_ids=ids, options=options or None)
    )
    return reply


async def test_the_largest_batch_that_fits_is_answered(open_shop: Open, database: str) -> None:
    ids = await insert(database, 40, description="x" * 600)
    async with open_shop(max_message_bytes=SMALL) as shop:
        for bypass in (True, False, False):
            sizes = {}
            for count in range(1, 41):
                try:
                    sizes[count] = (await batch(shop, ids[:count], **({"bypass": True} if bypass else {}))).ByteSize()
                except grpc.aio.AioRpcError as error:
                    assert is_too_large(await refused(_raise(error)), SMALL)
            most = max(sizes)
            assert most < 40
            assert list(sizes) == list(range(1, most + 1))
            assert sizes[most] <= SMALL < sizes[most] + sizes[1]


async def _raise(error: Exception) -> None:
    raise error


async def test_an_id_that_is_named_often_is_answered_once(open_shop: Open, database: str) -> None:
    first, second = await insert(database, 2)
    many = [first] * 250 + ["nobody"] * 100 + [second, first, "nobody"]
    async with open_shop() as shop:
        await Stockroom(shop.channel).set(first, 5)
        for source in (STORE, STORE, L1):
            # What is not there is not kept in memory for long.
            asked = [id for id in many if source != L1 or id != "nobody"]
            reply = await batch(shop, asked, **({"bypass": True} if source == STORE else {}))
            assert [product.product_id for product in reply.products] == [first, second]
            assert list(reply.missing) == (["nobody"] if source == STORE else [])
            assert (len(reply.product_caches), reply.cache.source) == (2, source)
            await until(lambda: shop.remembers(first) and shop.remembers(second))
        stock = await Stockroom(shop.channel).calls.BatchGetInventory(BatchGetInventoryRequest(product_ids=many))
    assert [found.product_id for found in stock.inventories] == [first]
    assert list(stock.missing) == ["nobody", second]
    assert len(stock.inventory_caches) == 1


async def test_a_product_that_is_too_large_by_itself_is_refused_and_left_out_of_pages(open_shop: Open, database: str) -> None:
    await insert(database, 3, description="fits")
    await insert(database, 1, description="x" * SMALL, prefix="p0001-large")
    async with open_shop(max_message_bytes=SMALL) as shop:
        for _ in range(3):
            assert is_too_large(await refused(shop.get("p0001-large0000")), SMALL)
        found = await pages(shop.products.ListProducts, pb.ListProductsRequest(page_size=2), "products")
        assert [product.product_id for page in found for product in page] == ["p0000", "p0001", "p0002"]


async def test_what_could_not_be_read_cannot_be_stored(open_shop: Open) -> None:
    async with open_shop(max_message_bytes=SMALL) as shop:
        # The request fits, and so does its reply, but not what GetProduct would add.
        refusal = await refused(shop.create("a", description="x" * (16_384), attributes={"k": "x" * 1024, "l": "x" * 1024}))
        assert is_too_large(refusal, SMALL)
        assert (await refused(shop.get("a"))).code == StatusCode.NOT_FOUND
        await shop.create("a", description="x" * 16_000)
        assert is_too_large(await refused(shop.update("a", attributes={f"k{n}": "x" * 1000 for n in range(4)})), SMALL)
        assert not (await shop.get("a", bypass=True)).product.attributes


@pytest.mark.parametrize("request_id", ["", str(uuid4())], ids=["without", "with"])
async def test_a_cart_never_grows_out_of_reach(open_shop: Open, request_id: str) -> None:
    async with open_shop(max_message_bytes=SMALL) as shop:
        customer = Customer(shop.sidecar)
        options = {f"k{number}": "x" * 256 for number in range(8)}
        fitting = 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            for fitting in range(20):
                add = [{"add_item": item(f"p{fitting}", **options)}]
                await customer.carts.ApplyCartChanges(
                    carts.ApplyCartChangesRequest(user_id="u", changes=add, request_id=str(uuid4()))  # type: ignore[arg-type]
                )
        assert is_too_large(await refused(_raise(caught.value)), SMALL)
        assert fitting > 5
        cart = await customer.cart("u", bypass=True)
        assert len(cart.items) == fitting
        refusal = await refused(customer.replace("u", *cart.items, item("more", **options), request_id=request_id))
        assert refusal.reason == "REPLY_TOO_LARGE" or refusal.code == StatusCode.RESOURCE_EXHAUSTED  # the request is as large
        assert await customer.cart("u", bypass=True) == cart


async def test_pages_of_carts_sessions_and_reservations_end_early(open_shop: Open, database: str) -> None:
    async with open_shop(max_message_bytes=SMALL) as shop:
        customer, room = Customer(shop.sidecar), Stockroom(shop.channel)
        ids = []
        for number in range(12):
            await customer.add(f"u{number:02}", item("p", **{f"k{n}": "x" * 256 for n in range(8)}))
            ids.append(await customer.create("u", **{f"k{n}": "x" * 1000 for n in range(3)}))
        names = [f"{'p' * 100}{number:02}" for number in range(30)]
        await asyncio.gather(*(room.set(name, 100) for name in names))
        made = [(await room.reserve(dict.fromkeys(names, 1))).reservation_id for _ in range(10)]
        await _age(database)
        abandoned = carts.ListAbandonedCartsRequest(idle_for={"seconds": 60})  # type: ignore[arg-type]
        found = await pages(customer.carts.ListAbandonedCarts, abandoned, "carts")
        assert [cart.user_id for page in found for cart in page] == [f"u{number:02}" for number in range(12)]
        assert len(found) > 1
        found = await pages(customer.sessions.ListUserSessions, sessions.ListUserSessionsRequest(user_id="u"), "sessions")
        assert sum(map(len, found)) == 12 == len(ids)
        assert len(found) > 1
        found = await pages(room.calls.ListReservations, ListReservationsRequest(), "reservations")
        assert [one.reservation_id for page in found for one in page] == made[::-1]
        assert len(found) > 1


async def _age(database: str) -> None:
    """Makes every cart an hour old, one older than the next."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            """UPDATE cache_sidecar.carts
               SET update_time = now() - interval '1 hour' + right(user_id, 2)::int * interval '1 second'"""
        )


async def test_a_watch_of_what_is_too_large_ends_and_says_why(open_shop: Open, database: str) -> None:
    async with open_shop(max_message_bytes=SMALL) as shop:
        customer = Customer(shop.sidecar)
        await customer.add("u", item("p"))
        stream = customer.carts.WatchCart(carts.WatchCartRequest(user_id="u"), timeout=DEADLINE)
        assert len((await stream.read()).cart.items) == 1
        line = {"product_id": "p", "quantity": 1, "price_units": 1, "price_nanos": 0, "currency_code": "EUR"}
        lines = [line | {"options": {"k": "x" * 200, "n": str(n)}} for n in range(100)]
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            await connection.execute(
                "UPDATE cache_sidecar.carts SET items = %s, update_time = %s", [Jsonb(lines), datetime.now(UTC)]
            )
        assert is_too_large(await refused(stream.read()), SMALL)
        assert is_too_large(await refused(customer.cart("u", bypass=True)), SMALL)
        # There is a way out.
        await customer.replace("u")
        assert await customer.cart("u") == Cart(user_id="u", **_kept(await customer.cart("u", bypass=True)))


def _kept(cart: Cart) -> dict[str, Any]:
    return {"create_time": cart.create_time, "update_time": cart.update_time, "etag": cart.etag}
