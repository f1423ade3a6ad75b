"""UserEventService: what users do, on its way to PostgreSQL."""

import json
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.services.event_writer import EventWriter
from cache_sidecar.services.shared.ids import make_id
from cache_sidecar.store.user_event import UserEventStore
from cache_sidecar.v1 import user_event_service_pb2 as pb
from cache_sidecar.v1.user_event_pb2 import UserEvent, UserEventProduct, UserEventType
from cache_sidecar.v1.user_event_service_pb2_grpc import UserEventServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
# Milliseconds by which an event may lie in the future, as clocks differ, and its time from that in its id.
AHEAD = 5 * 60_000
APART = 60_000
# `detail-page-view` of USER_EVENT_TYPE_DETAIL_PAGE_VIEW.
_TYPES = {number: name.removeprefix("USER_EVENT_TYPE_").lower().replace("_", "-") for name, number in UserEventType.items()}
_TEXTS = ("search_query", "attribution_token", "experiment_id", "variant")
# Made once: `json.dumps` with options makes an encoder for each call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# The end of the year 9999.
MAX_SECONDS = 253_402_300_799


class _Written(NamedTuple):
    """What became of the events of a request."""

    ids: list[str]
    refused: list[pb.RefusedUserEvent]


class UserEventService(UserEventServiceServicer):
    """Accepts events, and leaves to the writer where they go."""

    def __init__(self, writer: EventWriter, store: UserEventStore, *, max_age: timedelta, clock: Clock) -> None:
        """`max_age` is that of events that are still accepted."""
        self._writer = writer
        self._store = store
        self._max_age = int(max_age.total_seconds() * 1000)
        self._clock = clock

    async def WriteUserEvents(self, request: pb.WriteUserEventsRequest, context: Context) -> pb.WriteUserEventsResponse:
        """Writes the events of a request."""
        ids, refused = await self._write(request.events)
        return pb.WriteUserEventsResponse(event_ids=ids, refused_events=refused)

    async def StreamUserEvents(
        self, requests: AsyncIterator[pb.StreamUserEventsRequest], context: Context
    ) -> AsyncIterator[pb.StreamUserEventsResponse]:
        """Writes the events of one request after the other."""
        async for request in requests:
            ids, refused = await self._write(request.events)
            yield pb.StreamUserEventsResponse(event_ids=ids, refused_events=refused)

    async def PurgeUserEvents(self, request: pb.PurgeUserEventsRequest, context: Context) -> pb.PurgeUserEventsResponse:
        """Erases a user's events, those that are still in Redis by way of the relay."""
        count, _ = await self._store.erase(request.user_id)
        return pb.PurgeUserEventsResponse(purged_count=count)

    async def _write(self, events: Iterable[UserEvent]) -> _Written:
        now = int(self._clock.now() * 1000)
        written = _Written([], [])
        lines: list[bytes] = []
        counts = self._writer.counts
        for index, event in enumerate(events):
            event_id = _id_of(event, now, f"events[{index}]")
            # The time in the id is the one that counts: PostgreSQL finds a repeated event by both.
            age = now - (event_id.int >> 80)
            opted_out = event.HasField("personalised") and not event.personalised
            if refusal := _refusal(index, age, self._max_age):
                written.refused.append(refusal)
                counts.refused += 1
            counts.opted_out += opted_out and not refusal
            if refusal or opted_out:
                written.ids.append("")
            else:
                text = str(event_id)
                written.ids.append(text)
                lines.append(_line(text, event))
        if lines:
            await self._writer.write(lines)
        return written


def _id_of(event: UserEvent, now: int, path: str) -> UUID:
    """Returns the id of an event, made of its time if it has none. Raises InvalidRequest if both are given and do not agree."""
    time = _milliseconds(event.event_time, path) if event.HasField("event_time") else None
    if not event.event_id:
        return make_id(now if time is None else time)
    event_id = UUID(event.event_id)
    if time is not None and abs((event_id.int >> 80) - time) > APART:
        raise InvalidRequest({f"{path}.event_id": "must have the time in event_time: make it from that, or omit one of them"})
    return event_id


def _milliseconds(time: Timestamp, path: str) -> int:
    if not (0 <= time.seconds <= MAX_SECONDS and 0 <= time.nanos < 10**9):
        raise InvalidRequest({f"{path}.event_time": "must be a google.protobuf.Timestamp between the years 1970 and 9999"})
    return time.seconds * 1000 + time.nanos // 10**6


def _refusal(index: int, age: int, max_age: int) -> pb.RefusedUserEvent | None:
    if age > max_age:
        text = f"the event is {age / 86_400_000:.1f} days old: event_max_age is {max_age / 86_400_000:g} days"
        return pb.RefusedUserEvent(index=index, reason=pb.REFUSAL_REASON_TOO_OLD, message=text)
    if -age > AHEAD:
        text = f"the event is {-age / 1000:.0f} s in the future, and may be {AHEAD // 1000} s"
        return pb.RefusedUserEvent(index=index, reason=pb.REFUSAL_REASON_IN_FUTURE, message=text)
    return None


def _line(event_id: str, event: UserEvent) -> bytes:
    """Returns an event as a JSON object with the columns of its table; those that are empty are left out."""
    columns: dict[str, Any] = {"event_id": event_id, "event_type": _TYPES[event.event_type]}
    if user_id := event.user_id:
        columns["user_id"] = user_id
    if event.products:
        columns["products"] = [_product(product) for product in event.products]
    for name in _TEXTS:
        if text := getattr(event, name):
            columns[name] = text
    if event.HasField("value"):
        columns |= _amount(event.value, "value")
    return _encode(columns).encode()


def _product(product: UserEventProduct) -> dict[str, Any]:
    found: dict[str, Any] = {"product_id": product.product_id, "quantity": product.quantity or 1}
    return found | _amount(product.unit_price, "price") if product.HasField("unit_price") else found


def _amount(money: Money, name: str) -> dict[str, Any]:
    return {f"{name}_units": money.units, f"{name}_nanos": money.nanos, "currency_code": money.currency_code}
