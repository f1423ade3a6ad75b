"""Stock and reservations."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta

from cache_sidecar_client import _methods, values
from cache_sidecar_client._async.caller import Caller, resume_after
from cache_sidecar_client.errors import SidecarError, Unavailable
from cache_sidecar_client.models import STATE, Inventory, InventoryChange, Reservation, cache_of, read_options
from cache_sidecar_client.v1 import inventory_pb2, inventory_service_pb2


class Inventories:
    """Reads, sets and reserves stock."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def get(
        self, product_id: str, *, max_age: float | None = None, bypass: bool = False, timeout: float | None = None
    ) -> Inventory:
        """Returns the stock of a product. Raises NotFound if none was ever set."""
        request = inventory_service_pb2.GetInventoryRequest(product_id=product_id, options=read_options(max_age, bypass))
        reply = await self._caller.call(_methods.GET_INVENTORY, request, timeout)
        return Inventory(reply.inventory, cache_of(reply.cache))

    async def batch_get(
        self,
        product_ids: Iterable[str],
        *,
        max_age: float | None = None,
        bypass: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Inventory]:
        """Returns the stocks that exist, by product ID, in the order of the request. Any number: 500 are read at once."""
        found: dict[str, Inventory] = {}
        for ids in values.chunks(list(dict.fromkeys(product_ids)), 500):
            request = inventory_service_pb2.BatchGetInventoryRequest(product_ids=ids, options=read_options(max_age, bypass))
            reply = await self._caller.call(_methods.BATCH_GET_INVENTORY, request, timeout)
            for message, cache in zip(reply.inventories, reply.inventory_caches, strict=True):
                found[message.product_id] = Inventory(message, cache_of(cache))
        return found

    async def set(
        self,
        product_id: str,
        available: int,
        *,
        etag: str = "",
        bucket_count: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Inventory:
        """Sets the number of pieces that can be reserved. Raises EtagMismatch, BucketsInUse."""
        request = inventory_service_pb2.SetInventoryRequest(
            product_id=product_id, available=available, etag=etag, bucket_count=bucket_count, request_id=request_id
        )
        reply = await self._caller.call(_methods.SET_INVENTORY, request, timeout)
        return Inventory(reply.inventory)

    async def adjust(
        self, product_id: str, delta: int, reason: str, *, request_id: str = "", timeout: float | None = None
    ) -> Inventory:
        """Adds or removes pieces; the reason is stored. Raises NotFound, OutOfStock."""
        request = inventory_service_pb2.AdjustInventoryRequest(
            product_id=product_id, delta=delta, reason=reason, request_id=request_id
        )
        reply = await self._caller.call(_methods.ADJUST_INVENTORY, request, timeout)
        return Inventory(reply.inventory)

    async def reserve(
        self,
        user_id: str,
        items: Mapping[str, int],
        *,
        hold: timedelta | float | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Reservation:
        """Reserves pieces of products, all or none, by default for 15 minutes.

        Raises OutOfStock, which names the first product of which there are too few, and NotFound.
        """
        request = inventory_service_pb2.ReserveInventoryRequest(
            user_id=user_id,
            items=[inventory_pb2.ReservationItem(product_id=id, quantity=quantity) for id, quantity in items.items()],
            hold_duration=None if hold is None else values.duration_fields(hold),
            request_id=request_id,
        )
        reply = await self._caller.call(_methods.RESERVE_INVENTORY, request, timeout)
        return Reservation(reply.reservation)

    async def extend(
        self,
        reservation_id: str,
        *,
        hold: timedelta | float | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Reservation:
        """Holds a reservation longer, from now on. Raises NotFound, ReservationEnded."""
        request = inventory_service_pb2.ExtendReservationRequest(
            reservation_id=reservation_id,
            hold_duration=None if hold is None else values.duration_fields(hold),
            request_id=request_id,
        )
        reply = await self._caller.call(_methods.EXTEND_RESERVATION, request, timeout)
        return Reservation(reply.reservation)

    async def commit(self, reservation_id: str, *, request_id: str = "", timeout: float | None = None) -> Reservation:
        """Commits a reservation: its pieces are sold. Raises NotFound, ReservationEnded."""
        request = inventory_service_pb2.CommitReservationRequest(reservation_id=reservation_id, request_id=request_id)
        reply = await self._caller.call(_methods.COMMIT_RESERVATION, request, timeout)
        return Reservation(reply.reservation)

    async def release(self, reservation_id: str, *, request_id: str = "", timeout: float | None = None) -> Reservation:
        """Releases a reservation: its pieces are available again. Raises NotFound, ReservationEnded."""
        request = inventory_service_pb2.ReleaseReservationRequest(reservation_id=reservation_id, request_id=request_id)
        reply = await self._caller.call(_methods.RELEASE_RESERVATION, request, timeout)
        return Reservation(reply.reservation)

    async def get_reservation(self, reservation_id: str, *, timeout: float | None = None) -> Reservation:
        """Returns a reservation. Raises NotFound."""
        request = inventory_service_pb2.GetReservationRequest(reservation_id=reservation_id)
        reply = await self._caller.call(_methods.GET_RESERVATION, request, timeout)
        return Reservation(reply.reservation)

    async def list_reservations(
        self, *, user_id: str = "", state: str | None = None, page_size: int = 0, timeout: float | None = None
    ) -> AsyncGenerator[Reservation, None]:
        """Yields reservations, the newest first; `state` is HELD, COMMITTED, RELEASED or EXPIRED."""
        request = inventory_service_pb2.ListReservationsRequest(user_id=user_id, page_size=page_size)
        if state is not None:
            request.state = STATE.number(state)  # type: ignore[assignment]  # an enum's number
        while True:
            reply = await self._caller.call(_methods.LIST_RESERVATIONS, request, timeout)
            for message in reply.reservations:
                yield Reservation(message)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def watch(
        self, product_ids: Sequence[str] = (), *, categories: Sequence[str] = ()
    ) -> AsyncGenerator[InventoryChange, None]:
        """Yields the stocks of products and of all products in categories, then every change of them.

        The first event has no product_id: the watch has started. It goes on after the connection was lost; then such an
        event comes again, with `missed`. Ends only when the generator or the client is closed.
        """
        request = inventory_service_pb2.WatchInventoryRequest(product_ids=product_ids, categories=categories)
        began = missed = False
        repeats = 0
        while True:
            try:
                async with aclosing(self._caller.stream(_methods.WATCH_INVENTORY, request)) as replies:
                    async for reply in replies:
                        stock = Inventory(reply.inventory) if reply.HasField("inventory") else None
                        yield InventoryChange(reply.product_id, stock, cache_of(reply.cache), missed)
                        began, missed, repeats = True, False, 0
                failure: SidecarError = Unavailable("the stream has ended")
            except SidecarError as error:
                failure = error
            missed = began
            await resume_after(self._caller, failure, repeats)
            repeats += 1
