"""Errors are a google.rpc.Status in the trailers, which fit into what every client accepts."""

import asyncio

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from grpc_health.v1 import health_pb2

from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from tests.support import inside
from tests.support.customers import Customer, item, lines, new_user
from tests.support.databases import locked
from tests.support.raw import RawConnection, message
from tests.support.shop import AROUND_A_TENTH, Open, Shop, new_id, product, refused
from tests.support.stockroom import Stockroom
from tests.support.until import until

LIMIT = 8192
LONGEST = ["x" * 128, "\U0001f600" * 128, "\U000e0001" * 128, "'\"\\" * 42, "é" * 128]


def every_field_wrong() -> Product:
    return Product(
        product_id="\x01" * 200,
        title="\x00" * 600,
        description="\x00",
        categories=["", "", "\x00", "x" * 200, *(f"c{n}" for n in range(40))],
        brand="\x00",
        image_uris=["", "\x00"],
        attributes={"": "", "\x00": "\x00", "é" * 70: "x"},
        etag="x" * 65,
    )


HOSTILE: list[tuple[str, Message]] = [
    ("ProductService/GetProduct", pb.GetProductRequest(product_id="\x01" * 10_000)),
    ("ProductService/BatchGetProducts", pb.BatchGetProductsRequest(product_ids=[""] * 400)),
    ("ProductService/BatchGetProducts", pb.BatchGetProductsRequest(product_ids=["\x01" + "é" * 500] * 400)),
    ("ProductService/BatchGetProducts", pb.BatchGetProductsRequest(product_ids=[""] * 2_000_000)),
    ("ProductService/ListProducts", pb.ListProductsRequest(page_size=-1, page_token="x" * 100_000, category="\x00" * 9999)),
    ("ProductService/CreateProduct", pb.CreateProductRequest(product=every_field_wrong(), request_id="é" * 10_000)),
    (
        "ProductService/CreateProduct",
        pb.CreateProductRequest(product=product("x", attributes={f"{n}" + "\U0001f600" * 5000: "" for n in range(60)})),
    ),
    (
        "ProductService/CreateProduct",
        pb.CreateProductRequest(product=product("x", attributes={f"{n}" + "\U0001f600" * 80: "" for n in range(10)})),
    ),
    ("ProductService/UpdateProduct", pb.UpdateProductRequest(product=every_field_wrong())),
    ("ProductService/DeleteProduct", pb.DeleteProductRequest(product_id="", etag="x" * 9999, request_id="x" * 9999)),
    ("AdminService/Invalidate", admin.InvalidateRequest(dataset="\U0001f600" * 100_000, ids=["a"])),
    ("AdminService/Invalidate", admin.InvalidateRequest(dataset="product", ids=[""] * 1_000_000)),
    ("AdminService/GetStats", admin.GetStatsRequest(dataset="\U000e0001" * 100_000)),
]


@pytest.mark.parametrize(("method", "request_"), HOSTILE, ids=[f"{n}-{method}" for n, (method, _) in enumerate(HOSTILE)])
async def test_trailers_fit_whatever_is_wrong(shop: Shop, method: str, request_: Message) -> None:
    async with RawConnection.open(shop.address) as raw:
        reply = await raw.call(f"/cache_sidecar.v1.{method}", message(request_.SerializeToString()))
    assert reply.status == StatusCode.INVALID_ARGUMENT.value[0]
    assert reply.header_bytes < LIMIT


@pytest.mark.parametrize("id", LONGEST, ids=["ascii", "emoji", "unprintable", "quotes", "latin"])
async def test_an_id_of_any_alphabet_is_repeated_whole_and_fits(shop: Shop, id: str) -> None:
    assert (await refused(shop.get(id))).metadata["id"] == id
    await shop.create(id)
    calls = {
        "CreateProduct": pb.CreateProductRequest(product=product(id)),
        "DeleteProduct": pb.DeleteProductRequest(product_id=id, etag="\U0001f600" * 64),
    }
    async with RawConnection.open(shop.address) as raw:
        for method, request in calls.items():
            reply = await raw.call(f"/cache_sidecar.v1.ProductService/{method}", message(request.SerializeToString()))
            assert reply.status in (StatusCode.ALREADY_EXISTS.value[0], StatusCode.ABORTED.value[0])
            assert reply.header_bytes < LIMIT
    assert (await refused(shop.create(id))).metadata["id"] == id
    await shop.delete(id)


async def test_the_name_of_an_unknown_service_may_be_long(shop: Shop) -> None:
    async with RawConnection.open(shop.address) as raw:
        request = health_pb2.HealthCheckRequest(service="\U0001f600" * 500_000).SerializeToString()
        reply = await raw.call("/grpc.health.v1.Health/Check", message(request))
    assert reply.status == StatusCode.NOT_FOUND.value[0]
    assert reply.header_bytes < LIMIT


async def test_an_error_names_domain_reason_and_values(shop: Shop) -> None:
    id = new_id()
    refusal = await refused(shop.get(id))
    assert (refusal.domain, refusal.reason, refusal.metadata) == (
        "cache-sidecar.io",
        "NOT_FOUND",
        {"resource": "product", "id": id},
    )
    assert refusal.message == f"there is no product '{id}'"
    assert refusal.retry_after is None


async def test_every_broken_rule_of_a_request_is_named(shop: Shop) -> None:
    wanted = Product(product_id="a\nb", categories=["x", "x", ""], attributes={"k": "\x00"}, etag="e")
    wanted.price.currency_code = "eur"
    wanted.price.units = -1
    refusal = await refused(shop.products.CreateProduct(pb.CreateProductRequest(product=wanted, request_id="no")))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert (refusal.reason, refusal.domain) == ("INVALID_REQUEST", "cache-sidecar.io")
    assert refusal.violations == {
        "product.product_id": "must not contain control characters",
        "product.title": "must be at least 1 characters",
        "product.price": "currency_code must be three capital letters (ISO 4217), such as EUR, "
        "and units must be 0 or more and nanos 0 to 999999999",
        "product.categories": "repeated value must contain unique items",
        "product.categories[2]": "must be at least 1 characters",
        "product.attributes['k']": "must not contain NUL characters",
        "request_id": "must be a valid UUID",
    }
    for field in refusal.violations:
        assert field in refusal.message


async def test_of_a_large_request_one_broken_rule_is_named(shop: Shop) -> None:
    wanted = product("", title="", description="x" * 10_000)
    refusal = await refused(shop.products.CreateProduct(pb.CreateProductRequest(product=wanted)))
    assert len(refusal.violations) == 1


async def test_too_many_calls_are_refused_at_once_and_told_when_to_come_back(open_shop: Open, database: str) -> None:
    async with open_shop(max_concurrent_calls=6, postgres_timeout=30) as shop:
        id = (await shop.create()).product_id
        async with locked(database):
            waiting = [asyncio.ensure_future(shop.get(id, bypass=True)) for _ in range(5)]
            await until(lambda: inside.dataset(shop.app, "product").loader.store_batch.loads >= 1)
            await until(lambda: _calls(shop) == 5)
            refusal = await refused(shop.get(id))
            assert refusal.code == StatusCode.RESOURCE_EXHAUSTED
            assert refusal.reason == "OVERLOADED"
            assert refusal.retry_after == AROUND_A_TENTH
        assert {reply.product.product_id for reply in await asyncio.gather(*waiting)} == {id}
        assert (await shop.get(id)).product.product_id == id


@pytest.mark.parametrize("limits", [{"max_dataset_calls": 5}, {"max_concurrent_calls": 6}], ids=["of a dataset", "of all"])
async def test_a_flood_of_reads_of_products_leaves_carts_sessions_and_stock_served(
    open_shop: Open, database: str, limits: dict[str, int]
) -> None:
    async with open_shop(postgres_timeout=30, **limits) as shop:
        id = (await shop.create()).product_id
        user, customer, stock = new_user(), Customer(shop.sidecar), Stockroom(shop.channel)
        await stock.set(id, 5)
        async with locked(database):
            flood = [asyncio.ensure_future(shop.get(id, bypass=True)) for _ in range(50)]
            await until(lambda: sum(call.done() for call in flood) == 45)
            assert _calls(shop) == 5
            assert (await refused(shop.get(id, bypass=True))).reason == "OVERLOADED"
            assert lines(await customer.add(user, item(id))) == {id: 1}
            assert (await customer.session(await customer.create(user))).session.user_id == user
            await stock.reserve({id: 1})
            assert (await stock.get(id)).available == 4
        replies = await asyncio.gather(*flood, return_exceptions=True)
        assert sum(isinstance(reply, pb.GetProductResponse) for reply in replies) == 5


def _calls(shop: Shop) -> int:
    return inside.stack_of(shop.app.server).admission.inside


async def test_postgresql_away_is_unavailable_with_a_time_to_retry(open_shop: Open) -> None:
    async with open_shop(postgres="postgresql://nobody@127.0.0.1:1/none", postgres_timeout=0.2) as shop:
        for call in (
            shop.get("x"),
            shop.create(),
            shop.update("x", title="y"),
            shop.delete("x"),
            shop.products.ListProducts(pb.ListProductsRequest()),
            shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=["a", "b"])),
        ):
            refusal = await refused(call)
            assert refusal.code == StatusCode.UNAVAILABLE
            assert (refusal.reason, refusal.metadata) == ("TIER_UNAVAILABLE", {"tier": "PostgreSQL"})
            assert refusal.retry_after == 1.0
            assert "127.0.0.1" not in refusal.message, "where the database is, is nobody's business"


async def test_a_deadline_that_passes_ends_the_call_and_not_the_load(open_shop: Open, database: str) -> None:
    async with open_shop(postgres_timeout=30) as shop:
        id = (await shop.create()).product_id
        async with locked(database):
            request = pb.GetProductRequest(product_id=id)
            request.options.bypass = True
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await shop.products.GetProduct(request, timeout=0.1)
            assert caught.value.code() == StatusCode.DEADLINE_EXCEEDED
            await until(lambda: _calls(shop) == 0)
        assert (await shop.get(id)).product.product_id == id


async def test_a_method_that_does_not_exist_is_unimplemented(shop: Shop) -> None:
    for path in ("GetProducts", "getproduct", ""):
        refusal = await refused(shop.raw(path, b""))
        assert refusal.code == StatusCode.UNIMPLEMENTED
    assert (await refused(shop.raw("Get", b"", service="no.such.Service"))).code == StatusCode.UNIMPLEMENTED
