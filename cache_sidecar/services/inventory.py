"""InventoryService: stock. What is about reservations is in reservation.py."""

from collections.abc import AsyncIterator

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import BucketsInUse, EtagMismatch, InvalidRequest, NotFound, OutOfStock
from cache_sidecar.inventory.admission import ReservationAdmission
from cache_sidecar.inventory.stock import StockReader
from cache_sidecar.inventory.watch import Started, Watches
from cache_sidecar.services import stock
from cache_sidecar.services.reservation import Context, ReservationMethods
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.freshness import wanted
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.services.stock import written
from cache_sidecar.store.inventory import MAX_AVAILABLE, InventoryRow, InventoryStore
from cache_sidecar.store.pool import Connection, WriteResult
from cache_sidecar.store.reservation import ReservationStore
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.v1 import inventory_service_pb2 as pb
from cache_sidecar.v1.inventory_pb2 import Inventory


class InventoryService(ReservationMethods):
    """Reads stock through Redis, and leaves every decision about it to PostgreSQL."""

    def __init__(
        self,
        rows: Dataset,
        *,
        stocks: StockReader,
        store: InventoryStore,
        reservations: ReservationStore,
        writer: Writer,
        gate: ReservationAdmission,
        watches: Watches,
        clock: Clock,
        bound: Bound,
    ) -> None:
        super().__init__(rows, reservations=reservations, writer=writer, gate=gate, clock=clock, bound=bound)
        self._stocks = stocks
        self._store = store
        self._watches = watches

    async def GetInventory(self, request: pb.GetInventoryRequest, context: Context) -> pb.GetInventoryResponse:
        """Adds up the rows of the product."""
        total = await self._stocks.get(request.product_id, wanted(request.options, context))
        if not total.parts:
            raise NotFound("inventory", request.product_id)
        return pb.GetInventoryResponse(inventory=stock.message(request.product_id, total.parts), cache=stock.metadata(total))

    async def BatchGetInventory(self, request: pb.BatchGetInventoryRequest, context: Context) -> pb.BatchGetInventoryResponse:
        """Reads all products together."""
        ids = list(dict.fromkeys(request.product_ids))
        totals = await self._stocks.get_many(ids, wanted(request.options, context))
        known = [id for id in ids if id in totals]
        found = [id for id in known if totals[id].parts]
        return pb.BatchGetInventoryResponse(
            inventories=[stock.message(id, totals[id].parts) for id in found],
            missing=[id for id in known if not totals[id].parts],
            inventory_caches=[stock.metadata(totals[id]) for id in found],
            cache=stock.metadata_of_all(totals.values()),
        )

    async def SetInventory(  # type: ignore[override]  # replies are serialized here
        self, request: pb.SetInventoryRequest, context: Context
    ) -> bytes:
        """Locks all rows of the product, so that nothing is reserved meanwhile."""
        id = request.product_id

        async def set(connection: Connection) -> WriteResult:
            rows = await self._store.lock(connection, id)
            _check_etag(id, rows, request.etag)
            buckets = request.bucket_count or (rows[0].buckets if rows else 1)
            if any(row.reserved for row in rows[buckets:]):
                raise BucketsInUse(id)
            rows = await self._store.spread(connection, id, available=request.available, buckets=buckets)
            return written(pb.SetInventoryResponse(inventory=_message(rows)), rows)

        return await self._writer.write(self._rows, request, set)

    async def AdjustInventory(  # type: ignore[override]  # replies are serialized here
        self, request: pb.AdjustInventoryRequest, context: Context
    ) -> bytes:
        """Locks all rows of the product; what results is spread over them evenly."""
        id = request.product_id

        async def adjust(connection: Connection) -> WriteResult:
            rows = await self._store.lock(connection, id)
            if not rows:
                raise NotFound("inventory", id)
            available = sum(row.available for row in rows)
            _check_adjusted(id, available, request.delta)
            rows = await self._store.spread(connection, id, available=available + request.delta, buckets=rows[0].buckets)
            await self._store.note_adjustment(
                connection, id, delta=request.delta, reason=request.reason, request_id=request.request_id
            )
            return written(pb.AdjustInventoryResponse(inventory=_message(rows)), rows)

        return await self._writer.write(self._rows, request, adjust)

    async def WatchInventory(
        self, request: pb.WatchInventoryRequest, context: Context
    ) -> AsyncIterator[pb.WatchInventoryResponse]:
        """Passes on each state that is news."""
        async for state in self._watches.watch(request.product_ids, request.categories):
            if isinstance(state, Started):
                # There is none when a watch of categories starts in which nothing has a stock yet.
                yield pb.WatchInventoryResponse(cache=stock.metadata_of_all(state.totals) if state.totals else None)
                continue
            product_id, total = state
            yield pb.WatchInventoryResponse(
                product_id=product_id,
                inventory=stock.message(product_id, total.parts) if total.parts else None,
                cache=stock.metadata(total),
            )


def _message(rows: list[InventoryRow]) -> Inventory:
    return stock.message(rows[0].product_id, [stock.part(row) for row in rows])


def _check_etag(product_id: str, rows: list[InventoryRow], given: str) -> None:
    current = stock.etag([stock.part(row) for row in rows]) if rows else ""
    if given and given != current:
        raise EtagMismatch("inventory", product_id, current)


def _check_adjusted(product_id: str, available: int, delta: int) -> None:
    if available + delta < 0:
        raise OutOfStock(product_id, available)
    if available + delta > MAX_AVAILABLE:
        raise InvalidRequest({"delta": f"{available} pieces are available, and there may be {MAX_AVAILABLE} at most"})
