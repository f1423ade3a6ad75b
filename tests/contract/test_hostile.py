"""Requests that no honest client sends are refused as the caller's fault, and change nothing for anybody else."""

import asyncio
import contextlib
import gzip
import zlib

import pytest
from grpc import StatusCode

from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from tests.bench import frames
from tests.support import inside
from tests.support.raw import RawConnection, message
from tests.support.shop import Open, Shop, new_id, product, refused
from tests.support.until import until

GET = "/cache_sidecar.v1.ProductService/GetProduct"
NOBODY = pb.GetProductRequest(product_id="nobody").SerializeToString()
OK, INVALID, NOT_FOUND, EXHAUSTED, INTERNAL = 0, 3, 5, 8, 13
UNARY = {
    "cache_sidecar.v1.ProductService": [
        "GetProduct",
        "BatchGetProducts",
        "ListProducts",
        "CreateProduct",
        "UpdateProduct",
        "DeleteProduct",
    ],
    "cache_sidecar.v1.AdminService": ["Invalidate", "GetStats", "InspectKey", "GetPolicy"],
    "grpc.health.v1.Health": ["Check"],
}

NO_PROTOBUF = {
    "garbage": b"\xff" * 50,
    "wrong UTF-8": b"\x0a\x02\xff\xfe",
    "half a character": b"\x0a\x01\xc3",
    "a lone surrogate": b"\x0a\x03\xed\xa0\x80",
    "NUL the long way": b"\x0a\x02\xc0\x80",
    "cut in a tag": b"\x80",
    "cut in a length": b"\x0a\x80",
    "cut in a string": b"\x0a\x05ab",
    "a length of 4 GB": b"\x0a\xff\xff\xff\xff\x0f",
    "a length of 2**64": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "a varint without end": b"\x08" + b"\xff" * 11,
    "field 0": b"\x02\x00",
    "wire type 6": b"\x0e",
    "a group that ends unbegun": b"\x0c",
    "a group without end": b"\x7b",
    "groups 5,000 deep": b"\x7b" * 5000 + b"\x7c" * 5000,
    "a group that ends as another": b"\x7b\x84\x01",
}


@pytest.mark.parametrize("data", NO_PROTOBUF.values(), ids=NO_PROTOBUF.keys())
async def test_bytes_that_are_no_message_are_refused(shop: Shop, data: bytes) -> None:
    refusal = await refused(shop.raw("GetProduct", data))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "INVALID_REQUEST"
    assert refusal.message == "the bytes are not a message of this method"


@pytest.mark.parametrize(("service", "method"), [(service, name) for service, names in UNARY.items() for name in names])
async def test_every_method_refuses_them(shop: Shop, service: str, method: str) -> None:
    for data in (b"\xff" * 20, b"\x7b" * 200, b"\x80"):
        refusal = await refused(shop.raw(method, data, service=service))
        assert refusal.code == StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "path", ["/cache_sidecar.v1.ProductService/WatchProducts", "/grpc.health.v1.Health/Watch",
             "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
)  # fmt: skip
async def test_every_stream_refuses_them(shop: Shop, path: str) -> None:
    async with RawConnection.open(shop.address) as raw:
        for data in (b"\xff" * 20, b"\x7b" * 200, b"\x80"):
            assert (await raw.call(path, message(data))).status == INVALID


CONTROL = [chr(code) for code in (*range(0x20), 0x7F)]


@pytest.mark.parametrize("id", ["", "x" * 129, "é" * 129, "x" * 10_240, *(f"a{c}b" for c in CONTROL), "\n", "a\x00"])
async def test_an_id_that_none_can_be_is_refused_everywhere(shop: Shop, id: str) -> None:
    calls = {
        "product_id": shop.get(id),
        "product_ids[1]": shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=["fine", id])),
        "product.product_id": shop.products.CreateProduct(pb.CreateProductRequest(product=product(id))),
    }
    for field, call in calls.items():
        refusal = await refused(call)
        assert refusal.code == StatusCode.INVALID_ARGUMENT
        assert set(refusal.violations) == {field}
    assert set((await refused(shop.update(id, title="x"))).violations) == {"product.product_id"}
    assert set((await refused(shop.delete(id))).violations) == {"product_id"}


MONEY = [
    {"currency_code": "EUR", "nanos": -1},
    {"currency_code": "EUR", "nanos": 10**9},
    {"currency_code": "EUR", "nanos": 2**31 - 1},
    {"currency_code": "EUR", "nanos": -(2**31)},
    {"currency_code": "EUR", "units": -1},
    {"currency_code": "EUR", "units": -(2**63), "nanos": -(2**31)},
    {"currency_code": "EUR", "units": -1, "nanos": 1},
    {"currency_code": ""},
    {"currency_code": "eur"},
    {"currency_code": "EURO"},
    {"currency_code": "EU\u0420"},
    {"currency_code": "EUR\n"},
    {"currency_code": "\x00" * 3},
    {"currency_code": "E" * 100_000},
]


@pytest.mark.parametrize("money", MONEY, ids=str)
async def test_money_that_is_none_is_refused(shop: Shop, money: dict) -> None:
    created = await shop.create()
    wanted = product(new_id(), price=money)
    for call in (
        shop.products.CreateProduct(pb.CreateProductRequest(product=wanted)),
        shop.update(created.product_id, "price", price=money),
        shop.update(created.product_id, price=money),
    ):
        refusal = await refused(call)
        assert refusal.code == StatusCode.INVALID_ARGUMENT
        assert set(refusal.violations) == {"product.price"}
    assert (await shop.get(created.product_id, bypass=True)).product == created


@pytest.mark.parametrize(
    "age", [{"seconds": -1}, {"nanos": -1}, {"seconds": 2_592_001}, {"seconds": 2**63 - 1}, {"seconds": -(2**63)}]
)
async def test_a_max_age_out_of_range_is_refused(shop: Shop, age: dict) -> None:
    for call in (
        shop.get("x", max_age=age),
        shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=["x"], options={"max_age": age})),
    ):
        assert set((await refused(call)).violations) == {"options.max_age"}


async def test_times_out_of_range_are_ignored_with_the_field(shop: Shop) -> None:
    for stamp in ({"seconds": 2**63 - 1}, {"seconds": -(2**63), "nanos": -(2**31)}):
        id = (await shop.create(create_time=stamp, update_time=stamp)).product_id
        updated = await shop.update(id, "*", title="x", price=product(id).price, create_time=stamp, update_time=stamp)
        assert updated.create_time.seconds > 1_700_000_000


async def test_texts_at_their_limits_are_taken_and_come_back(shop: Shop) -> None:
    face = "\U0001f600"
    wanted = {
        "title": face * 512,
        "description": face * 16_384,
        "brand": face * 128,
        "categories": [f"{n:02}" + face * 126 for n in range(32)],
        "image_uris": [face * 2048] * 32,
        "attributes": {f"{n:02}" + face * 62: face * 1024 for n in range(64)},
    }
    created = await shop.create(**wanted)
    got = (await shop.get(created.product_id)).product
    assert got == created == (await shop.get(created.product_id, bypass=True)).product
    assert {name: getattr(got, name) for name in wanted} == wanted


async def test_one_byte_over_a_limit_is_refused(shop: Shop) -> None:
    for field, value in {
        "title": "x" * 513,
        "description": "x" * 16_385,
        "brand": "x" * 129,
        "categories": [f"c{n}" for n in range(33)],
        "image_uris": ["x"] * 33,
        "attributes": {f"k{n}": "" for n in range(65)},
    }.items():
        refusal = await refused(shop.create(**{field: value}))
        assert set(refusal.violations) == {f"product.{field}"}


async def test_fields_this_version_does_not_know_are_ignored(shop: Shop) -> None:
    unknown = b"\xc2\x3e\x05hello" + b"\xfb\x7d" * 30 + b"\xfc\x7d" * 30
    id = new_id()
    created = await shop.raw("CreateProduct", pb.CreateProductRequest(product=product(id)).SerializeToString() + unknown)
    assert b"hello" not in created
    wanted = Product.FromString(Product(product_id=id, title="x").SerializeToString() + unknown)
    await shop.products.UpdateProduct(pb.UpdateProductRequest(product=wanted))
    reply = await shop.raw("GetProduct", pb.GetProductRequest(product_id=id).SerializeToString() + unknown)
    assert b"hello" not in reply


async def test_a_huge_request_is_refused_without_holding_others_up(shop: Shop) -> None:
    created = await shop.create()
    await shop.get(created.product_id)
    huge = [
        ("BatchGetProducts", pb.BatchGetProductsRequest(product_ids=[""] * 2_000_000)),
        ("BatchGetProducts", pb.BatchGetProductsRequest(product_ids=["a"] * 1_300_000)),
        ("GetProduct", pb.GetProductRequest(product_id="x" * 4_000_000)),
        ("CreateProduct", pb.CreateProductRequest(product=product("x", categories=[""] * 2_000_000))),
        ("CreateProduct", pb.CreateProductRequest(product=product("x", attributes={str(n): "" for n in range(300_000)}))),
    ]
    for method, request in huge:
        call = asyncio.ensure_future(refused(shop.raw(method, request.SerializeToString())))
        answered = 0
        while not call.done():
            await shop.get(created.product_id)
            answered += 1
        assert (await call).code == StatusCode.INVALID_ARGUMENT
        assert answered
    mask = pb.UpdateProductRequest(product=Product(product_id=created.product_id, title="x"))
    mask.update_mask.paths.extend(["title"] * 500_000)
    assert set((await refused(shop.products.UpdateProduct(mask))).violations) == {"update_mask"}


async def test_a_message_over_the_limit_is_refused(open_shop: Open) -> None:
    async with open_shop(max_message_bytes=10_000) as shop:
        assert (await refused(shop.get("x" * 20_000))).code == StatusCode.RESOURCE_EXHAUSTED
        assert (await refused(shop.get("x" * 9_000))).code == StatusCode.INVALID_ARGUMENT
        async with RawConnection.open(shop.address) as raw:
            reply = await raw.call(GET, message(b"", length=2**32 - 1))
            assert reply.status == EXHAUSTED, "from its length alone, before it is read"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_request_works_as_any_other(shop: Shop, encoding: str, pack) -> None:
    id = new_id()
    request = pb.CreateProductRequest(product=product(id, description="x" * 16_000)).SerializeToString()
    async with RawConnection.open(shop.address) as raw:
        path = "/cache_sidecar.v1.ProductService/CreateProduct"
        reply = await raw.call(path, message(pack(request), compressed=True), encoding=encoding)
        assert reply.status == OK
        assert pb.CreateProductResponse.FromString(reply.body[5:]).product.product_id == id
        assert (await raw.call(GET, message(pack(b"\xff"), compressed=True), encoding=encoding)).status == INVALID
    assert (await shop.get(id)).product.description == "x" * 16_000


# What grpc answers by itself, before any of our code: its words, not ours. INTERNAL for what cannot be unpacked or read is
# what the specification of gRPC asks for.
BY_GRPC = {
    "a corrupt gzip": (message(b"\x1f\x8b" + b"x" * 50, compressed=True), {"encoding": "gzip"}, INTERNAL),
    "a gzip cut short": (message(gzip.compress(NOBODY * 99)[:-9], compressed=True), {"encoding": "gzip"}, INTERNAL),
    "a deadline that is no time": (message(NOBODY), {"metadata": [(b"grpc-timeout", b"soon")]}, INTERNAL),
    "a deadline that has passed": (message(NOBODY), {"metadata": [(b"grpc-timeout", b"0n")]}, 4),
    "a binary header that is no base64": (message(NOBODY), {"metadata": [(b"x-bin", b"!!!")]}, INTERNAL),
    "a flag without an encoding": (message(NOBODY, compressed=True), {}, NOT_FOUND),
    "a deadline of centuries": (message(NOBODY), {"metadata": [(b"grpc-timeout", b"99999999H")]}, NOT_FOUND),
    "a strange request id": (message(b"\xff"), {"metadata": [(b"x-request-id", b"\x80~" * 99)]}, INVALID),
}


@pytest.mark.parametrize("case", BY_GRPC.values(), ids=BY_GRPC.keys())
async def test_malformed_transport_is_refused_and_the_next_call_served(shop: Shop, case: tuple) -> None:
    body, options, status = case
    async with RawConnection.open(shop.address) as raw:
        reply = await raw.call(GET, body, **options)
        assert (reply.status, reply.reset in (None, 0)) == (status, True)
    assert (await refused(shop.get("nobody"))).code == StatusCode.NOT_FOUND


@pytest.mark.parametrize("body", [b"", b"\0\0", message(NOBODY, length=100), b"\x02" + message(NOBODY)[1:]])
async def test_a_call_without_a_whole_message_leaves_nothing_behind(shop: Shop, body: bytes) -> None:
    async with RawConnection.open(shop.address) as raw:
        for _ in range(50):
            stream = await raw.begin(GET)
            await raw.send(stream, body, end=True)
        assert (await raw.call(GET, message(NOBODY))).status == NOT_FOUND
    await until(lambda: inside.stack_of(shop.app.server).admission.inside == 0)


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + b"x" * 200, frames.PREFACE + b"\xff" * 100, b"\0" * 5000]
)
async def test_bytes_that_are_no_http_2_end_their_connection_only(shop: Shop, junk: bytes) -> None:
    host, _, port = shop.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(junk)
    with contextlib.suppress(ConnectionResetError):  # closed with what it did not read
        while await asyncio.wait_for(reader.read(1000), 20):
            pass
    writer.close()
    assert (await refused(shop.get("nobody"))).code == StatusCode.NOT_FOUND


async def test_calls_that_are_reset_at_once_hold_nothing(shop: Shop) -> None:
    async with RawConnection.open(shop.address) as raw:
        for _ in range(2000):
            stream = await raw.begin(GET)
            raw.cancel(stream)
    async with RawConnection.open(shop.address) as raw:
        assert (await raw.call(GET, message(NOBODY))).status == NOT_FOUND
    await until(lambda: inside.stack_of(shop.app.server).admission.inside == 0)


async def test_a_caller_who_gives_up_many_calls_at_once_keeps_the_connection(shop: Shop) -> None:
    async with RawConnection.open(shop.address) as raw:
        for _ in range(5):
            raw.give_up(GET, 100)
            assert (await raw.call(GET, message(NOBODY))).status == NOT_FOUND
        assert not raw.told_to_go


async def test_control_characters_in_metadata_reach_no_log(shop: Shop) -> None:
    async with RawConnection.open(shop.address) as raw:
        reply = await raw.call(GET, message(b"\xff"), metadata=[(b"x-request-id", b"\x80\x00\n" * 99)])
        # HTTP/2 calls that a PROTOCOL_ERROR; C-core lets it pass.
        assert reply.status == INVALID or reply.reset == 1
    assert (await refused(shop.get("nobody"))).code == StatusCode.NOT_FOUND
