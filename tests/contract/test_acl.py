"""What the sidecar needs of Redis is what the guide says: nothing was refused, and less would not do."""

import grpc
import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1 import admin_service_pb2 as admin
from cache_sidecar.v1 import product_service_pb2 as pb
from tests import acl
from tests.contract.conftest import Open
from tests.contract.shop import L1, L2


async def test_the_user_of_the_guide_may_do_what_the_sidecar_does(
    open_shop: Open, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    async with open_shop() as first, open_shop() as second:
        made = await first.create()
        assert (await second.get(made.product_id)).cache.source == L2
        assert (await second.get(made.product_id)).cache.source == L1
        await first.products.DeleteProduct(pb.DeleteProductRequest(product_id=made.product_id))
        await first.admin.Invalidate(admin.InvalidateRequest(dataset="product", ids=["any"]))
        await first.admin.Invalidate(admin.InvalidateRequest(dataset="product", all=True))
    assert await acl.refusals(valkey_cluster, namespace) == []


async def test_it_may_not_touch_what_is_not_the_sidecars(
    valkey_cluster: ValkeyCluster, namespace: str, open_shop: Open
) -> None:
    async with open_shop(
        namespace=f"{namespace}x", redis_username=namespace, redis_password=acl.PASSWORD, trusted=False
    ) as shop:
        await acl.allow(valkey_cluster, namespace)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shop.admin.Invalidate(admin.InvalidateRequest(dataset="product", ids=["any"]))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await acl.refusals(valkey_cluster, namespace) != []
