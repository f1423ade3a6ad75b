"""Recommendations for tests: what a relay does with purchases, at once, and a client of the lists."""

from collections.abc import Sequence
from typing import Any

import grpc

from cache_sidecar.recommendations.folder import Folder
from cache_sidecar.recommendations.model import PURCHASE, Event
from cache_sidecar.store.recommendation import ModelStore
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from tests.support import inside
from tests.support.learning import START
from tests.support.shop import Shop, new_id

DATASETS = ("recommendation", "recommendation_profile", "recommendation_item", "recommendation_popular")
Basket = tuple[str, Sequence[str]]
"""Who bought which products together; an empty user_id is nobody who is known."""


async def learn_baskets(dsn: str, *baskets: Basket, publish: bool = True) -> None:
    """Folds purchases into the model of a database, and publishes what changed; each is a second later than the one before."""
    async with ModelStore.open(dsn) as store:
        folder = Folder(store)
        await folder.start()
        began = folder.position
        events = [
            Event(number, new_id("event"), START + number, user_id, PURCHASE, product_ids)
            for number, (user_id, product_ids) in enumerate(baskets, began + 1)
        ]
        await folder.fold(events)
        await folder.save()
        if publish:
            while await folder.publish(every=0):
                pass
            await folder.publish_popular(every=0)


async def forget(*shops: Shop) -> None:
    """Drops what sidecars hold of recommendations, as a relay would that publishes what was learned."""
    for shop in shops:
        for name in DATASETS:
            await inside.dataset(shop.app, name).drop_all()


class Visitor:
    """RecommendationService as a shop calls it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.calls: Any = RecommendationServiceStub(channel)

    async def ask(self, user_id: str = "", **fields: Any) -> pb.GetRecommendationsResponse:
        """Asks for a list."""
        reply: pb.GetRecommendationsResponse = await self.calls.GetRecommendations(
            pb.GetRecommendationsRequest(user_id=user_id, **fields)
        )
        return reply

    async def ids(self, user_id: str = "", **fields: Any) -> list[str]:
        """Asks for a list, and returns its products."""
        return ids_of(await self.ask(user_id, **fields))


def ids_of(reply: pb.GetRecommendationsResponse) -> list[str]:
    """Returns the products of a list."""
    return [one.product_id for one in reply.recommendations]
