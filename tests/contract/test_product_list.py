"""ListProducts: pages of the catalogue, straight from PostgreSQL."""

import base64
import json

import pytest
from grpc import StatusCode

from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.conftest import Open
from tests.contract.shop import STORE, Shop, new_id, refused


async def pages(shop: Shop, *, size: int, category: str = "") -> list[list[str]]:
    """Returns the product_ids of every page."""
    request, found = pb.ListProductsRequest(page_size=size, category=category), []
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
        assert [len(page) for page in await pages(shop, size=0)] == [50] * 20 + [5]
        assert [len(page) for page in await pages(shop, size=2**31 - 1)] == [1000, 5]


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
    "long": "A" * 1025,
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
