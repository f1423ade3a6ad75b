"""CreateProduct, UpdateProduct and DeleteProduct."""

import asyncio
from math import inf, nan

import pytest
from google.type.money_pb2 import Money
from grpc import StatusCode

from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from tests.support import inside
from tests.support.databases import run
from tests.support.shop import L1, Open, Shop, new_id, product, refused
from tests.support.until import until

FULL = {
    "title": "A mug",
    "description": "Holds tea",
    "price": Money(currency_code="EUR", units=9, nanos=990_000_000),
    "categories": ["mugs", "gifts"],
    "brand": "Potter",
    "image_uris": ["https://img.example/1"],
    "attributes": {"colour": "blue", "size": "l"},
    "active": True,
    "rank": -0.5,
}
CHANGED = {
    "title": "A cup",
    "description": "Holds coffee",
    "price": Money(currency_code="USD", units=0, nanos=1),
    "categories": ["cups"],
    "brand": "Turner",
    "image_uris": ["https://img.example/2", "https://img.example/3"],
    "attributes": {"colour": "red"},
    "active": False,
    "rank": 1e300,
}


async def test_a_taken_id_is_refused_and_the_product_kept(shop: Shop) -> None:
    created = await shop.create()
    refusal = await refused(shop.create(created.product_id, title="another"))
    assert refusal.code == StatusCode.ALREADY_EXISTS
    assert refusal.metadata == {"resource": "product", "id": created.product_id}
    assert (await shop.get(created.product_id, bypass=True)).product == created


async def test_etag_and_times_given_for_a_new_product_are_ignored(shop: Shop) -> None:
    wanted = product(new_id(), etag="ff")
    wanted.create_time.seconds = 1
    wanted.update_time.nanos = -5  # not even a valid time
    created = (await shop.products.CreateProduct(pb.CreateProductRequest(product=wanted))).product
    assert created.etag != "ff"
    assert created.create_time.seconds > 1_700_000_000


async def test_a_written_product_is_in_memory_at_the_next_read(shop: Shop) -> None:
    created = await shop.create()
    await shop.get(created.product_id)
    for number in range(5):
        updated = await shop.update(created.product_id, title=f"number {number}")
        assert (await shop.get(created.product_id)).product == updated
    assert await shop.source(created.product_id) == L1


@pytest.mark.parametrize("field", FULL)
async def test_a_mask_changes_one_field_and_no_other(shop: Shop, field: str) -> None:
    id = (await shop.create(**FULL)).product_id
    updated = await shop.update(id, field, **CHANGED)
    for name, old in FULL.items():
        assert getattr(updated, name) == (CHANGED[name] if name == field else old), name
    assert (await shop.get(id)).product == (await shop.get(id, bypass=True)).product == updated


async def test_a_star_changes_everything(shop: Shop) -> None:
    created = await shop.create(**FULL)
    updated = await shop.update(created.product_id, "*", **CHANGED)
    assert {name: getattr(updated, name) for name in CHANGED} == CHANGED
    assert updated.create_time == created.create_time
    assert updated.update_time.ToNanoseconds() > created.update_time.ToNanoseconds()
    assert int(updated.etag, 16) > int(created.etag, 16)


async def test_a_star_clears_what_is_not_given(shop: Shop) -> None:
    id = (await shop.create(**FULL)).product_id
    updated = await shop.update(id, "*", title="Bare", price=FULL["price"])
    assert updated == product(
        id, title="Bare", price=FULL["price"], active=False, etag=updated.etag, create_time=updated.create_time,
        update_time=updated.update_time,
    )  # fmt: skip


@pytest.mark.parametrize("field", ["description", "categories", "brand", "image_uris", "attributes", "active", "rank"])
async def test_a_field_in_the_mask_that_is_not_given_is_cleared(shop: Shop, field: str) -> None:
    id = (await shop.create(**FULL)).product_id
    updated = await shop.update(id, field)
    assert getattr(updated, field) == getattr(Product(), field)
    assert updated.title == FULL["title"]
    assert updated.HasField("rank") == (field != "rank")


async def test_a_rank_of_zero_is_one_and_a_rank_that_is_no_number_is_none(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        id = (await shop.create()).product_id
        assert not (await shop.get(id)).product.HasField("rank")
        updated = await shop.update(id, rank=0.0)
        assert updated.HasField("rank")
        assert (await shop.get(id, bypass=True)).product == updated
        refusal = await refused(shop.update(id, rank=nan))
        assert set(refusal.violations) == {"product.rank"}
        await run(database, "UPDATE cache_sidecar.products SET rank = 'NaN'")
        assert not (await shop.update(id, title="Another")).HasField("rank")
        await run(database, "UPDATE cache_sidecar.products SET rank = '-Infinity'")
        assert (await shop.update(id, title="First")).rank == -inf


async def test_products_need_not_have_a_column_for_ranks(open_shop: Open, database: str) -> None:
    """As a view over a shop's own table."""
    async with open_shop() as shop:
        id = (await shop.create(rank=7.0)).product_id
        await run(database, "ALTER TABLE cache_sidecar.products DROP COLUMN rank")
        assert (await shop.update(id, title="Another")).title == "Another"
        found = (await shop.get(id, bypass=True)).product
        assert (found.title, found.HasField("rank")) == ("Another", False)
        created = await shop.create()
        reply = await shop.products.ListProducts(pb.ListProductsRequest(include_inactive=True))
        assert {one.product_id for one in reply.products} == {id, created.product_id}
        for call in (shop.update(id, rank=1.0), shop.create(rank=1.0)):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "READ_ONLY")
            assert "rank" in refusal.message


@pytest.mark.parametrize("field", ["title", "price"])
async def test_what_a_product_must_have_cannot_be_cleared(shop: Shop, field: str) -> None:
    created = await shop.create(**FULL)
    refusal = await refused(shop.update(created.product_id, field))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {f"product.{field}"}
    assert (await shop.get(created.product_id)).product == created


async def test_no_mask_changes_what_is_given(shop: Shop) -> None:
    id = (await shop.create(**FULL)).product_id
    updated = await shop.update(id, title="Given", attributes={"only": "this"})
    assert (updated.title, dict(updated.attributes)) == ("Given", {"only": "this"})
    assert (updated.brand, list(updated.categories), updated.active) == ("Potter", ["mugs", "gifts"], True)


async def test_no_mask_and_nothing_given_is_refused(shop: Shop) -> None:
    id = (await shop.create()).product_id
    refusal = await refused(shop.update(id))
    assert set(refusal.violations) == {"update_mask"}


@pytest.mark.parametrize(
    "path",
    ["etag", "product_id", "create_time", "nothing", "price.units", "attributes.colour", "title.", "", " title", "Title"],
)
async def test_a_mask_that_names_no_changeable_field_is_refused(shop: Shop, path: str) -> None:
    created = await shop.create(**FULL)
    refusal = await refused(shop.update(created.product_id, "title", path, title="x"))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {"update_mask"}
    assert "title, description, price" in refusal.violations["update_mask"]
    assert (await shop.get(created.product_id, bypass=True)).product == created


async def test_a_field_named_twice_is_changed_once(shop: Shop) -> None:
    id = (await shop.create(**FULL)).product_id
    updated = await shop.update(id, "categories", "categories", categories=["one"])
    assert list(updated.categories) == ["one"]


async def test_only_what_the_mask_names_has_to_be_valid(shop: Shop) -> None:
    id = (await shop.create()).product_id
    broken = Money(currency_code="no", units=-1)
    assert (await shop.update(id, "title", title="Fine", price=broken)).title == "Fine"
    refusal = await refused(shop.update(id, "price", title="Fine", price=broken))
    assert set(refusal.violations) == {"product.price"}


async def test_an_update_without_a_product_or_id_is_refused(shop: Shop) -> None:
    refusal = await refused(shop.products.UpdateProduct(pb.UpdateProductRequest()))
    assert set(refusal.violations) == {"product.product_id"}
    refusal = await refused(shop.products.CreateProduct(pb.CreateProductRequest()))
    assert set(refusal.violations) == {"product"}


async def test_what_is_not_there_cannot_be_changed_or_deleted(shop: Shop) -> None:
    id = new_id()
    for call in (shop.update(id, title="x"), shop.delete(id), shop.delete(id, etag="1")):
        refusal = await refused(call)
        assert refusal.code == StatusCode.NOT_FOUND
        assert refusal.metadata["id"] == id


async def test_an_etag_that_is_no_longer_current_aborts(shop: Shop) -> None:
    created = await shop.create()
    updated = await shop.update(created.product_id, title="second", etag=created.etag)
    for call in (
        shop.update(created.product_id, title="third", etag=created.etag),
        shop.delete(created.product_id, etag=created.etag),
        shop.update(created.product_id, title="third", etag="never one"),
    ):
        refusal = await refused(call)
        assert refusal.code == StatusCode.ABORTED
        assert refusal.reason == "ETAG_MISMATCH"
        assert refusal.metadata == {"resource": "product", "id": created.product_id, "etag": updated.etag}
    await shop.delete(created.product_id, etag=updated.etag)


async def test_of_many_updates_with_one_etag_one_wins(shops: tuple[Shop, Shop]) -> None:
    created = await shops[0].create()
    calls = [shops[number % 2].update(created.product_id, title=f"writer {number}", etag=created.etag) for number in range(10)]
    results = await asyncio.gather(*(asyncio.ensure_future(call) for call in calls), return_exceptions=True)
    (winner,) = [result for result in results if isinstance(result, Product)]
    assert (await shops[0].get(created.product_id, bypass=True)).product == winner
    codes = {result.code() for result in results if not isinstance(result, Product)}  # type: ignore[union-attr]
    assert codes == {StatusCode.ABORTED}


async def test_concurrent_updates_of_different_fields_are_all_kept(shops: tuple[Shop, Shop]) -> None:
    id = (await shops[0].create(**FULL)).product_id
    names = list(CHANGED)
    await asyncio.gather(*(shops[n % 2].update(id, name, **{name: CHANGED[name]}) for n, name in enumerate(names)))
    final = (await shops[0].get(id, bypass=True)).product
    assert {name: getattr(final, name) for name in names} == CHANGED
    for shop in shops:
        await until(lambda shop=shop: _sees(shop, final))


async def test_a_deleted_product_is_gone_everywhere_and_can_come_back(shops: tuple[Shop, Shop]) -> None:
    first, second = shops
    created = await first.create(title="old")
    await second.get(created.product_id)
    await first.delete(created.product_id)
    assert (await refused(first.get(created.product_id))).code == StatusCode.NOT_FOUND
    await until(lambda: _is_gone(second, created.product_id))
    again = await second.create(created.product_id, title="new")
    assert int(again.etag, 16) > int(created.etag, 16)
    assert (await second.get(created.product_id)).product.title == "new"
    await until(lambda: _sees(first, again))


async def test_two_creations_at_once_make_one(shops: tuple[Shop, Shop]) -> None:
    id = new_id()
    calls = [shops[number % 2].create(id, title=f"writer {number}") for number in range(8)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results].count(Product) == 1
    refusals = {result.code() for result in results if not isinstance(result, Product)}  # type: ignore[union-attr]
    assert refusals == {StatusCode.ALREADY_EXISTS}


async def test_a_caller_that_leaves_does_not_tear_its_write_apart(shops: tuple[Shop, Shop]) -> None:
    shop = shops[0]
    created = await shop.create()
    await shop.get(created.product_id)
    for number in range(20):
        call = shop.products.UpdateProduct(
            pb.UpdateProductRequest(product=Product(product_id=created.product_id, title=f"number {number}"))
        )
        await asyncio.sleep(0.001 * (number % 5))
        call.cancel()
    await until(lambda: not inside.writes_of(shop.app.store("catalog").writer).running)
    final = (await shop.get(created.product_id, bypass=True)).product
    assert final.title in {f"number {number}" for number in range(20)}, "what was sent is committed, or never began"
    for one in shops:
        await until(lambda one=one: _sees(one, final))


async def _sees(shop: Shop, wanted: Product) -> bool:
    return (await shop.get(wanted.product_id)).product == wanted


async def _is_gone(shop: Shop, id: str) -> bool:
    reply = await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=[id]))
    return list(reply.missing) == [id]
