"""The methods of InventoryService for reservations."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import grpc

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import InvalidRequest, OutOfStock, ReservationEnded
from cache_sidecar.inventory.admission import ReservationAdmission
from cache_sidecar.services.inventory_messages import make_bucket, result_of
from cache_sidecar.services.purchases import Purchases
from cache_sidecar.services.shared import pages, rows
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.ids import make_id
from cache_sidecar.services.shared.timestamps import datetime_of, optional_timestamp, timestamp
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.store.reservation import COMMITTED, EXPIRED, HELD, RELEASED, ReservationRow, ReservationStore
from cache_sidecar.store.writes import Transaction, WriteResult
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
        admission: ReservationAdmission,
        purchases: Purchases,
        clock: Clock,
        bound: Bound,
    ) -> None:
        self._rows = rows
        self._bound = bound
        self._reservations = reservations
        self._writer = writer
        self._admission = admission
        self._purchases = purchases
        self._clock = clock

    async def ReserveInventory(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ReserveInventoryRequest, context: Context
    ) -> bytes:
        """Admission may refuse; PostgreSQL decides."""
        items = _items(request)
        async with self._admission.admit(items, UUID(request.request_id)) as buckets:
            row = _new_reservation(request, items, datetime_of(self._clock.now()))
            # Any bucket will do; random ones, so that concurrent reservations do not wait for the same row.
            preferred = {product_id: row.reservation_id.int % buckets[product_id] for product_id in items}

            async def reserve(tx: Transaction) -> WriteResult[None]:
                reserved = await self._reservations.reserve(tx, row, preferred)
                if reserved.short_of:
                    found = [make_bucket(stock) for stock in reserved.rows]
                    self._admission.note_shortage(reserved.short_of, found)
                    raise OutOfStock(reserved.short_of, sum(bucket.stock.available for bucket in found))
                return result_of(pb.ReserveInventoryResponse(reservation=_message(row)), reserved.rows)

            return await self._writer.write(self._rows, request, reserve)

    async def ExtendReservation(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ExtendReservationRequest, context: Context
    ) -> bytes:
        """Leaves the inventory as it is."""
        until = datetime_of(self._clock.now()) + (
            request.hold_duration.ToTimedelta() if request.HasField("hold_duration") else HOLD
        )

        async def extend(tx: Transaction) -> WriteResult[None]:
            await self._reservations.extend(tx, request.reservation_id, until)
            row = await self._reservations.read(tx, request.reservation_id)
            _check_state(row, {HELD})
            return result_of(pb.ExtendReservationResponse(reservation=_message(row)), ())

        return await self._writer.write(self._rows, request, extend)

    async def CommitReservation(  # type: ignore[override]  # replies are serialized here
        self, request: pb.CommitReservationRequest, context: Context
    ) -> bytes:
        """The first one decides: this, a release, or the relay that lets the hold expire."""
        reply = await self._end(request, COMMITTED, {COMMITTED}, pb.CommitReservationResponse)
        if self._purchases.are_recorded:
            await self._purchases.record(pb.CommitReservationResponse.FromString(reply).reservation)
        return reply

    async def ReleaseReservation(  # type: ignore[override]  # replies are serialized here
        self, request: pb.ReleaseReservationRequest, context: Context
    ) -> bytes:
        """Also succeeds for a hold that expired: its pieces were given back, too."""
        return await self._end(request, RELEASED, {RELEASED, EXPIRED}, pb.ReleaseReservationResponse)

    async def _end(self, request: _Ending, state: str, fine: Collection[str], reply: Any) -> bytes:
        id, now = request.reservation_id, datetime_of(self._clock.now())

        async def end(tx: Transaction) -> WriteResult[None]:
            changed = await self._reservations.end(tx, id, state, now)
            row = await self._reservations.read(tx, id)
            _check_state(row, fine)
            # If it ended before, the sidecar that did it may have died before the caches had it: published again.
            return result_of(reply(reservation=_message(row)), changed or await self._reservations.read_rows(tx, id))

        return await self._writer.write(self._rows, request, end)

    async def GetReservation(self, request: pb.GetReservationRequest, context: Context) -> pb.GetReservationResponse:
        """Reads PostgreSQL; reservations are not cached."""
        row = await self._reservations.get(request.reservation_id)
        reservation = rows.read_alone(row, _message, resource="reservation", id=request.reservation_id)
        return pb.GetReservationResponse(reservation=reservation)

    async def ListReservations(self, request: pb.ListReservationsRequest, context: Context) -> pb.ListReservationsResponse:
        """Reads one reservation more than the page has, to know whether there is another page."""
        size = min(pages.size(request.page_size), MAX_PAGE)
        state = _NAMES.get(request.state, "")
        listing = f"reservations {state} {request.user_id}"
        (before,) = pages.place(request.page_token, listing, UUID) or [None]
        found = await self._reservations.page(
            before=before, user_id=request.user_id, state=state, limit=size + 1, max_bytes=self._bound.room
        )
        page = self._bound.page(found, size, rows.skip_unreadable(_message, self._rows))
        return pb.ListReservationsResponse(
            reservations=page.messages,
            next_page_token="" if page.is_last else pages.token(str(page.rows[-1].reservation_id), listing),
        )


def _items(request: pb.ReserveInventoryRequest) -> dict[str, int]:
    """Returns pieces by product, in the order in which products are locked. Raises InvalidRequest."""
    items: dict[str, int] = {}
    for number, item in enumerate(request.items):
        if item.product_id in items:
            raise InvalidRequest({f"items[{number}].product_id": f"{item.product_id!r} is named twice: add up the quantities"})
        items[item.product_id] = item.quantity
    return dict(sorted(items.items()))


def _new_reservation(request: pb.ReserveInventoryRequest, items: dict[str, int], now: datetime) -> ReservationRow:
    return ReservationRow(
        reservation_id=make_id(int(now.timestamp() * 1000)),
        request_id=UUID(request.request_id),
        user_id=request.user_id,
        state=HELD,
        create_time=now,
        expire_time=now + (request.hold_duration.ToTimedelta() if request.HasField("hold_duration") else HOLD),
        end_time=None,
        items=items,
    )


def _check_state(row: ReservationRow, fine: Collection[str]) -> None:
    if row.state not in fine:
        raise ReservationEnded(str(row.reservation_id), row.state)


def _message(row: ReservationRow) -> Reservation:
    return Reservation(
        reservation_id=str(row.reservation_id),
        user_id=row.user_id,
        items=[ReservationItem(product_id=id, quantity=quantity) for id, quantity in row.items.items()],
        state=ReservationState.ValueType(STATES[row.state]),
        create_time=timestamp(row.create_time),
        expire_time=timestamp(row.expire_time),
        end_time=optional_timestamp(row.end_time),
    )
