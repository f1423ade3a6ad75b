"""The copy of the user events: a document each, `_id` is the event_id, so that one that is written again changes nothing.

A line of an event is an object in the array `products`. Amounts are Decimal128, and what is empty is left out.

How far the copy is, is stored beside it: a copy that was restored from a backup, or is another one, says so itself.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import bson
from bson.decimal128 import Decimal128
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError, OperationFailure

from cache_sidecar.mongodb.database import CODEC, EVENTS, POSITIONS, Collection, Database, Document, are_duplicates, map_errors
from cache_sidecar.store.user_event import StoredEvent

# The greatest document of MongoDB, in bytes.
LARGEST = 16 * 1024 * 1024
_INDEX_OPTIONS_CONFLICT = 85
_POSITION = {"_id": EVENTS}
_TEXTS = ("currency_code", "search_query", "attribution_token", "experiment_id", "variant")
_NANO = Decimal("1e-9")


class EventCopy:
    """Writes the copy. Methods raise MongoDbFailed."""

    def __init__(self, database: Database) -> None:
        self._events: Collection = database[EVENTS]
        self._positions: Collection = database[POSITIONS]

    async def prepare(self, retention: timedelta) -> None:
        """Makes the indexes; by that of times, MongoDB deletes events which are older than `retention`."""
        seconds = int(retention.total_seconds())
        with map_errors():
            await self._events.create_index([("user_id", 1), ("event_time", 1)])
            try:
                await self._events.create_index("event_time", expireAfterSeconds=seconds)
            except OperationFailure as error:
                if error.code != _INDEX_OPTIONS_CONFLICT:
                    raise
                index = {"keyPattern": {"event_time": 1}, "expireAfterSeconds": seconds}
                await self._events.database.command("collMod", EVENTS, index=index)

    async def position(self) -> int:
        """Returns the position up to which the copy has all events; 0 for a new one."""
        with map_errors():
            found = await self._positions.find_one(_POSITION)
        return int(found["position"]) if found else 0

    async def save_position(self, position: int) -> None:
        """Records how far the copy is. It never goes back: a former leader that wakes up is behind its successor."""
        with map_errors():
            await self._positions.update_one(_POSITION, {"$max": {"position": position}}, upsert=True)

    async def reset_position(self) -> None:
        """Has the copy begin anew. What it has stays."""
        with map_errors():
            await self._positions.delete_one(_POSITION)

    async def add(self, events: Sequence[StoredEvent]) -> int:
        """Writes events that are not there yet; returns how many of them cannot be documents, and were left out."""
        documents = [document for event in events if (document := _encode(event)) is not None]
        if documents:
            with map_errors():
                try:
                    await self._events.insert_many(documents, ordered=False)
                except BulkWriteError as error:
                    if not are_duplicates(error):
                        raise
        return len(events) - len(documents)

    async def delete(self, event_ids: Sequence[UUID]) -> None:
        """Deletes events."""
        with map_errors():
            await self._events.delete_many({"_id": {"$in": list(event_ids)}})

    async def erase(self, user_id: str, *, kept: Iterable[UUID]) -> int:
        """Deletes a user's events except some; returns how many."""
        with map_errors():
            done = await self._events.delete_many({"user_id": user_id, "_id": {"$nin": list(kept)}})
        return done.deleted_count


def _encode(event: StoredEvent) -> Any:
    """Returns an event as a document; None for one that cannot be. Sidecars write none, but whoever can write to Redis may."""
    try:
        encoded = bson.encode(_document(event), codec_options=CODEC)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, bson.errors.BSONError):
        return None
    return RawBSONDocument(encoded) if len(encoded) <= LARGEST else None


def _document(event: StoredEvent) -> Document:
    document: Document = {
        "_id": event.event_id,
        "event_time": event.event_time,
        "event_type": event.event_type,
        "user_id": event.user_id,
    }
    if event.products:
        document["products"] = [_product(line) for line in event.products]
    if event.value_units is not None:
        document["value"] = _amount(event.value_units, event.value_nanos or 0)
    return document | {name: text for name in _TEXTS if (text := getattr(event, name))}


def _product(line: dict[str, Any]) -> Document:
    product = {"product_id": line["product_id"], "quantity": int(line["quantity"])}
    if line.get("price_units") is not None:
        product |= {"price": _amount(line["price_units"], line["price_nanos"]), "currency_code": line["currency_code"]}
    return product


def _amount(units: int, nanos: int) -> Decimal128:
    amount = (units + nanos * _NANO).normalize()
    # 100, not 1E+2, which is how it would be printed.
    return Decimal128(amount.quantize(Decimal(1)) if amount == amount.to_integral_value() else amount)
