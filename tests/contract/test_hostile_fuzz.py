"""Thousands of random requests: no INTERNAL, no UNKNOWN, no long trailers, and a sidecar that serves on."""

import asyncio
from collections import Counter
from functools import lru_cache
from itertools import count
from uuid import UUID

import grpc
import psutil
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from cache_sidecar.v1 import admin_service_pb2, inventory_service_pb2, product_service_pb2, session_service_pb2
from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1.cart_pb2 import Cart, CartChange
from cache_sidecar.v1.session_pb2 import Session
from tests.contract.conftest import Open
from tests.contract.fuzz import FUZZ, FUZZ_SEED, Fuzzer, Request
from tests.contract.shop import Shop, product, refusal
from tests.customers import Customer, item
from tests.sidecars import until
from tests.stockroom import Stockroom

ALLOWED = {
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.ABORTED,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.OUT_OF_RANGE,
}
STREAMS = {
    "/cache_sidecar.v1.ProductService/WatchProducts",
    "/cache_sidecar.v1.CartService/WatchCart",
    "/cache_sidecar.v1.InventoryService/WatchInventory",
}
CALLERS = 16
IDS = [f"p-{number}" for number in range(6)]
# Stand for the ids that are known only then; as long as those, so that what is around them stays valid.
SESSION_ID, RESERVATION_ID = "s" * 43, "11111111-1111-1111-1111-111111111111"
# Requests until all that is kept is there; from then on memory may grow by so many bytes.
WARM_UP, GROWTH = 20_000, 64 * 1024 * 1024


def valid(session_id: str, reservation_id: str) -> dict[str, Message]:
    """Returns a good request for every method, by path."""
    file, admin, sessions, stock = product_service_pb2, admin_service_pb2, session_service_pb2, inventory_service_pb2
    # An id of its own for each: one that comes back with another request is refused.
    line, uuids = item("p-1"), (str(UUID(int=number)) for number in count(1))
    requests: list[Message] = [
        file.GetProductRequest(product_id="p-1"),
        file.BatchGetProductsRequest(product_ids=["p-1", "none"]),
        file.ListProductsRequest(page_size=3),
        file.CreateProductRequest(product=product("\u2028")),
        file.UpdateProductRequest(product=product("p-2"), update_mask={"paths": ["title", "categories"]}),
        file.DeleteProductRequest(product_id="p-3"),
        file.WatchProductsRequest(),
        admin.InvalidateRequest(dataset="product", ids=["p-1"]),
        admin.GetStatsRequest(),
        admin.GetPolicyRequest(),
        admin.UpdatePolicyRequest(policy=admin.DatasetPolicy(dataset="product", rollout=50), reset_mask={"paths": ["shadow"]}),
        carts.GetCartRequest(user_id="p-1"),
        carts.ReplaceCartRequest(cart=Cart(user_id="p-1", items=[line])),
        carts.AddCartItemRequest(user_id="p-1", item=line, request_id=next(uuids)),
        carts.SetCartItemQuantityRequest(user_id="p-1", product_id="p-1", quantity=2),
        carts.RemoveCartItemRequest(user_id="p-1", product_id="p-1"),
        carts.ClearCartRequest(user_id="p-1"),
        carts.MergeCartsRequest(user_id="p-1", guest_user_id="p-2", request_id=next(uuids)),
        carts.ApplyCartChangesRequest(user_id="p-1", changes=[CartChange(add_item=line)], request_id=next(uuids)),
        carts.ListAbandonedCartsRequest(idle_for={"seconds": 3600}),
        carts.WatchCartRequest(user_id="p-1"),
        sessions.CreateSessionRequest(user_id="p-1", attributes={"a": "b"}),
        sessions.GetSessionRequest(session_id=session_id),
        sessions.TouchSessionRequest(session_id=session_id),
        sessions.UpdateSessionRequest(
            session=Session(session_id=session_id, attributes={"c": "d"}), update_mask={"paths": ["attributes"]}
        ),
        sessions.DeleteSessionRequest(session_id=session_id[::-1]),
        sessions.RotateSessionRequest(session_id=session_id[::-1]),
        sessions.ListUserSessionsRequest(user_id="p-1"),
        sessions.DeleteUserSessionsRequest(user_id="p-2"),
        stock.GetInventoryRequest(product_id="p-1"),
        stock.BatchGetInventoryRequest(product_ids=["p-1", "none"]),
        stock.SetInventoryRequest(product_id="p-2", available=1000),
        stock.AdjustInventoryRequest(product_id="p-2", delta=5, reason="counted", request_id=next(uuids)),
        stock.ReserveInventoryRequest(items=[{"product_id": "p-1", "quantity": 1}], user_id="p-1", request_id=next(uuids)),
        stock.ExtendReservationRequest(reservation_id=reservation_id, hold_duration={"seconds": 60}),
        stock.CommitReservationRequest(reservation_id=next(uuids)),
        stock.ReleaseReservationRequest(reservation_id=next(uuids)),
        stock.GetReservationRequest(reservation_id=reservation_id),
        stock.ListReservationsRequest(user_id="p-1"),
        stock.WatchInventoryRequest(product_ids=["p-1"]),
    ]
    made = {request.DESCRIPTOR.name: request for request in requests}
    return {
        f"/{service.full_name}/{method.name}": made[method.input_type.name]
        for described in (file, admin, carts, sessions, stock)
        for service in described.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


async def outcome(shop: Shop, path: str, data: bytes) -> StatusCode:
    try:
        if path in STREAMS:
            await shop.channel.unary_stream(path)(data, timeout=0.05).read()
        else:
            await shop.channel.unary_unary(path)(data)
    except grpc.aio.AioRpcError as error:
        if path in STREAMS and error.code() == StatusCode.DEADLINE_EXCEEDED:
            return StatusCode.OK
        found = refusal(error)
        assert found.trailer_bytes < 8192, (path, data)
        assert found.reason, (path, data, error)
        return found.code
    return StatusCode.OK


@lru_cache(maxsize=1)
def generated(count: int, seed: int) -> list[Request]:
    """Returns the same requests for each engine."""
    return Fuzzer(valid(SESSION_ID, RESERVATION_ID), [*IDS, SESSION_ID, RESERVATION_ID]).requests(count, chosen=seed)


async def test_nothing_random_is_our_fault(open_shop: Open, request: pytest.FixtureRequest) -> None:
    wanted: int = request.config.getoption("--fuzz", FUZZ)
    seed: int = request.config.getoption("--fuzz-seed", FUZZ_SEED)
    requests, made = valid(SESSION_ID, RESERVATION_ID), iter(generated(wanted, seed))
    async with open_shop() as shop:
        for id in IDS:
            await shop.create(id)
        customer, stock = Customer(shop.sidecar), Stockroom(shop.channel)
        await stock.set("p-1", 1_000_000)
        session_id = await customer.create("somebody")
        reservation_id = (await stock.reserve({"p-1": 1})).reservation_id
        assert (len(session_id), len(reservation_id)) == (len(SESSION_ID), len(RESERVATION_ID))
        seen: Counter[tuple[str, StatusCode]] = Counter()
        sizes: dict[int, int] = {}

        async def call() -> None:
            for path, template in made:
                data = template.replace(SESSION_ID.encode(), session_id.encode())
                data = data.replace(RESERVATION_ID.encode(), reservation_id.encode())
                code = await outcome(shop, path, data)
                seen[path, code] += 1
                if seen.total() % WARM_UP == 0:
                    sizes[seen.total()] = psutil.Process().memory_info().rss
                assert code in ALLOWED, f"seed {seed}: {path} answered {code} to {data!r}"

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        assert seen.total() >= wanted
        for path in requests:
            assert any(seen[path, code] for code in ALLOWED - {StatusCode.INVALID_ARGUMENT}), f"{path} was never served"
            if path.split("/")[-1] != "GetPolicy":
                assert seen[path, StatusCode.INVALID_ARGUMENT], path
        assert max(sizes.values(), default=0) - min(sizes.values(), default=0) < GROWTH, sizes
        created = await shop.create("after")
        assert (await shop.get("after", bypass=True)).product == created
        await until(lambda: shop.app.server._stack.admission.inside == 0)
