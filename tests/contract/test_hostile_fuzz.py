"""Thousands of random requests: no INTERNAL, no UNKNOWN, no long trailers, and a sidecar that serves on."""

import asyncio
from collections import Counter

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from cache_sidecar.v1 import admin_service_pb2, product_service_pb2
from tests.contract.conftest import Open
from tests.contract.fuzz import FUZZ, FUZZ_SEED, Fuzzer
from tests.contract.shop import Shop, product, refusal

ALLOWED = {
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.ABORTED,
    StatusCode.OUT_OF_RANGE,
}
STREAMS = {"/cache_sidecar.v1.ProductService/WatchProducts"}
CALLERS = 16


def valid() -> dict[str, Message]:
    """Returns a good request for every method, by path."""
    file, admin = product_service_pb2, admin_service_pb2
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
    ]
    made = {request.DESCRIPTOR.name: request for request in requests}
    return {
        f"/{service.full_name}/{method.name}": made[method.input_type.name]
        for described in (file, admin)
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


async def test_nothing_random_is_our_fault(open_shop: Open, request: pytest.FixtureRequest) -> None:
    count: int = request.config.getoption("--fuzz", FUZZ)
    seed: int = request.config.getoption("--fuzz-seed", FUZZ_SEED)
    async with open_shop() as shop:
        ids = [f"p-{number}" for number in range(6)]
        for id in ids:
            await shop.create(id)
        requests = Fuzzer(seed, ids).requests(valid(), count)
        seen: Counter[tuple[str, StatusCode]] = Counter()

        async def call() -> None:
            for path, data in requests:
                code = await outcome(shop, path, data)
                seen[path, code] += 1
                assert code in ALLOWED, f"seed {seed}: {path} answered {code} to {data!r}"

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        assert seen.total() == count
        for path in valid():
            assert seen[path, StatusCode.OK], f"{path} was never served: the requests are not worth much"
            if path.split("/")[-1] != "GetPolicy":
                assert seen[path, StatusCode.INVALID_ARGUMENT], path
        created = await shop.create("after")
        assert (await shop.get("after", bypass=True)).product == created
        assert shop.app.server._stack._calls == 0
