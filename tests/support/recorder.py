"""User events for tests: a client, and a relay that moves them to PostgreSQL in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.backoff import Sleep
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.relay import user_events
from cache_sidecar.relay.user_events import UserEventRelay
from cache_sidecar.services.shared.ids import make_id
from cache_sidecar.store.leadership import Leadership
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.event_streams import EventStreams
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.v1 import user_event_pb2
from cache_sidecar.v1 import user_event_service_pb2 as pb
from cache_sidecar.v1.user_event_pb2 import UserEvent, UserEventProduct
from cache_sidecar.v1.user_event_service_pb2_grpc import UserEventServiceStub
from tests.support.customers import money
from tests.support.databases import run

VIEW = user_event_pb2.USER_EVENT_TYPE_DETAIL_PAGE_VIEW
ADD = user_event_pb2.USER_EVENT_TYPE_ADD_TO_CART
REMOVE = user_event_pb2.USER_EVENT_TYPE_REMOVE_FROM_CART
BUY = user_event_pb2.USER_EVENT_TYPE_PURCHASE_COMPLETE
SEARCH = user_event_pb2.USER_EVENT_TYPE_SEARCH
HOME = user_event_pb2.USER_EVENT_TYPE_HOME_PAGE_VIEW


def product(product_id: str, quantity: int = 1, price: str = "") -> UserEventProduct:
    """Returns a line of an event; `price` as `29.99 EUR`."""
    return UserEventProduct(product_id=product_id, quantity=quantity, unit_price=money(price) if price else None)


def event(user: str, kind: int = HOME, *products: UserEventProduct, at: float | None = None, **fields: Any) -> UserEvent:
    """Returns an event; `at` is its time in seconds since 1970."""
    made = UserEvent(event_type=kind, user_id=user, products=products, **fields)  # type: ignore[arg-type]
    if at is not None:
        made.event_time.FromMilliseconds(int(at * 1000))
    return made


def new_event_id(at: float) -> str:
    """Returns a new event_id with a time in seconds since 1970."""
    return str(make_id(int(at * 1000)))


class Recorder:
    """UserEventService as a shop calls it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.calls: Any = UserEventServiceStub(channel)

    async def write(self, *events: UserEvent, **options: Any) -> pb.WriteUserEventsResponse:
        """Writes events."""
        reply: pb.WriteUserEventsResponse = await self.calls.WriteUserEvents(
            pb.WriteUserEventsRequest(events=events), **options
        )
        return reply

    async def stream(self, *requests: Sequence[UserEvent]) -> AsyncIterator[pb.StreamUserEventsResponse]:
        """Writes events in bulk, and yields the replies."""
        sent = (pb.StreamUserEventsRequest(events=events) for events in requests)
        async for reply in self.calls.StreamUserEvents(sent):
            yield reply

    async def purge(self, user: str) -> int:
        """Erases a user's events, and returns how many there were in PostgreSQL."""
        reply: pb.PurgeUserEventsResponse = await self.calls.PurgeUserEvents(pb.PurgeUserEventsRequest(user_id=user))
        return reply.purged_count


@contextlib.asynccontextmanager
async def open_streams(settings: Settings) -> AsyncIterator[EventStreams]:
    """Opens the streams of a namespace, as another sidecar or relay does."""
    connection, names = RedisClient(settings), KeyNames(settings.namespace)
    l2 = RedisL2(connection, names)
    try:
        yield EventStreams(connection, names, timeout=settings.redis_timeout, load_scripts=l2.load_scripts)
    finally:
        await connection.close()


def relay_of(
    settings: Settings, streams: EventStreams, *, clock: Clock | None = None, sleep: Sleep = asyncio.sleep
) -> UserEventRelay:
    """Returns the relay's part that moves events."""
    return UserEventRelay(
        streams,
        region=settings.region,
        retention=timedelta(days=settings.event_retention),
        clock=clock or SystemClock(),
        dependency=Dependencies().of("user events"),
        sleep=sleep,
    )


def leadership_of(settings: Settings) -> Leadership:
    """Returns a candidate for the lead of that part."""
    return Leadership(settings.database("analytics"), region=settings.region, job=user_events.JOB, channel="")


@contextlib.asynccontextmanager
async def moving(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[None]:
    """Moves events to PostgreSQL."""
    async with open_streams(settings) as streams:
        task = asyncio.create_task(relay_of(settings, streams, clock=clock).run(leadership_of(settings)))
        try:
            yield
        finally:
            await cancel_and_wait(task)


async def ids_in(database: str, user: str) -> list[str]:
    """Returns the ids of a user's events in PostgreSQL, by time."""
    query = "SELECT event_id FROM cache_sidecar.user_events WHERE user_id = %s ORDER BY event_time, event_id"
    return [str(UUID(str(id))) for (id,) in await run(database, query, [user])]
