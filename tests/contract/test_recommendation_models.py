"""Lists from the shop's own model, as callers of the sidecar see them: whatever becomes of the model, they get a list."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.recommendations.remote import DEPENDENCY
from cache_sidecar.tiers.resilience.breaker import BREAK_AFTER
from cache_sidecar.v1 import admin_service_pb2
from cache_sidecar.v1.cache_pb2 import ReadOptions
from cache_sidecar.v1.user_event_pb2 import UserEvent, UserEventType
from cache_sidecar.v1.user_event_service_pb2 import WriteUserEventsRequest
from cache_sidecar.v1.user_event_service_pb2_grpc import UserEventServiceStub
from tests.support.customers import new_user
from tests.support.databases import SIDECAR, as_role
from tests.support.proxy import Proxy
from tests.support.recommended import Visitor, ids_of, learn_baskets
from tests.support.shop import L1, Open, Shop, new_id, refused
from tests.support.shop_model import ShopModel, a_list

HOME_PAGE_VIEW = UserEventType.USER_EVENT_TYPE_HOME_PAGE_VIEW
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SETTINGS = {"recommendation_generators": "remote,popular", "recommendation_remote_timeout": 10.0}


@pytest.fixture
async def model() -> AsyncIterator[ShopModel]:
    model = ShopModel()
    async with model.serving():
        yield model


async def failing(shop: Shop) -> list[str]:
    """Returns why the model is failing, as GetStats says."""
    reply = await shop.admin.GetStats(admin_service_pb2.GetStatsRequest())
    return [one.reason for one in reply.degradations if one.what == DEPENDENCY]


async def test_a_model_is_asked_once_for_a_home_page(open_shop: Open, database: str, model: ShopModel) -> None:
    async with open_shop(recommendation_remote_address=model.address, **SETTINGS) as shop:
        sofa, lamp = [(await shop.create()).product_id for _ in range(2)]
        user, visitor = new_user(), Visitor(shop.channel)
        await learn_baskets(database, (user, [lamp]))
        model.reply = a_list("unknown", lamp, sofa, model_version="v7")
        model.gate.close()
        asked = [asyncio.create_task(visitor.ask(user)) for _ in range(100)]
        await model.gate.reached()
        model.gate.open()
        for reply in await asyncio.gather(*asked):
            assert (reply.generator, reply.fallback, reply.model_version, ids_of(reply)) == ("remote", "", "v7", [lamp, sofa])
        assert len(model.requests) == 1
        assert (await visitor.ask(user)).cache.source == L1
        assert len(model.requests) == 1


async def test_without_the_model_the_next_generator_answers_and_the_reply_says_so(
    open_shop: Open, database: str, model: ShopModel
) -> None:
    async with open_shop(recommendation_remote_address=model.address, **SETTINGS) as shop:
        sofa = (await shop.create()).product_id
        await learn_baskets(database, (new_user(), [sofa]))
        visitor = Visitor(shop.channel)
        model.error = grpc.StatusCode.UNAVAILABLE
        for _ in range(BREAK_AFTER):
            reply = await visitor.ask(new_user())
            assert (reply.generator, reply.fallback, ids_of(reply)) == ("popular", "popular", [sofa])
        assert await failing(shop) == ["UNAVAILABLE: the model is not trained"]
        reply = await visitor.ask(new_user())
        assert (reply.fallback, len(model.requests)) == ("popular", BREAK_AFTER)


async def test_what_a_model_sends_that_no_list_may_have_is_left_out(open_shop: Open, database: str, model: ShopModel) -> None:
    async with open_shop(recommendation_remote_address=model.address, **SETTINGS) as shop:
        sofa = (await shop.create()).product_id
        await learn_baskets(database, (new_user(), [new_id("other")]))
        visitor, events = Visitor(shop.channel), UserEventServiceStub(shop.channel)
        for seconds in (2**62, -(2**62)):
            model.reply = a_list("nul\0", "line\nline", "x" * 129, "", sofa, sofa, model_version="v\0\n1" + "é" * 100)
            model.reply.model_time.seconds = seconds
            user = new_user()
            reply = await visitor.ask(user, page_size=5)
            assert (reply.generator, ids_of(reply), reply.HasField("model_time")) == ("remote", [sofa], False)
            assert reply.model_version == "v1" + "é" * 62
            # Its token can be given back.
            event = UserEvent(event_type=HOME_PAGE_VIEW, user_id=user, attribution_token=reply.attribution_token)
            await events.WriteUserEvents(WriteUserEventsRequest(events=[event]))
        assert await failing(shop) == []
        model.reply.model_time.FromSeconds(1_700_000_000)
        assert (await visitor.ask(new_user(), page_size=5)).model_time.seconds == 1_700_000_000


async def test_without_postgresql_there_are_home_pages_of_what_is_cached(
    open_shop: Open, database: str, postgres: Postgres, model: ShopModel
) -> None:
    async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
        through = as_role(SIDECAR, database).replace(proxy.target, proxy.address)
        async with open_shop(postgres=through, recommendation_remote_address=model.address, **SETTINGS) as shop:
            sofa = (await shop.create()).product_id
            await learn_baskets(database, (new_user(), [sofa]))
            visitor = Visitor(shop.channel)
            model.reply = a_list()
            assert await visitor.ids() == [sofa]
            proxy.cut()
            reply = await visitor.ask(new_user())
            assert (reply.generator, ids_of(reply)) == ("popular", [sofa])
            reply = await visitor.ask(new_user(), cart_product_ids=["lamp"])
            assert (ids_of(reply), reply.missing_product_ids) == ([sofa], [])
            model.reply = a_list(sofa)
            assert (await visitor.ask(new_user())).generator == "remote"
            model.reply = a_list()
            assert (await refused(visitor.ask(new_user(), options=ReadOptions(bypass=True)))).code == UNAVAILABLE
