"""From an event that a shop writes to the lists that it gets: two sidecars and a real relay, which moves, learns and publishes."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay import process
from cache_sidecar.v1.recommendation_pb2 import RecommendationModel as Model
from tests.support.customers import new_user
from tests.support.databases import RELAY, as_role
from tests.support.launch import settings_for
from tests.support.recommended import Visitor
from tests.support.recorder import BUY, Recorder, event, product
from tests.support.shop import Open
from tests.support.until import until

AGAIN = Model.RECOMMENDATION_MODEL_BUY_IT_AGAIN


@pytest.fixture
async def relay(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> AsyncIterator[None]:
    settings = settings_for(",".join(valkey_cluster.addresses), as_role(RELAY, database), namespace)
    task = asyncio.create_task(process.run(settings, asyncio.Event()))
    yield
    await cancel_and_wait(task)


@pytest.mark.usefixtures("relay")
async def test_a_purchase_is_in_its_buyer_s_lists_on_every_sidecar(open_shop: Open) -> None:
    async with open_shop() as near, open_shop() as far:
        first, second = [(await near.create()).product_id for _ in range(2)]
        user, recorder = new_user(), Recorder(near.channel)
        visitors = [Visitor(near.channel), Visitor(far.channel)]
        for bought in (first, second):
            await recorder.write(event(user, BUY, product(bought)))
            for visitor in visitors:
                # The list of the home page was cached on both.
                await until(lambda visitor=visitor, bought=bought: is_shown(visitor, user, bought))  # type: ignore[misc]
        for visitor in visitors:
            assert set(await visitor.ids(user, model=AGAIN)) == {first, second}


async def is_shown(visitor: Visitor, user: str, product: str) -> bool:
    """Whether the home page and the list of what was bought before have a product."""
    return product in await visitor.ids(user) and product in await visitor.ids(user, model=AGAIN)
