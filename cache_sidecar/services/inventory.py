"""InventoryService: how many pieces of a product there are. The methods for reservations are in reservation.py."""

from collections import Counter
from collections.abc import AsyncIterator

from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import BucketsInUse, InvalidRequest, NotFound, OutOfStock
from cache_sidecar.inventory.admission import BY_ADJUSTMENT, ReservationAdmission
from cache_sidecar.inventory.stock import StockReader
from cache_sidecar.inventory.watch import Started, Watches
from cache_sidecar.services.inventory_messages import (
    make_bucket,
    make_etag,
    make_message,
    make_metadata,
    make_metadata_of_all,
    result_of,
)
from cache_sidecar.services.purchases import Purchases
from cache_sidecar.services.reservation import Context, ReservationMethods
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.etags import check_etag
from cache_sidecar.services.shared.freshness import freshness_of
from cache_sidecar.services.shared.writes import Writer
from cache_sidecar.store.inventory import MAX_AVAILABLE, InventoryRow, InventoryStore
from cache_sidecar.store.reservation import ReservationStore
from cache_sidecar.store.writes import Transaction, WriteResult
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.v1 import inventory_service_pb2 as pb
from cache_sidecar.v1.inventory_pb2 import Inventory


class InventoryService(ReservationMethods):
    """Reads through Redis, and leaves every decision to PostgreSQL."""

    def __init__(
        self,
        rows: Dataset,
        *,
        stocks: StockReader,
        store: InventoryStore,
        reservations: ReservationStore,
        writer: Writer,
        admission: ReservationAdmission,
        watches: Watches,
        purchases: Purchases,
        oversells: Counter[str],
        clock: Clock,
        bound: Bound,
    ) -> None:
        super().__init__(
            rows,
            reservations=reservations,
            writer=writer,
            admission=admission,
            purchases=purchases,
            clock=clock,
            bound=bound,
        )
        self._stocks = stocks
        self._oversells = oversells
        self._store = store
        self._watches = watches

    async def GetInventory(self, request: pb.GetInventoryRequest, context: Context) -> pb.GetInventoryResponse:
        """Adds up the rows of the product."""
        total = await self._stocks.get(request.product_id, freshness_of(request.options, context))
        if not total.parts:
            raise NotFound("inventory", request.product_id)
        return pb.GetInventoryResponse(inventory=make_message(request.product_id, total.parts), cache=make_metadata(total))

    async def BatchGetInventory(self, request: pb.BatchGetInventoryRequest, context: Context) -> pb.BatchGetInventoryResponse:
        """Reads all products together."""
        ids = list(dict.fromkeys(request.product_ids))
        totals = await self._stocks.get_many(ids, freshness_of(request.options, context))
        known = [id for id in ids if id in totals]
        found = [id for id in known if totals[id].parts]
        return pb.BatchGetInventoryResponse(
            inventories=[make_message(id, totals[id].parts) for id in found],
            missing=[id for id in known if not totals[id].parts],
            inventory_caches=[make_metadata(totals[id]) for id in found],
            cache=make_metadata_of_all(totals.values()),
        )

    async def SetInventory(  # type: ignore[override]  # replies are serialized here
        self, request: pb.SetInventoryRequest, context: Context
    ) -> bytes:
        """Locks all rows of the product, so that nothing is reserved meanwhile."""
        id = request.product_id

        async def set_available(tx: Transaction) -> WriteResult[None]:
            rows = await self._store.lock(tx, id)
            check_etag("inventory", id, given=request.etag, current=make_etag(list(map(make_bucket, rows))) if rows else "")
            buckets = request.bucket_count or (rows[0].buckets if rows else 1)
            if any(row.reserved for row in rows[buckets:]):
                raise BucketsInUse(id)
            rows = await self._store.spread(tx, id, available=request.available, buckets=buckets)
            return result_of(pb.SetInventoryResponse(inventory=_message(rows)), rows)

        return await self._writer.write(self._rows, request, set_available)

    async def AdjustInventory(  # type: ignore[override]  # replies are serialized here
        self, request: pb.AdjustInventoryRequest, context: Context
    ) -> bytes:
        """Locks all rows of the product; the result is spread over them evenly."""
        id = request.product_id

        async def adjust(tx: Transaction) -> WriteResult[None]:
            rows = await self._store.lock(tx, id)
            if not rows:
                raise NotFound("inventory", id)
            available = sum(row.available for row in rows)
            if available + request.delta < 0:
                self._oversells[BY_ADJUSTMENT] += 1
                raise OutOfStock(id, available)
            if available + request.delta > MAX_AVAILABLE:
                raise InvalidRequest({"delta": f"{available} pieces are available, and there may be {MAX_AVAILABLE} at most"})
            rows = await self._store.spread(tx, id, available=available + request.delta, buckets=rows[0].buckets)
            await self._store.record_adjustment(
                tx, id, delta=request.delta, reason=request.reason, request_id=request.request_id
            )
            return result_of(pb.AdjustInventoryResponse(inventory=_message(rows)), rows)

        return await self._writer.write(self._rows, request, adjust)

    async def WatchInventory(
        self, request: pb.WatchInventoryRequest, context: Context
    ) -> AsyncIterator[pb.WatchInventoryResponse]:
        """Streams each new state of the products."""
        async for state in self._watches.watch(request.product_ids, request.categories):
            if isinstance(state, Started):
                # There is none when a watch starts of categories without any inventory yet.
                yield pb.WatchInventoryResponse(cache=make_metadata_of_all(state.totals) if state.totals else None)
                continue
            product_id, total = state
            yield pb.WatchInventoryResponse(
                product_id=product_id,
                inventory=make_message(product_id, total.parts) if total.parts else None,
                cache=make_metadata(total),
            )


def _message(rows: list[InventoryRow]) -> Inventory:
    return make_message(rows[0].product_id, [make_bucket(row) for row in rows])
