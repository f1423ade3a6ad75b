"""The list of what a user viewed last, as callers see it: a query of the user's events."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from cache_sidecar.store.user_event import UserEventStore
from cache_sidecar.v1.recommendation_pb2 import RecommendationModel as Model
from cache_sidecar.v1.recommendation_pb2 import RecommendationReason as Reason
from tests.support.customers import new_user
from tests.support.databases import open_database
from tests.support.recommended import Visitor, ids_of
from tests.support.recorder import new_event_id
from tests.support.shop import STORE, Shop

VIEWED = Model.RECOMMENDATION_MODEL_RECENTLY_VIEWED


async def view(database: str, user: str, *product_ids: str, kind: str = "detail-page-view") -> None:
    """Records views in PostgreSQL, as a relay does, the latest one last."""
    began = time.time() - 60
    async with open_database(database) as opened:
        lines = [
            json.dumps({"event_id": new_event_id(began + number), "user_id": user, "event_type": kind, "products": products})
            for number, id in enumerate(product_ids)
            for products in ([{"product_id": id, "quantity": 1}],)
        ]
        await UserEventStore(opened).add(lines, kept_after=datetime.fromtimestamp(0, UTC))


async def new_products(shop: Shop, count: int) -> Sequence[str]:
    return [(await shop.create()).product_id for _ in range(count)]


async def test_what_a_user_viewed_is_listed_the_latest_first(shop: Shop, shared_database: str) -> None:
    visitor, user = Visitor(shop.channel), new_user()
    a, b, c, d = await new_products(shop, 4)
    await view(shared_database, user, a, b, a, c)
    await view(shared_database, user, d, kind="add-to-cart")
    await view(shared_database, new_user(), d)
    reply = await visitor.ask(user, model=VIEWED)
    assert ids_of(reply) == [c, a, b]
    assert {one.reason for one in reply.recommendations} == {Reason.RECOMMENDATION_REASON_VIEWED}
    assert [one.score for one in reply.recommendations] == sorted((one.score for one in reply.recommendations), reverse=True)
    assert (reply.generator, reply.fallback, reply.cache.source) == ("viewed", "", STORE)
    assert reply.model_time.seconds == pytest.approx(time.time() - 57, abs=30)
    # A later view is in the list at once.
    await view(shared_database, user, d)
    assert d in await visitor.ids(user, model=VIEWED)


async def test_what_must_not_be_shown_is_left_out(shop: Shop, shared_database: str) -> None:
    visitor, user = Visitor(shop.channel), new_user()
    a, b, c, gone = *(await new_products(shop, 3)), "no-such-product"
    await view(shared_database, user, a, b, gone, c)
    assert await visitor.ids(user, model=VIEWED) == [c, b, a]
    assert await visitor.ids(user, model=VIEWED, page_size=1) == [c]
    assert await visitor.ids(user, model=VIEWED, context_product_ids=[c], exclude_product_ids=[a]) == [b]


async def test_nobody_gets_nothing(shop: Shop, shared_database: str) -> None:
    visitor, user = Visitor(shop.channel), new_user()
    (a,) = await new_products(shop, 1)
    await view(shared_database, user, a)
    assert await visitor.ids("", model=VIEWED) == []
    assert await visitor.ids(new_user(), model=VIEWED) == []
    assert await visitor.ids(user, model=VIEWED, personalised=False) == []
