"""A client of products, and the details of refused calls."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from cache_sidecar.app import App
from cache_sidecar.v1 import admin_service_pb2_grpc, cache_pb2
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1 import product_service_pb2_grpc as pb_grpc
from cache_sidecar.v1.product_pb2 import Product
from tests.support import inside
from tests.support.launch import Sidecar

L1, L2, STORE = cache_pb2.SOURCE_L1, cache_pb2.SOURCE_L2, cache_pb2.SOURCE_STORE
T = TypeVar("T")
DETAILS = "grpc-status-details-bin"
# 50 to 150 ms: callers refused together must not retry together.
AROUND_A_TENTH = pytest.approx(0.1, abs=0.05)


def new_id(prefix: str = "p") -> str:
    """Returns a new product_id."""
    return f"{prefix}-{uuid4().hex[:12]}"


def product(product_id: str, **fields: Any) -> Product:
    """Returns a valid product."""
    made = Product(product_id=product_id, **{"title": "A mug", "active": True} | fields)
    if "price" not in fields:
        made.price.units = 12
        made.price.nanos = 500_000_000
        made.price.currency_code = "EUR"
    return made


class Shop:
    """A sidecar as its callers see it."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self.address = sidecar.address
        self.channel = sidecar.channel
        self.products: Any = pb_grpc.ProductServiceStub(sidecar.channel)
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(sidecar.channel)

    async def create(self, product_id: str = "", **fields: Any) -> Product:
        """Creates a product and returns it as created."""
        request = pb.CreateProductRequest(product=product(product_id or new_id(), **fields))
        reply: pb.CreateProductResponse = await self.products.CreateProduct(request)
        return reply.product

    async def get(self, product_id: str, **options: Any) -> pb.GetProductResponse:
        """Reads a product."""
        asked = cache_pb2.ReadOptions(**options) if options else None
        reply: pb.GetProductResponse = await self.products.GetProduct(
            pb.GetProductRequest(product_id=product_id, options=asked)
        )
        return reply

    async def source(self, product_id: str, **options: Any) -> int:
        """Reads a product and returns the tier it came from."""
        return (await self.get(product_id, **options)).cache.source

    async def update(self, product_id: str, *paths: str, etag: str = "", request_id: str = "", **fields: Any) -> Product:
        """Changes fields of a product and returns it as changed."""
        request = pb.UpdateProductRequest(product=Product(product_id=product_id, etag=etag, **fields), request_id=request_id)
        request.update_mask.paths.extend(paths)
        reply: pb.UpdateProductResponse = await self.products.UpdateProduct(request)
        return reply.product

    async def delete(self, product_id: str, **options: str) -> None:
        """Deletes a product."""
        await self.products.DeleteProduct(pb.DeleteProductRequest(product_id=product_id, **options))

    def remembers(self, product_id: str) -> bool:
        """Returns whether a product is in the sidecar's memory, without reading it."""
        return inside.l1_of(inside.dataset(self.app, "product")).get(product_id) is not None

    @property
    def app(self) -> App:
        """The sidecar itself, which runs in this process."""
        assert self.sidecar.app is not None
        return self.sidecar.app

    async def raw(self, method: str, data: bytes, *, service: str = "cache_sidecar.v1.ProductService") -> bytes:
        """Makes a unary call whose request and reply are bytes."""
        call: Callable[[bytes], Awaitable[bytes]] = self.channel.unary_unary(f"/{service}/{method}")
        return await call(data)


Open = Callable[..., AbstractAsyncContextManager[Shop]]
"The type of the fixture `open_shop`."


@dataclass
class Refusal:
    """How a call was refused, from the google.rpc.Status in its trailers."""

    code: grpc.StatusCode
    message: str
    trailer_bytes: int
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    "Seconds."


async def refused(call: Awaitable[Any]) -> Refusal:
    """Returns how a call was refused; fails when it was not."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return refusal(error)
    raise AssertionError(f"expected an error, got {str(reply)[:200]!r}")


async def admitted(call: Callable[[], Awaitable[T]]) -> T:
    """Makes a call again while it is refused for overload, as clients do: of a crowd some are, on a busy machine."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if (found := refusal(error)).reason != "OVERLOADED":
                raise
            await asyncio.sleep(found.retry_after or 0)


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Reads the details of an error; without any, only the code and message are set."""
    trailers = list(error.trailing_metadata() or ())
    size = sum(len(key) + len(value) + 32 for key, value in trailers) + len((error.details() or "").encode())
    found = Refusal(error.code(), error.details() or "", size)
    for key, value in trailers:
        if key == DETAILS:
            assert isinstance(value, bytes)
            _read_details(status_pb2.Status.FromString(value), found)
    return found


def _read_details(status: status_pb2.Status, found: Refusal) -> None:
    assert status.code == found.code.value[0]
    assert status.message == found.message
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            found.reason, found.domain, found.metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(bad):
            found.violations = {violation.field: violation.description for violation in bad.field_violations}
        elif detail.Unpack(retry):
            found.retry_after = retry.retry_delay.ToTimedelta().total_seconds()


def without_cache(reply: Message) -> Message:
    """Returns a copy of a read reply without its metadata."""
    copy = type(reply)()
    copy.CopyFrom(reply)
    copy.ClearField("cache")  # type: ignore[arg-type]  # every read reply has it
    return copy


async def reads_redis(shop: Shop) -> bool:
    """Returns whether a sidecar reads from Redis: one that just started does not until it has seen the relay's watermarks."""
    return await shop.source((await shop.create()).product_id) == L2
