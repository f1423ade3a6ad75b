"""A recommender's model for tests: orders with a structure that is known, learned in memory or in PostgreSQL, and compared."""

import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.recommendations.folder import Folder, decode_user
from cache_sidecar.recommendations.model import DAY, POPULAR_HALF_LIFE, PURCHASE, Event, Item, Model, Totals, User, weight
from cache_sidecar.recommendations.rank import Popular
from cache_sidecar.recommendations.rows import ItemRow, Neighbour, item_row
from cache_sidecar.relay.recommendations import RecommendationRelay
from cache_sidecar.services.user_event import make_id
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.store.recommendation import CHANNEL, JOB, ModelStore
from tests.support.databases import run

# 2026-11-01.
START = 1_793_491_200.0


def buys(position: int, user_id: str, *product_ids: str, day: float = 0.0) -> Event:
    """Returns a purchase, so many days after `START`."""
    return Event(position, f"event-{position}", START + day * DAY, user_id, PURCHASE, product_ids)


def views(position: int, user_id: str, *product_ids: str, day: float = 0.0) -> Event:
    """Returns a view of products."""
    return Event(position, f"event-{position}", START + day * DAY, user_id, "detail-page-view", product_ids)


class _Everything(dict[str, Any]):
    """Items or users that come into being when they are asked for."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: str) -> Any:
        self[key] = self._make(len(self) + 1, key)
        return self[key]


def learn(events: Iterable[Event]) -> Model:
    """Returns the model of events, folded in one by one in memory."""
    model = Model(Totals())
    model.items = _Everything(Item)
    model.users = _Everything(lambda _, user_id: User(user_id))
    for event in events:
        if event.type == PURCHASE:
            model.buy(event)
        model.move(event)
    return model


def rows_of(model: Model) -> dict[str, ItemRow]:
    """Returns the rows of a model in memory."""
    neighbours = {item.number: Neighbour(item.product_id, item.customers) for item in model.items.values()}
    return {item.product_id: item_row(item, neighbours, model.totals) for item in model.items.values()}


def popular_of(model: Model) -> Popular:
    """Returns the popular products of a model in memory."""
    ordered = sorted(model.items.values(), key=lambda item: (-item.popularity, item.product_id))
    return Popular({item.product_id: item.popularity / model.totals.popularity for item in ordered})


def contents(model: Model) -> dict[str, Any]:
    """Returns everything that a model knows, by product_id; sums as of its newest event."""
    now = weight(model.totals.time, POPULAR_HALF_LIFE)
    names = {item.number: item.product_id for item in model.items.values()}
    return {
        "totals": (model.totals.time, model.totals.popularity / now, model.totals.customers),
        "items": {
            item.product_id: (
                item.popularity / now,
                item.baskets,
                item.customers,
                {names[number]: pairs for number, pairs in item.together.items()},
                {names[number]: count for number, count in item.also.items()},
            )
            for item in model.items.values()
        },
        "users": {
            user.user_id: ([tuple(map(_plain, basket)) for basket in user.baskets], list(user.products.items()))
            for user in model.users.values()
        },
    }


async def stored_contents(store: ModelStore) -> dict[str, Any]:
    """Returns the same of the model in PostgreSQL."""
    totals = await store.totals()
    model = Model(Totals(*totals[:4]))
    after = 0
    while found := await store.items_after(after, 1000):
        for sums in found:
            model.items[sums.product_id] = Item(*sums[:5], dict(sums.together), dict(sums.also))
        after = found[-1].number
    async for user_id, history in store.all_users():
        model.users[user_id] = decode_user(user_id, history)
    return contents(model)


async def stored(dsn: str) -> dict[str, Any]:
    """Returns the same, when nobody folds events in."""
    async with ModelStore.open(dsn) as store:
        return await stored_contents(store)


async def fold_all(store: ModelStore, events: Sequence[Event], *, page: int = 100, save_every: int = 1) -> None:
    """Folds in events from the saved position on, as a relay does: page by page, saved after every so many pages."""
    folder = Folder(store)
    await folder.start()
    pages = 0
    while rest := [event for event in events if event.position > folder.position][:page]:
        await folder.fold(rest)
        pages += 1
        if pages % save_every == 0:
            await folder.save()
    await folder.save()


async def publish_all(store: ModelStore) -> dict[str, Any]:
    """Publishes all rows and returns them by product_id."""
    folder = Folder(store)
    await folder.start()
    after = await folder.refresh()
    while after:
        after = await folder.refresh(after)
    return {row.product_id: row async for row in store.all_rows()}


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, numbers to a millionth of their size."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def orders(count: int, *, users: int = 40, products: int = 120, days: int = 60, seed: int = 1) -> Iterator[Event]:
    """Yields purchases with a structure to be found.

    Products belong to groups of six that are bought together. Each user has three groups, and buys some products of one of them
    every time, some from another, and now and then a product that everybody buys, `P000`.
    """
    chance = random.Random(seed)
    groups = [[f"P{number:03}" for number in range(start, min(start + 6, products))] for start in range(1, products, 6)]
    tastes = [chance.sample(groups, 3) for _ in range(users)]
    for position in range(1, count + 1):
        user = chance.randrange(users)
        group = tastes[user][min(int(chance.expovariate(1.2)), 2)]
        bought = dict.fromkeys(chance.sample(group, min(len(group), chance.randint(1, 5))))
        if chance.random() < 0.3:
            bought["P000"] = None
        yield buys(position, f"user-{user:03}", *bought, day=days * position / count)


def dated(events: Iterable[Event]) -> list[Event]:
    """Returns the events as PostgreSQL may have them: with ids that have their times, the last one now."""
    found = list(events)
    shift = int(time.time()) - 60 - max((event.time for event in found), default=0.0)
    moved = [event._replace(time=float(int(event.time + shift))) for event in found]
    return [event._replace(event_id=str(make_id(int(event.time * 1000)))) for event in moved]


async def write_events(dsn: str, events: Sequence[Event]) -> None:
    """Writes events to PostgreSQL, as a relay does; those that are there are left alone."""
    lines = [
        json.dumps(
            {
                "event_id": event.event_id,
                "user_id": event.user_id,
                "event_type": event.type,
                "products": [{"product_id": id, "quantity": 1} for id in event.product_ids],
            }
        )
        for event in events
    ]
    await run(dsn, "SELECT cache_sidecar.add_user_events(%s::text[], '-infinity')", [lines])


@contextlib.asynccontextmanager
async def folding(dsn: str) -> AsyncIterator[None]:
    """Folds events in, as a relay does that leads."""
    relay = RecommendationRelay(dependency=Dependencies(is_logged=False).of("recommendations"))
    task = asyncio.create_task(relay.run(Leadership(dsn, region="", job=JOB, channel=CHANNEL)))
    try:
        yield
    finally:
        await cancel_and_wait(task)


async def position_of(dsn: str) -> int:
    """Returns the position up to which events are saved."""
    ((position,),) = await run(dsn, "SELECT position FROM cache_sidecar.recommendation_model")
    return int(position)


async def has_leader(dsn: str) -> bool:
    """Whether a relay folds events in."""
    async with ModelStore.connect(dsn) as store:
        return await store.has_leader()
