"""GetProduct and BatchGetProducts."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money
from grpc import StatusCode

from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2 import InvalidateRequest
from tests.support.shop import L1, L2, STORE, Shop, new_id, product, refused
from tests.support.until import until

STRANGE_IDS = [
    "{07}",
    "a:b:{c}",
    "}{",
    "product",
    "x y",
    "é",
    "日本",
    "\U0001f600",
    "*",
    "%s",
    "'; --",
    "\\",
    '"',
    "\u200b",
    "a" * 128,
]


async def test_a_product_comes_back_as_it_was_created(shop: Shop) -> None:
    wanted = product(
        new_id(),
        description="Holds tea.\nAlso coffee.",
        price=Money(currency_code="JPY", units=2**63 - 1, nanos=999_999_999),
        categories=["mugs", "tea"],
        brand="Ümlaut & Co",
        image_uris=["https://img.example/1.jpg"],
        attributes={"colour": "blue", "note": ""},
        active=False,
    )
    created = (await shop.products.CreateProduct(pb.CreateProductRequest(product=wanted))).product
    for _ in range(2):
        got = (await shop.get(wanted.product_id)).product
        assert got == created
    assert created.etag
    assert created.create_time == created.update_time
    assert created.create_time.seconds > 1_700_000_000
    for name in ("etag", "create_time", "update_time"):
        created.ClearField(name)  # type: ignore[arg-type]
    assert created == wanted


async def test_the_tiers_answer_in_turn(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    id = (await first.create()).product_id
    await first.admin.Invalidate(_invalidate(id))
    await until(lambda: not second.remembers(id))
    replies = [await shop.get(id) for shop in (first, first, second, second)]
    assert [reply.cache.source for reply in replies][:2] == [STORE, L1]
    assert replies[3].cache.source == L1
    assert {reply.cache.version for reply in replies} == {int(replies[0].product.etag, 16)}
    assert not any(reply.cache.stale for reply in replies)
    assert all(0 <= reply.cache.age.ToTimedelta().total_seconds() < 60 for reply in replies)


async def test_a_second_sidecar_finds_in_redis_what_the_first_one_read(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    id = (await first.create()).product_id
    assert (await second.get(id)).cache.source == L2
    assert (await second.get(id)).cache.source == L1


async def test_bypass_reads_from_the_store_and_fills_the_caches(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    id = (await first.create()).product_id
    await first.get(id)
    assert await first.source(id, bypass=True) == STORE
    assert await second.source(id, bypass=True) == STORE
    assert await second.source(id) == L1


async def test_max_age_of_zero_accepts_only_the_store(shop: Shop) -> None:
    id = (await shop.create()).product_id
    await shop.get(id)
    assert await shop.source(id, max_age=Duration()) == STORE
    assert await shop.source(id, max_age=Duration(seconds=60)) == L1
    assert await shop.source(id, max_age=Duration(seconds=2_592_000)) == L1


async def test_options_that_ask_for_nothing_change_nothing(shop: Shop) -> None:
    id = (await shop.create()).product_id
    await shop.get(id)
    assert await shop.source(id, bypass=False) == L1


async def test_there_is_none(shop: Shop) -> None:
    id = new_id()
    for _ in range(3):
        refusal = await refused(shop.get(id))
        assert refusal.code == StatusCode.NOT_FOUND
        assert refusal.metadata == {"resource": "product", "id": id}
        assert id in refusal.message


async def test_none_is_forgotten_when_it_is_created_anywhere(shops: tuple[Shop, Shop]) -> None:
    id = new_id()
    for shop in shops:
        await refused(shop.get(id))
    await shops[0].create(id)
    assert (await shops[0].get(id)).product.product_id == id
    await until(lambda: _exists(shops[1], id))


@pytest.mark.parametrize("id", STRANGE_IDS)
async def test_any_id_without_control_characters_works(shop: Shop, id: str) -> None:
    created = await shop.create(id, title=id)
    assert [await shop.source(id, bypass=True), await shop.source(id)] == [STORE, L1]
    batch = await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=[id]))
    assert [found.title for found in batch.products] == [id]
    await shop.update(id, title="changed", etag=created.etag)
    await shop.delete(id)
    assert (await refused(shop.get(id))).metadata["id"] == id


async def test_letter_case_counts(shop: Shop) -> None:
    id = new_id("Case")
    await shop.create(id, title="upper")
    await shop.create(id.lower(), title="lower")
    assert (await shop.get(id)).product.title == "upper"
    assert (await shop.get(id.lower())).product.title == "lower"


async def test_a_batch_keeps_the_order_and_names_what_is_missing(shop: Shop) -> None:
    ids = [(await shop.create(title=f"number {number}")).product_id for number in range(4)]
    gone = new_id()
    await shop.get(ids[2])
    asked = [ids[3], gone, ids[0], ids[3], "nothing {}", ids[2], gone]
    reply = await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=asked))
    assert [found.product_id for found in reply.products] == [ids[3], ids[0], ids[2]]
    assert [found.title for found in reply.products] == ["number 3", "number 0", "number 2"]
    assert list(reply.missing) == [gone, "nothing {}"]
    assert len(reply.product_caches) == 3
    assert all(cache.version for cache in reply.product_caches)


async def test_a_batch_says_where_each_product_came_from(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    remembered, shared, cold = [(await first.create()).product_id for _ in range(3)]
    await second.get(remembered)
    await first.admin.Invalidate(_invalidate(cold))
    await until(lambda: not second.remembers(cold))
    reply = await second.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=[cold, remembered, shared]))
    assert [cache.source for cache in reply.product_caches] == [STORE, L1, L2]
    assert reply.cache.source == STORE
    assert reply.cache.version == max(cache.version for cache in reply.product_caches)
    ages = [cache.age.ToNanoseconds() for cache in reply.product_caches]
    assert reply.cache.age.ToNanoseconds() == max(ages)
    again = await second.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=[cold, remembered, shared]))
    assert again.cache.source == L1


async def test_a_batch_of_nothing_but_missing_ids_has_metadata_too(shop: Shop) -> None:
    reply = await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=[new_id()]))
    assert not reply.products
    assert not reply.product_caches
    assert (reply.cache.source, reply.cache.version) == (STORE, 0)


async def test_a_batch_takes_500_ids_and_not_one_more(shop: Shop) -> None:
    ids = [new_id() for _ in range(501)]
    reply = await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=ids[:500]))
    assert list(reply.missing) == ids[:500]
    refusal = await refused(shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=ids)))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert refusal.violations == {"product_ids": "must contain no more than 500 item(s)"}
    refusal = await refused(shop.products.BatchGetProducts(pb.BatchGetProductsRequest()))
    assert set(refusal.violations) == {"product_ids"}


async def test_a_batch_takes_the_options_of_a_read(shop: Shop) -> None:
    ids = [(await shop.create()).product_id for _ in range(2)]
    request = pb.BatchGetProductsRequest(product_ids=ids)
    await shop.products.BatchGetProducts(request)
    request.options.bypass = True
    reply = await shop.products.BatchGetProducts(request)
    assert [cache.source for cache in reply.product_caches] == [STORE, STORE]
    request.options.bypass = False
    request.options.max_age.seconds = 0
    request.options.max_age.SetInParent()
    assert (await shop.products.BatchGetProducts(request)).cache.source == STORE


async def test_deleted_products_are_missing_from_a_batch(shop: Shop) -> None:
    id = (await shop.create()).product_id
    await shop.get(id)
    await shop.delete(id)
    reply = await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=[id]))
    assert list(reply.missing) == [id]
    assert reply.cache.version, "the version of its deletion"


def _invalidate(*ids: str) -> InvalidateRequest:
    return InvalidateRequest(dataset="product", ids=ids)


async def _exists(shop: Shop, id: str) -> bool:
    reply = await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=[id]))
    return [found.product_id for found in reply.products] == [id]
