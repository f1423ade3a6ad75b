"""grpc.health.v1, per service."""

import asyncio

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import inside
from tests.support.shop import Open, Shop, refusal, refused
from tests.support.until import until

SERVICES = ["", "cache_sidecar.v1.ProductService", "cache_sidecar.v1.AdminService"]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def health(shop: Shop) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(shop.channel)


@pytest.mark.parametrize("service", SERVICES)
async def test_every_service_is_serving(shop: Shop, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    assert (await health(shop).Check(request)).status == SERVING
    call = health(shop).Watch(request)
    assert (await call.read()).status == SERVING
    call.cancel()


@pytest.mark.parametrize("service", ["cache_sidecar.v1.Nothing", "x" * 10_000, "cache_sidecar.v1.productservice"])
async def test_a_service_that_is_not_here_is_not_found(shop: Shop, service: str) -> None:
    answer = await refused(health(shop).Check(health_pb2.HealthCheckRequest(service=service)))
    assert answer.code == StatusCode.NOT_FOUND
    call = health(shop).Watch(health_pb2.HealthCheckRequest(service=service))
    assert (await call.read()).status == UNKNOWN
    call.cancel()


@pytest.mark.parametrize("service", SERVICES)
async def test_who_watches_is_told_of_draining_and_then_let_go(open_shop: Open, service: str) -> None:
    async with open_shop() as shop:
        call = health(shop).Watch(health_pb2.HealthCheckRequest(service=service))
        assert (await call.read()).status == SERVING
        # It waits by then: of a call that has ended meanwhile, grpc.aio's `read` says nothing but how it ended.
        reading = asyncio.ensure_future(call.read())
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(shop.app.server.drain())
        assert (await reading).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert refusal(caught.value).reason == "DRAINING"
        await draining


async def test_watches_count_as_streams_and_leave_nothing_behind(open_shop: Open) -> None:
    async with open_shop(max_streams=20) as shop:
        for _ in range(3):
            calls = [health(shop).Watch(health_pb2.HealthCheckRequest()) for _ in range(20)]
            for call in calls:
                assert (await call.read()).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health(shop).Watch(health_pb2.HealthCheckRequest()).read()
            assert caught.value.code() == StatusCode.RESOURCE_EXHAUSTED
            for call in calls:
                call.cancel()
            await until(lambda: not inside.streams_of(inside.stack_of(shop.app.server)))
