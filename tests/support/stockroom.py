"""A client of the inventory, as the tests use it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
from google.protobuf.duration_pb2 import Duration

from cache_sidecar.core.clock import SystemClock
from cache_sidecar.core.errors import Tier
from cache_sidecar.relay.holds import ExpiredHolds
from cache_sidecar.store.database import Database
from cache_sidecar.store.reservation import HoldStore
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from cache_sidecar.v1 import cache_pb2, inventory_pb2
from cache_sidecar.v1 import inventory_service_pb2 as pb
from cache_sidecar.v1 import inventory_service_pb2_grpc as pb_grpc
from cache_sidecar.v1.inventory_pb2 import Inventory, Reservation, ReservationItem

HELD = inventory_pb2.RESERVATION_STATE_HELD
COMMITTED = inventory_pb2.RESERVATION_STATE_COMMITTED
RELEASED = inventory_pb2.RESERVATION_STATE_RELEASED
EXPIRED = inventory_pb2.RESERVATION_STATE_EXPIRED


def request_id() -> str:
    """Returns a new one."""
    return str(uuid4())


def reserving(items: Mapping[str, int], *, hold: float | None = None, **fields: Any) -> pb.ReserveInventoryRequest:
    """Returns a valid request, with a new request_id if none is given."""
    request = pb.ReserveInventoryRequest(
        items=[ReservationItem(product_id=id, quantity=quantity) for id, quantity in items.items()],
        **{"user_id": "somebody", "request_id": request_id()} | fields,
    )
    if hold is not None:
        request.hold_duration.CopyFrom(_duration(hold))
    return request


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


class Stockroom:
    """The inventory of a sidecar as its callers see it."""

    def __init__(self, channel: Any) -> None:
        self.calls: Any = pb_grpc.InventoryServiceStub(channel)

    async def set(self, product_id: str, available: int, **fields: Any) -> Inventory:
        """Sets a stock."""
        request = pb.SetInventoryRequest(product_id=product_id, available=available, **fields)
        reply: pb.SetInventoryResponse = await self.calls.SetInventory(request)
        return reply.inventory

    async def adjust(self, product_id: str, delta: int, *, request_id: str = "", reason: str = "counted") -> Inventory:
        """Changes a stock."""
        request = pb.AdjustInventoryRequest(
            product_id=product_id, delta=delta, reason=reason, request_id=request_id or str(uuid4())
        )
        reply: pb.AdjustInventoryResponse = await self.calls.AdjustInventory(request)
        return reply.inventory

    async def get(self, product_id: str, **options: Any) -> Inventory:
        """Reads a stock."""
        return (await self.read(product_id, **options)).inventory

    async def read(self, product_id: str, **options: Any) -> pb.GetInventoryResponse:
        """Reads a stock with its cache metadata."""
        asked = cache_pb2.ReadOptions(**options) if options else None
        reply: pb.GetInventoryResponse = await self.calls.GetInventory(
            pb.GetInventoryRequest(product_id=product_id, options=asked)
        )
        return reply

    async def numbers(self, product_id: str, **options: Any) -> tuple[int, int]:
        """Returns what is available and what is reserved."""
        stock = await self.get(product_id, **options)
        return stock.available, stock.reserved

    async def reserve(self, items: Mapping[str, int], **fields: Any) -> Reservation:
        """Reserves."""
        reply: pb.ReserveInventoryResponse = await self.calls.ReserveInventory(reserving(items, **fields))
        return reply.reservation

    async def extend(self, reservation_id: str, hold: float, **fields: Any) -> Reservation:
        """Extends a reservation."""
        request = pb.ExtendReservationRequest(reservation_id=reservation_id, hold_duration=_duration(hold), **fields)
        reply: pb.ExtendReservationResponse = await self.calls.ExtendReservation(request)
        return reply.reservation

    async def commit(self, reservation_id: str, **fields: Any) -> Reservation:
        """Commits a reservation."""
        request = pb.CommitReservationRequest(reservation_id=reservation_id, **fields)
        reply: pb.CommitReservationResponse = await self.calls.CommitReservation(request)
        return reply.reservation

    async def release(self, reservation_id: str, **fields: Any) -> Reservation:
        """Releases a reservation."""
        request = pb.ReleaseReservationRequest(reservation_id=reservation_id, **fields)
        reply: pb.ReleaseReservationResponse = await self.calls.ReleaseReservation(request)
        return reply.reservation

    async def reservation(self, reservation_id: str) -> Reservation:
        """Reads a reservation."""
        request = pb.GetReservationRequest(reservation_id=reservation_id)
        reply: pb.GetReservationResponse = await self.calls.GetReservation(request)
        return reply.reservation


class FixedClock:
    """A clock that stands still, such as at a moment when reservations have expired."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> float:
        """Returns the moment."""
        return self.moment.timestamp()


@asynccontextmanager
async def database_of(dsn: str) -> AsyncIterator[Database]:
    """Opens a database as the relay does."""
    guard = Guard(Tier.STORE, timeout=10.0, max_running=8, max_waiting=64, breaker=Breaker(Tier.STORE, clock=SystemClock()))
    database = Database(dsn, size=8, timeout=10.0, prepare=True, guard=guard)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def expire(dsn: str, *, at: datetime) -> int:
    """Expires reservations, as the relay does every second, at a given moment; returns how many."""
    async with database_of(dsn) as database:
        return await ExpiredHolds(HoldStore(database), clock=FixedClock(at)).step()


def moment(timestamp: Any, *, after: float = 0.0) -> datetime:
    """Returns the time of a Timestamp, plus that many seconds."""
    return datetime.fromtimestamp(timestamp.seconds + timestamp.nanos / 1e9 + after, UTC)


async def query(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Queries PostgreSQL directly."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(statement, parameters)  # type: ignore[arg-type]  # a constant of the tests
        return await cursor.fetchall() if cursor.description else []
