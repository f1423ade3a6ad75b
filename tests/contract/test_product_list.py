"""ListProducts: what is on the pages of the catalogue. How they are cached is in `test_product_list_cached.py`."""

import base64
import json
from typing import Any

import grpc
import pytest
from google.type.money_pb2 import Money
from grpc import StatusCode

from cache_sidecar.services.shared import pages as page_tokens
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import ReadOptions
from tests.support.databases import run
from tests.support.shop import STORE, Open, Shop, new_id, refusal, refused


async def pages(shop: Shop, *, size: int, category: str = "", **fields: Any) -> list[list[str]]:
    """Returns the product_ids of every page."""
    request, found = pb.ListProductsRequest(page_size=size, category=category, **fields), []
    while True:
        reply = await shop.products.ListProducts(request)
        found.append([product.product_id for product in reply.products])
        if not reply.next_page_token:
            return found
        request.page_token = reply.next_page_token


async def fill(shop: Shop, count: int, category: str) -> list[str]:
    """Creates products of a category and returns their ids in order."""
    return sorted([(await shop.create(categories=[category, "all"])).product_id for _ in range(count)])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 1000])
async def test_pages_hold_everything_once_and_in_order(shop: Shop, size: int) -> None:
    category = new_id("category")
    ids = await fill(shop, 7, category)
    found = await pages(shop, size=size, category=category)
    assert sum(found, []) == ids
    assert all(len(page) == size for page in found[:-1])
    assert found[-1], "no page is empty, unless nothing is there"


async def test_ids_are_ordered_by_their_bytes(open_shop: Open) -> None:
    async with open_shop() as shop:
        ids = ["a", "B", "é", "Z", "_", "1", "10", "2", "a b", "aB", "日本"]
        for id in ids:
            await shop.create(id)
        assert sum(await pages(shop, size=3), []) == sorted(ids, key=str.encode)


async def test_the_default_is_50_and_the_most_1000(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        assert await pages(shop, size=0) == [[]]
        await _insert(database, 1005)
        for fields in ({"options": ReadOptions(bypass=True)}, {}, {"include_inactive": True}):
            assert [len(page) for page in await pages(shop, size=0, **fields)] == [50] * 20 + [5]
            assert [len(page) for page in await pages(shop, size=2**31 - 1, **fields)] == [1000, 5]


async def test_pages_are_stable_while_products_come_and_go(shop: Shop) -> None:
    category = new_id("category")
    ids = await fill(shop, 6, category)
    first = await shop.products.ListProducts(pb.ListProductsRequest(page_size=3, category=category))
    await shop.create(ids[0] + "-new", categories=[category])  # behind the page: not seen any more
    await shop.delete(ids[2])  # the very one the token names
    await shop.delete(ids[3])
    late = await shop.create(ids[4] + "-new", categories=[category])
    rest = await shop.products.ListProducts(
        pb.ListProductsRequest(page_size=10, category=category, page_token=first.next_page_token)
    )
    assert [product.product_id for product in rest.products] == [ids[4], late.product_id, ids[5]]


async def test_a_category_is_matched_exactly(shop: Shop) -> None:
    category = new_id("Category %_{}'é")
    (id,) = await fill(shop, 1, category)
    assert await pages(shop, size=5, category=category) == [[id]]
    for other in (category.lower(), category[:-1], "%", category + " "):
        assert await pages(shop, size=5, category=other) == [[]]
    await shop.update(id, "categories", categories=["elsewhere"])
    assert await pages(shop, size=5, category=category) == [[]]


async def test_a_page_shows_what_was_just_written_and_says_so(shop: Shop) -> None:
    category = new_id("category")
    (id,) = await fill(shop, 1, category)
    await shop.get(id)
    updated = await shop.update(id, title="fresh")
    reply = await shop.products.ListProducts(pb.ListProductsRequest(category=category))
    assert list(reply.products) == [updated]
    assert (reply.cache.source, reply.cache.stale) == (STORE, False)
    assert reply.cache.version == int(updated.etag, 16)
    assert (await shop.products.ListProducts(pb.ListProductsRequest(category=new_id()))).cache.version == 0


async def test_a_token_of_another_listing_is_refused(shop: Shop) -> None:
    category = new_id("category")
    await fill(shop, 2, category)
    reply = await shop.products.ListProducts(pb.ListProductsRequest(page_size=1, category=category))
    for other in ("", "all", category + "x"):
        request = pb.ListProductsRequest(category=other, page_token=reply.next_page_token)
        refusal = await refused(shop.products.ListProducts(request))
        assert refusal.code == StatusCode.INVALID_ARGUMENT
        assert set(refusal.violations) == {"page_token"}


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


MADE_UP = {
    "no base64": "!!!!",
    "cut": _encoded(["a", ""])[:-3],
    "whitespace": "\n",
    "NUL": "\x00",
    "no JSON": base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    "a number": _encoded(7),
    "an object": _encoded({"a": ""}),
    "too few": _encoded(["a"]),
    "too many": _encoded(["a", "", ""]),
    "numbers": _encoded([1, ""]),
    "NUL inside": _encoded(["a\x00b", ""]),
    "a lone surrogate": _encoded(["\ud800", ""]),
    "deep": base64.urlsafe_b64encode(b"[" * 700).decode(),
    "a huge number": base64.urlsafe_b64encode(b"[" + b"9" * 700 + b',""]').decode(),
    "not a number": base64.urlsafe_b64encode(b'[NaN,""]').decode(),
    "not ASCII": "é",
    "long": "A" * 2049,
}


@pytest.mark.parametrize("token", MADE_UP.values(), ids=MADE_UP.keys())
async def test_a_token_that_was_made_up_is_refused(shop: Shop, token: str) -> None:
    refusal = await refused(shop.products.ListProducts(pb.ListProductsRequest(page_token=token)))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {"page_token"}


async def test_a_token_fits_into_a_request_whatever_it_says(shop: Shop) -> None:
    category = "\U0001f600" * 128
    for start in "ab":
        await shop.create(start + "\U0001f601" * 127, categories=[category])
    found = await pages(shop, size=1, category=category)
    assert [len(page) for page in found] == [1, 1]


ORDERS = {
    pb.PRODUCT_ORDER_UNSPECIFIED: "abcdef",
    pb.PRODUCT_ORDER_PRODUCT_ID: "abcdef",
    pb.PRODUCT_ORDER_TITLE: "cfbeda",
    pb.PRODUCT_ORDER_PRICE: "facedb",
    pb.PRODUCT_ORDER_NEWEST: "fedcba",
    pb.PRODUCT_ORDER_RANK: "ebfacd",
}


@pytest.mark.parametrize("order", ORDERS, ids=map(pb.ProductOrder.Name, ORDERS))
@pytest.mark.parametrize("size", [1, 4])
async def test_products_are_in_the_order_requested(open_shop: Open, database: str, order: pb.ProductOrder, size: int) -> None:
    async with open_shop() as shop:
        for id, title, units, nanos in [
            ("a", "Z" * 99 + "\x01\U0001f600" + "Z", 2, 0),
            ("b", "K", 5, 100_000_000),
            ("c", "A", 2, 0),
            ("d", 'L "%_', 5, 2),
            ("e", "K", 5, 1),
            ("f", "B", 0, 1),
        ]:
            price = Money(units=units, nanos=nanos, currency_code="EUR")
            await shop.create(id, title=title, price=price, categories=["x"])
        await shop.create("off", active=False, categories=["x"])
        await run(database, RANKS)
        fields = {"order": order, "options": ReadOptions(bypass=True)}
        for category in ("", "x"):
            found = await pages(shop, size=size, category=category, **fields)
            assert "".join(sum(found, [])) == ORDERS[order]


RANKS = """
    UPDATE cache_sidecar.products SET rank = CASE product_id
        WHEN 'e' THEN '-Infinity' WHEN 'b' THEN -1.5 WHEN 'f' THEN 1e300 WHEN 'a' THEN 'Infinity' WHEN 'c' THEN 'NaN' END"""


@pytest.mark.parametrize("order", set(ORDERS) - {pb.PRODUCT_ORDER_UNSPECIFIED, pb.PRODUCT_ORDER_PRODUCT_ID})
async def test_a_place_in_an_order_that_was_made_up_is_refused_or_a_page(shop: Shop, order: pb.ProductOrder) -> None:
    listing = f"c\x00{pb.ProductOrder.Name(order).removeprefix('PRODUCT_ORDER_').lower()}"
    for place in [
        "",
        "a",
        "1",
        "1 2",
        "3 1.5",
        "3 inf",
        "3 nan",
        "5 1e999",
        "3 1_0p",
        "1 ٣p",
        "9 p",
        "-1 p",
        "00 p",
        "0 p",
        "20 " + "9" * 20,
    ]:
        request = pb.ListProductsRequest(category="c", order=order, page_token=page_tokens.token(place, listing))
        try:
            await shop.products.ListProducts(request)
        except grpc.aio.AioRpcError as error:
            assert set(refusal(error).violations) == {"page_token"}, place


async def test_inactive_products_are_listed_on_request(shop: Shop) -> None:
    category = new_id("category")
    active = await shop.create(categories=[category])
    inactive = await shop.create(categories=[category], active=False)
    assert await pages(shop, size=5, category=category) == [[active.product_id]]
    both = sorted([active.product_id, inactive.product_id])
    assert sum(await pages(shop, size=1, category=category, include_inactive=True), []) == both
    await shop.update(inactive.product_id, "active", active=True)
    assert await pages(shop, size=5, category=category) == [both]
    await shop.update(active.product_id, "active", active=False)
    assert await pages(shop, size=5, category=category) == [[inactive.product_id]]
    refusal = await refused(
        shop.products.ListProducts(pb.ListProductsRequest(include_inactive=True, order=pb.PRODUCT_ORDER_TITLE))
    )
    assert set(refusal.violations) == {"order"}


async def test_categories_are_trees_with_counts(open_shop: Open) -> None:
    async with open_shop() as shop:
        for id, categories in {"a": ["home/kitchen", "home"], "b": ["home/kitchen/mugs"], "c": ["home-office"]}.items():
            await shop.create(id, categories=categories)
        await shop.create("d", categories=["home/garden"], active=False)
        reply = await shop.products.GetCategories(pb.GetCategoriesRequest())
        assert [_tree(one) for one in reply.categories] == [
            ("home", 1, 2, [("home/kitchen", 1, 2, [("home/kitchen/mugs", 1, 1, [])])]),
            ("home-office", 1, 1, []),
        ]
        assert reply.cache.source == STORE
        await shop.update("d", "active", active=True)
        await shop.update("c", title="same place")
        reply = await shop.products.GetCategories(pb.GetCategoriesRequest())
        assert [_tree(one)[:3] for one in reply.categories[0].subcategories] == [("home/garden", 1, 1), ("home/kitchen", 1, 2)]


def _tree(one: pb.Category) -> tuple[str, int, int, list[Any]]:
    return one.category, one.product_count, one.total_product_count, [_tree(below) for below in one.subcategories]


@pytest.mark.parametrize("size", [-1, -(2**31)])
async def test_a_negative_page_is_refused(shop: Shop, size: int) -> None:
    refusal = await refused(shop.products.ListProducts(pb.ListProductsRequest(page_size=size)))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {"page_size"}


async def _insert(database: str, count: int) -> None:
    import psycopg  # noqa: PLC0415

    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute(
            """INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code)
               SELECT 'p' || n, 'a mug', 1, 'EUR' FROM generate_series(1, %s) AS n""",
            [count],
        )
