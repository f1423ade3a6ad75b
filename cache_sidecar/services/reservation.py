"""The methods of InventoryService that are about reservations."""

import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import grpc
from google.protobuf.duration_pb2 import Duration

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import InvalidRequest, OutOfStock, ReservationEnded
from cache_sidecar.inventory.admission import ReservationAdmission
from cache_sidecar.services import stock
from cache_sidecar.services.shared import pages, rows
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.services.stock import timestamp, written
from cache_sidecar.store.pool import Connection, WriteResult
from cache_sidecar.store.reservation import COMMITTED, EXPIRED, HELD, RELEASED, ReservationRow, ReservationStore
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.v1 import inventory_pb2
from cache_sidecar.v1 import inventory_service_pb2 as pb
from cache_sidecar.v1.inventory_pb2 import Reservation, ReservationItem, ReservationState
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
HOLD = timedelta(minutes=15)
# Reservations of a page, each of up to 1,000 items.
MAX_PAGE = 100
STATES = {
    HELD: inventory_pb2.RESERVATION_STATE_HELD,
    COMMITTED: inventory_pb2.RESERVATION_STATE_COMMITTED,
    RELEASED: inventory_pb2.RESERVATION_STATE_RELEASED,
    EXPIRED: inventory_pb2.RESERVATION_STATE_EXPIRED,
}
_NAMES: dict[int, str] = {number: name for name, number in STATES.items()}


class _Ending(Protocol):
    """A request that ends a reservation."""

    reservation_id: str
    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:
        """Returns the bytes of the message."""
        ...


class ReservationMethods(InventoryServiceServicer):
    """Makes, changes and reads reservations."""

    def __init__(
        self,
        rows: Dataset,
        *,
        reservations: ReservationStore,
        writer: Writer,
        gate: ReservationAdmission,
        clock: Clock,
        bound: Bound,
    ) -> None:
        self._rows = rows
        self._bound = bound
        self._reservations = reservations
        self._writer = writer
        self._gate = gate
        self._clock = clock

    async def ReserveInventory(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ReserveInventoryRequest, context: Context
    ) -> bytes:
        """The gate may refuse; PostgreSQL decides."""
        items, request_id = _items(request), UUID(request.request_id)
        await self._gate.look_in(items, request_id)
        async with self._gate.admit(items, request_id) as buckets:
            row = self._new(request, items)
            # Any bucket will do, and not the same one for everybody.
            preferred = {product_id: row.reservation_id.int % buckets[product_id] for product_id in items}

            async def reserve(connection: Connection) -> WriteResult:
                reserved = await self._reservations.reserve(connection, row, preferred)
                if reserved.short_of:
                    parts = [stock.part(found) for found in reserved.rows]
                    self._gate.learn(reserved.short_of, parts)
                    raise OutOfStock(reserved.short_of, sum(part.stock.available for part in parts))
                return written(pb.ReserveInventoryResponse(reservation=_message(row)), reserved.rows)

            return await self._writer.write(self._rows, request, reserve)

    def _new(self, request: pb.ReserveInventoryRequest, items: dict[str, int]) -> ReservationRow:
        now = self._now()
        return ReservationRow(
            reservation_id=_later_id(now),
            request_id=UUID(request.request_id),
            user_id=request.user_id,
            state=HELD,
            create_time=now,
            expire_time=now + _hold(request.hold_duration, given=request.HasField("hold_duration")),
            end_time=None,
            items=items,
        )

    async def ExtendReservation(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ExtendReservationRequest, context: Context
    ) -> bytes:
        """Leaves the stock as it is."""
        until = self._now() + _hold(request.hold_duration, given=request.HasField("hold_duration"))

        async def extend(connection: Connection) -> WriteResult:
            await self._reservations.extend(connection, request.reservation_id, until)
            row = await self._reservations.current(connection, request.reservation_id)
            _check(row, {HELD})
            return written(pb.ExtendReservationResponse(reservation=_message(row)), ())

        return await self._writer.write(self._rows, request, extend)

    async def CommitReservation(  # type: ignore[override]  # replies are serialized here
        self, request: pb.CommitReservationRequest, context: Context
    ) -> bytes:
        """Whoever comes first decides: this, a release, or the relay that lets it expire."""
        return await self._end(request, COMMITTED, {COMMITTED}, pb.CommitReservationResponse)

    async def ReleaseReservation(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ReleaseReservationRequest, context: Context
    ) -> bytes:
        """One that expired has given its pieces back, too."""
        return await self._end(request, RELEASED, {RELEASED, EXPIRED}, pb.ReleaseReservationResponse)

    async def _end(self, request: _Ending, state: str, fine: Collection[str], reply: Any) -> bytes:
        id, at = request.reservation_id, self._now()

        async def end(connection: Connection) -> WriteResult:
            ended = await self._reservations.end(connection, id, state, at)
            row = await self._reservations.current(connection, id)
            _check(row, fine)
            # Whoever did it before may have died before Redis, or this sidecar, heard of it.
            return written(reply(reservation=_message(row)), ended or await self._reservations.stock(connection, id))

        return await self._writer.write(self._rows, request, end)

    async def GetReservation(self, request: pb.GetReservationRequest, context: Context) -> pb.GetReservationResponse:
        """Reads what PostgreSQL holds."""
        row = await self._reservations.get(request.reservation_id)
        reservation = rows.read_alone(row, _message, resource="reservation", id=request.reservation_id)
        return pb.GetReservationResponse(reservation=reservation)

    async def ListReservations(self, request: pb.ListReservationsRequest, context: Context) -> pb.ListReservationsResponse:
        """Asks for one reservation more than is wanted, to know whether there is another page."""
        size = min(pages.size(request.page_size), MAX_PAGE)
        state = _NAMES.get(request.state, "")
        listing = f"reservations {state} {request.user_id}"
        before = _uuid(pages.after(request.page_token, listing))
        found = await self._reservations.page(
            before=before, user_id=request.user_id, state=state, limit=size + 1, max_bytes=self._bound.room
        )
        page = self._bound.page(found, size, rows.readable(_message, self._rows))
        return pb.ListReservationsResponse(
            reservations=page.messages,
            next_page_token="" if page.is_last else pages.token(str(page.rows[-1].reservation_id), listing),
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def _items(request: pb.ReserveInventoryRequest) -> dict[str, int]:
    """Returns pieces by product, in the order in which products are locked. Raises InvalidRequest."""
    items: dict[str, int] = {}
    for number, item in enumerate(request.items):
        if item.product_id in items:
            raise InvalidRequest({f"items[{number}].product_id": f"{item.product_id!r} is named twice: add up the quantities"})
        items[item.product_id] = item.quantity
    return dict(sorted(items.items()))


def _hold(duration: Duration, *, given: bool) -> timedelta:
    return duration.ToTimedelta() if given else HOLD


def _check(row: ReservationRow, fine: Collection[str]) -> None:
    if row.state not in fine:
        raise ReservationEnded(str(row.reservation_id), row.state)


def _later_id(now: datetime) -> UUID:
    """Returns a UUID of version 7 (RFC 9562): milliseconds, then chance."""
    chance = secrets.randbits(74)
    milliseconds = int(now.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | chance >> 62 << 64 | 0b10 << 62 | chance & (1 << 62) - 1)


def _uuid(text: str) -> str:
    if text:
        try:
            UUID(text)
        except ValueError:
            raise InvalidRequest({"page_token": "must be the next_page_token of a page of the same listing"}) from None
    return text


def _message(row: ReservationRow) -> Reservation:
    return Reservation(
        reservation_id=str(row.reservation_id),
        user_id=row.user_id,
        items=[ReservationItem(product_id=id, quantity=quantity) for id, quantity in row.items.items()],
        state=ReservationState.ValueType(STATES[row.state]),
        create_time=timestamp(row.create_time),
        expire_time=timestamp(row.expire_time),
        end_time=timestamp(row.end_time) if row.end_time else None,
    )
