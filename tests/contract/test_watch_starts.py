"""How each watch begins: with its headers at once, and with a message that says at which version it starts."""

import asyncio
from typing import Any

import psycopg
import pytest
from google.protobuf.message import Message

from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1 import inventory_service_pb2 as inventory
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.test_inventory_watch import watching as watching_stock
from tests.contract.test_product_watch import CREATED, DELETED, watching
from tests.support.customers import Customer, item
from tests.support.shop import Open, Shop, new_id
from tests.support.stockroom import Stockroom
from tests.support.until import DEADLINE, until

# Each with the table that its first message waits for.
WATCHES = {
    "ProductService/WatchProducts": (pb.WatchProductsRequest(), "outbox"),
    "CartService/WatchCart": (carts.WatchCartRequest(user_id="u"), "outbox"),
    "InventoryService/WatchInventory": (inventory.WatchInventoryRequest(categories=["c"]), "inventory"),
}


@pytest.mark.parametrize("method", WATCHES)
async def test_headers_come_before_there_is_anything_to_tell(open_shop: Open, database: str, method: str) -> None:
    request, table = WATCHES[method]
    async with open_shop(postgres_timeout=60.0) as shop:
        async with await psycopg.AsyncConnection.connect(database) as blocker:
            await blocker.execute(f"LOCK TABLE cache_sidecar.{table} IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type]
            call = stream(shop, method, request)
            first = asyncio.ensure_future(call.read())
            await asyncio.wait_for(call.initial_metadata(), DEADLINE)
            assert not first.done()
        assert isinstance(await first, bytes)
        call.cancel()


def stream(shop: Shop, method: str, request: Message) -> Any:
    return shop.channel.unary_stream(f"/cache_sidecar.v1.{method}")(request.SerializeToString(), timeout=3 * DEADLINE)


async def test_a_watch_of_products_can_be_resumed_where_it_started(open_shop: Open) -> None:
    async with open_shop() as shop:
        async with watching(shop) as first:
            assert await first.start() == 0, "nothing was ever changed"
        await shop.create("a")
        newest = int((await shop.update("a", title="b")).etag, 16)
        async with watching(shop) as second:
            # That of the list that the product is in, which changed after it.
            started = await second.start()
            assert started > newest
        # Nobody watches meanwhile.
        await shop.delete("a")
        await shop.create("b")
        async with watching(shop, started) as resumed:
            assert await resumed.told(2) == [("a", DELETED), ("b", CREATED)]
            assert await resumed.start() == started


async def test_a_copy_that_is_listed_once_the_watch_started_lacks_nothing(open_shop: Open) -> None:
    """As the service's comment says how to: changes go on all the while."""
    async with open_shop() as shop, open_shop() as other:
        done = asyncio.Event()
        writing = asyncio.create_task(write(other, done))
        async with watching(shop) as watch:
            await watch.start()
            copy: dict[str, int] = {}
            request = pb.ListProductsRequest(page_size=3, include_inactive=True)
            while True:
                page = await shop.products.ListProducts(request)
                copy |= {product.product_id: int(product.etag, 16) for product in page.products}
                request.page_token = page.next_page_token
                if not page.next_page_token:
                    break
            done.set()
            wanted = await writing
            await until(lambda: watch.changes and watch.changes[-1].product_id == "last")
            for change in watch.changes:
                if change.version > copy.get(change.product_id, 0):
                    copy[change.product_id] = change.version
                    if change.kind == DELETED:
                        del copy[change.product_id]
        assert copy == wanted


async def write(shop: Shop, done: asyncio.Event) -> dict[str, int]:
    """Changes products until it is told that it is done, and once more; returns the versions of those that there are."""
    versions: dict[str, int] = {}
    number = 0
    while not done.is_set() or number < 30:
        id = f"p{number % 10}"
        if number % 7 == 6 and id in versions:
            await shop.delete(id)
            del versions[id]
        elif id in versions:
            versions[id] = int((await shop.update(id, title=str(number))).etag, 16)
        else:
            versions[id] = int((await shop.create(id)).etag, 16)
        number += 1
    versions["last"] = int((await shop.create("last")).etag, 16)
    return versions


async def test_a_watch_of_a_cart_starts_with_the_cart_and_its_version(open_shop: Open) -> None:
    async with open_shop() as shop:
        customer = Customer(shop.sidecar)
        for _ in range(2):
            call = customer.carts.WatchCart(carts.WatchCartRequest(user_id="u"), timeout=DEADLINE)
            start = await call.read()
            cart = await customer.read("u")
            assert (start.cart, start.cache.version) == (cart.cart, cart.cache.version)
            call.cancel()
            await customer.add("u", item("a"))


async def test_a_watch_of_stock_starts_with_the_newest_version_of_what_follows(shop: Shop) -> None:
    room, (first, second, none) = Stockroom(shop.channel), (new_id() for _ in range(3))
    for id in (first, second):
        await room.set(id, 5)
    async with watching_stock(room, product_ids=[first, second, none]) as watch:
        await until(lambda: len(watch.seen) == 3)
        assert watch.started is not None
        assert watch.started.cache.version == max(state.cache.version for state in watch.seen) > 0
        assert not watch.started.HasField("inventory")
        await room.adjust(second, 1)
        await until(lambda: len(watch.seen) == 4)
        assert watch.seen[3].cache.version > watch.started.cache.version


async def test_a_watch_of_stock_starts_though_there_is_none(shop: Shop) -> None:
    category = new_id("category")
    async with watching_stock(Stockroom(shop.channel), categories=[category]) as watch:
        await until(lambda: watch.started)
        assert watch.started == inventory.WatchInventoryResponse()
        id = (await shop.create(categories=[category])).product_id
        await Stockroom(shop.channel).set(id, 1)
        await watch.until_last(id, (1, 0))
