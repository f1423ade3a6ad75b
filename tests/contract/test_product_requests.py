"""request_id: a repeat gets the first reply."""

import asyncio
from uuid import UUID, uuid4

import psycopg
import pytest
from grpc import StatusCode

from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from tests.support.shop import Open, Shop, new_id, product, refused


def request_id() -> str:
    return str(uuid4())


async def test_a_repeated_creation_gets_the_first_reply_byte_for_byte(shops: tuple[Shop, Shop]) -> None:
    wanted = product(new_id(), attributes={f"key {n}": "x" for n in range(30)})
    data = pb.CreateProductRequest(product=wanted, request_id=request_id()).SerializeToString()
    first = await shops[0].raw("CreateProduct", data)
    assert await shops[0].raw("CreateProduct", data) == first
    assert await shops[1].raw("CreateProduct", data) == first
    assert pb.CreateProductResponse.FromString(first).product.product_id == wanted.product_id


async def test_a_repeated_update_changes_nothing(shops: tuple[Shop, Shop]) -> None:
    created = await shops[0].create()
    wanted = Product(product_id=created.product_id, title="second", etag=created.etag)
    data = pb.UpdateProductRequest(product=wanted, request_id=request_id()).SerializeToString()
    first = await shops[0].raw("UpdateProduct", data)
    later = await shops[0].update(created.product_id, title="third")
    for shop in shops:
        assert await shop.raw("UpdateProduct", data) == first
        assert (await shop.get(created.product_id, bypass=True)).product == later


async def test_a_repeated_update_without_an_etag_changes_nothing(shop: Shop) -> None:
    created = await shop.create()
    data = pb.UpdateProductRequest(
        product=Product(product_id=created.product_id, title="second"), request_id=request_id()
    ).SerializeToString()
    first = await shop.raw("UpdateProduct", data)
    assert await shop.raw("UpdateProduct", data) == first
    assert (await shop.get(created.product_id)).product.etag == pb.UpdateProductResponse.FromString(first).product.etag


async def test_a_repeated_deletion_succeeds_and_deletes_nothing_new(shop: Shop) -> None:
    created = await shop.create()
    same = request_id()
    await shop.delete(created.product_id, etag=created.etag, request_id=same)
    await shop.delete(created.product_id, etag=created.etag, request_id=same)
    await shop.create(created.product_id)
    await shop.delete(created.product_id, etag=created.etag, request_id=same)
    assert (await shop.get(created.product_id)).product.product_id == created.product_id


async def test_many_repeats_at_once_do_it_once(shops: tuple[Shop, Shop]) -> None:
    data = pb.CreateProductRequest(product=product(new_id()), request_id=request_id()).SerializeToString()
    replies = await asyncio.gather(*(shops[number % 2].raw("CreateProduct", data) for number in range(12)))
    assert len(set(replies)) == 1


async def test_many_repeats_of_an_update_at_once_do_it_once(shops: tuple[Shop, Shop]) -> None:
    created = await shops[0].create()
    data = pb.UpdateProductRequest(
        product=Product(product_id=created.product_id, title="once"), request_id=request_id()
    ).SerializeToString()
    replies = await asyncio.gather(*(shops[number % 2].raw("UpdateProduct", data) for number in range(12)))
    assert len(set(replies)) == 1
    once = pb.UpdateProductResponse.FromString(replies[0]).product
    assert (await shops[0].get(created.product_id, bypass=True)).product == once


async def test_an_id_used_for_another_request_is_refused(shop: Shop) -> None:
    created = await shop.create()
    same = request_id()
    await shop.update(created.product_id, title="second", request_id=same)
    for call in (
        shop.update(created.product_id, title="third", request_id=same),
        shop.update(new_id(), title="second", request_id=same),
        shop.delete(created.product_id, request_id=same),
        shop.delete(new_id(), request_id=same),
        shop.products.CreateProduct(pb.CreateProductRequest(product=product(new_id()), request_id=same)),
        shop.products.CreateProduct(pb.CreateProductRequest(product=created, request_id=same)),
    ):
        refusal = await refused(call)
        assert refusal.code == StatusCode.INVALID_ARGUMENT
        assert refusal.reason == "REQUEST_ID_REUSED"
        assert set(refusal.violations) == {"request_id"}
    assert (await shop.get(created.product_id, bypass=True)).product.title == "second"


async def test_a_request_that_failed_can_be_made_again(shop: Shop) -> None:
    id, same = new_id(), request_id()
    assert (await refused(shop.update(id, title="second", request_id=same))).code == StatusCode.NOT_FOUND
    await shop.create(id)
    assert (await shop.update(id, title="second", request_id=same)).title == "second"


@pytest.mark.parametrize(
    "text",
    ["x", "00000000-0000-0000-0000-00000000000", f"{{{UUID(int=5)}}}", UUID(int=5).hex, f" {UUID(int=5)}", "\x00", "é" * 36],
)
async def test_an_id_that_is_no_uuid_is_refused(shop: Shop, text: str) -> None:
    for call in (
        shop.products.CreateProduct(pb.CreateProductRequest(product=product(new_id()), request_id=text)),
        shop.update(new_id(), title="x", request_id=text),
        shop.delete(new_id(), request_id=text),
    ):
        refusal = await refused(call)
        assert refusal.code == StatusCode.INVALID_ARGUMENT
        assert set(refusal.violations) == {"request_id"}


async def test_a_ledger_row_is_written_by_the_transaction_of_the_write(open_shop: Open, database: str) -> None:
    async with open_shop() as shop:
        same = request_id()
        refusal = await refused(shop.update(new_id(), title="x", request_id=same))
        assert refusal.code == StatusCode.NOT_FOUND
        wanted = pb.CreateProductRequest(product=product(new_id()), request_id=same)
        reply = await shop.products.CreateProduct(wanted)
    async with await psycopg.AsyncConnection.connect(database) as connection:
        cursor = await connection.execute("SELECT method, reply FROM cache_sidecar.requests WHERE request_id = %s", [same])
        assert await cursor.fetchall() == [("CreateProductRequest", reply.SerializeToString(deterministic=True))]
