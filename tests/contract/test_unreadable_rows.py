"""One row that cannot be read costs no other: it is left out, counted and logged, and alone it is DATA_LOSS."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.duration_pb2 import Duration

from cache_sidecar.services.session import hash_of
from cache_sidecar.v1 import admin_service_pb2, cart_service_pb2, inventory_service_pb2, product_service_pb2
from cache_sidecar.v1 import session_service_pb2 as sessions
from tests.support.customers import Customer, item, new_request, new_user
from tests.support.databases import run
from tests.support.shop import Open, Shop, refused
from tests.support.stockroom import Stockroom, reserving

TIMES = ["infinity", "-infinity", "10000-01-01 00:00Z", "0001-12-31 23:59Z BC", "294276-01-01Z"]


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as said:
        yield said  # type: ignore[misc]


async def is_lost(call: Any, resource: str) -> None:
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "UNREADABLE_ROW")
    assert refusal.metadata["resource"] == resource


async def unreadable(shop: Shop, dataset: str) -> int:
    reply = await shop.admin.GetStats(admin_service_pb2.GetStatsRequest(dataset=dataset))
    (found,) = [row.unreadable for row in reply.tiers if row.tier == "store"]
    return int(found)


def said_of(log: list[dict[str, Any]], dataset: str) -> list[dict[str, Any]]:
    return [said for said in log if said.get("dataset") == dataset and "unreadable row" in said["event"]]


SPOILT = {
    "products": [
        *(f"update_time = '{time}'" for time in TIMES),
        """attributes = '{"size": 5}'""",
        "attributes = '[1]'",
        "attributes = ('{\"a\": ' || repeat('9', 5000) || '}')::jsonb",
        "categories = '{NULL}'",
    ],
    "carts": [
        *(f"update_time = '{time}'" for time in TIMES if time[0] in "-0"),
        "create_time = 'infinity'",
        "items = '[5]'",
        """items = '[{"product_id": "a"}]'""",
        """items = jsonb_set(items, '{0,quantity}', '"5"')""",
        "items = jsonb_set(items, '{0,quantity}', '99999999999')",
        "items = jsonb_set(items, '{0,options}', '{\"a\": 1}')",
        "items = jsonb_set(items, '{0,price_units}', '1e400')",
    ],
    "sessions": [
        *(f"update_time = '{time}'" for time in TIMES),
        "create_time = '-infinity'",
        "end_time = 'infinity'",
        "use_time = '20000-01-01Z'",
        """attributes = '{"a": null}'""",
    ],
}


@pytest.mark.parametrize("change", SPOILT["products"])
async def test_a_product(open_shop: Open, database: str, change: str, log: list[dict[str, Any]]) -> None:
    async with open_shop() as shop:
        before, spoilt, after = [(await shop.create(f"p{number}")).product_id for number in range(3)]
        await run(database, f"UPDATE cache_sidecar.products SET {change} WHERE product_id = 'p1'")
        await shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="product", ids=[before, spoilt, after]))
        found: list[str] = []
        token = ""
        while not found or token:
            request = product_service_pb2.ListProductsRequest(page_size=1, page_token=token)
            reply = await shop.products.ListProducts(request)
            found += [product.product_id for product in reply.products]
            token = reply.next_page_token
        assert found == [before, after], "also where it ends a page"
        batch = await shop.products.BatchGetProducts(
            product_service_pb2.BatchGetProductsRequest(product_ids=[before, spoilt, after, "none"])
        )
        assert [product.product_id for product in batch.products] == [before, after]
        assert list(batch.missing) == ["none"]
        alone = await shop.products.BatchGetProducts(product_service_pb2.BatchGetProductsRequest(product_ids=[spoilt]))
        assert (list(alone.products), list(alone.missing)) == ([], [])
        for _ in range(3):
            await is_lost(shop.get(spoilt), "product")
        await is_lost(shop.update(spoilt, title="x"), "product")
        assert await unreadable(shop, "product") >= 5
        (said,) = said_of(log, "product")
        assert (said["log_level"], said["since_start"]) == ("error", 1)
        await run(database, "UPDATE cache_sidecar.products SET update_time = now(), attributes = '{}', categories = '{}'")
        assert (await shop.get(spoilt, bypass=True)).product.product_id == spoilt, "mended, it is there again"


@pytest.mark.parametrize("change", SPOILT["carts"])
async def test_a_cart(open_shop: Open, database: str, change: str, log: list[dict[str, Any]]) -> None:
    async with open_shop() as shop:
        customer = Customer(shop.sidecar)
        users = [f"user-{number}" for number in range(4)]
        for user in users:
            await customer.add(user, item("a"))
        await run(database, "UPDATE cache_sidecar.carts SET update_time = '2020-02-02Z'")
        await run(database, f"UPDATE cache_sidecar.carts SET {change} WHERE user_id = ANY('{{user-1,user-2}}')")
        await customer.forget("cart")
        found: list[str] = []
        asked: dict[str, Any] = {"idle_for": Duration(seconds=60), "page_size": 1}
        pages = 0
        while not pages or asked["page_token"]:
            reply = await customer.carts.ListAbandonedCarts(cart_service_pb2.ListAbandonedCartsRequest(**asked))
            found += [cart.user_id for cart in reply.carts]
            asked["page_token"], pages = reply.next_page_token, pages + 1
        assert (found, pages) == (["user-0", "user-3"], 4)
        await is_lost(customer.read("user-1"), "cart")
        await is_lost(customer.add("user-1", item("b")), "cart")
        assert (await customer.cart("user-0", bypass=True)).user_id == "user-0"
        assert await unreadable(shop, "cart") >= 3
        assert [said["log_level"] for said in said_of(log, "cart")] == ["error"]
        assert "user-1" not in str(log), "customers' ids are not for the log"


@pytest.mark.parametrize("change", SPOILT["sessions"])
async def test_a_session(open_shop: Open, database: str, change: str, log: list[dict[str, Any]]) -> None:
    async with open_shop() as shop:
        customer = Customer(shop.sidecar)
        ids = [await customer.create("ann") for _ in range(3)]
        await run(database, f"UPDATE cache_sidecar.sessions SET {change} WHERE session_hash = %s", [hash_of(ids[1])])
        await customer.forget("session")
        found = 0
        token = None
        while token != "":
            reply = await customer.sessions.ListUserSessions(
                sessions.ListUserSessionsRequest(user_id="ann", page_size=1, page_token=token or "")
            )
            found, token = found + len(reply.sessions), reply.next_page_token
        assert found == 2
        assert [(await customer.session(id)).session.user_id for id in (ids[0], ids[2])] == ["ann", "ann"]
        await is_lost(customer.session(ids[1]), "session")
        request = sessions.RotateSessionRequest(session_id=ids[1], request_id=new_request())
        await is_lost(customer.sessions.RotateSession(request), "session")
        assert [said["log_level"] for said in said_of(log, "session")] == ["error"]
        assert await customer.log_out_everywhere("ann") == 3, "it can be ended all the same"


async def test_never_is_a_time(open_shop: Open, database: str) -> None:
    """A session that a shop's own program lets end at the last moment there is, used at the same."""
    async with open_shop() as shop:
        customer = Customer(shop.sidecar)
        id = await customer.create("ann")
        last = "9999-12-31 23:59:59.999999Z"
        await run(database, f"UPDATE cache_sidecar.sessions SET end_time = '{last}', use_time = '{last}'")
        await customer.forget("session")
        for _ in range(2):
            session = (await customer.session(id)).session
            assert session.end_time.ToDatetime().year == session.expire_time.ToDatetime().year == 9999
        listed = await customer.sessions.ListUserSessions(sessions.ListUserSessionsRequest(user_id="ann"))
        assert len(listed.sessions) == 1


async def test_stock(open_shop: Open, database: str, log: list[dict[str, Any]]) -> None:
    async with open_shop() as shop:
        stock = Stockroom(shop.channel)
        for id in ("a", "b", "c"):
            await stock.set(id, 10, bucket_count=2)
        watch = stock.calls.WatchInventory(inventory_service_pb2.WatchInventoryRequest(product_ids=["a", "b", "c"]))
        start, *first = [await watch.read() for _ in range(4)]
        assert not start.HasField("inventory")
        assert {state.product_id for state in first} == {"a", "b", "c"}
        change = "UPDATE cache_sidecar.inventory SET update_time = 'infinity' WHERE product_id = 'b' AND bucket = 1"
        await run(database, change)
        await shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="inventory", ids=["a", "b", "c"]))
        batch = await stock.calls.BatchGetInventory(
            inventory_service_pb2.BatchGetInventoryRequest(product_ids=["a", "b", "c", "none"])
        )
        assert [one.product_id for one in batch.inventories] == ["a", "c"], "a part of b would pass for the whole"
        assert list(batch.missing) == ["none"]
        await is_lost(stock.read("b"), "inventory")
        await is_lost(stock.calls.ReserveInventory(reserving({"a": 1, "b": 1})), "inventory")
        await stock.reserve({"a": 1})
        await stock.set("c", 11)
        async with asyncio.timeout(20):
            news = set()
            while news < {("a", 9), ("c", 11)}:
                state = await watch.read()
                news.add((state.product_id, state.inventory.available))
        watch.cancel()
        assert [said["log_level"] for said in said_of(log, "inventory")] == ["error"]


async def test_a_reservation(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        stock, user = Stockroom(shop.channel), new_user()
        await stock.set("a", 10)
        first, spoilt, last = [(await stock.reserve({"a": 1}, user_id=user)).reservation_id for _ in range(3)]
        await run(
            database, "UPDATE cache_sidecar.reservations SET create_time = '-infinity' WHERE reservation_id = %s", [spoilt]
        )
        request = inventory_service_pb2.ListReservationsRequest(user_id=user)
        listed = await stock.calls.ListReservations(request)
        assert [one.reservation_id for one in listed.reservations] == [last, first]
        await is_lost(
            stock.calls.GetReservation(inventory_service_pb2.GetReservationRequest(reservation_id=spoilt)), "reservation"
        )
