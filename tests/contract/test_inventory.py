"""GetInventory, BatchGetInventory, SetInventory and AdjustInventory."""

import asyncio

import pytest
from grpc import StatusCode

from cache_sidecar.v1 import inventory_service_pb2 as pb
from tests.support.shop import L2, STORE, new_id, refused
from tests.support.stockroom import Stockroom, query, request_id

MAX = 10**15


async def test_stock_is_as_it_was_set(stock: Stockroom) -> None:
    id = new_id()
    made = await stock.set(id, 12)
    assert (made.product_id, made.available, made.reserved, made.bucket_count) == (id, 12, 0, 1)
    assert made.etag
    assert made.update_time.seconds > 1_700_000_000
    reply = await stock.read(id)
    assert reply.inventory == made
    assert reply.cache.source == L2
    assert reply.cache.version == int(made.etag, 16)
    assert not reply.cache.stale


async def test_setting_changes_what_is_available_and_leaves_what_is_reserved(stock: Stockroom) -> None:
    id = new_id()
    first = await stock.set(id, 10)
    await stock.reserve({id: 4})
    changed = await stock.set(id, MAX)
    assert (changed.available, changed.reserved) == (MAX, 4)
    assert changed.etag != first.etag
    assert await stock.numbers(id) == (MAX, 4)
    assert await stock.numbers(id, bypass=True) == (MAX, 4)


async def test_every_sidecar_reads_what_one_wrote(stock: Stockroom, other: Stockroom) -> None:
    id = new_id()
    for available in range(20):
        await stock.set(id, available)
        assert (await other.get(id)).available == available


async def test_bypass_reads_from_the_store(stock: Stockroom) -> None:
    id = new_id()
    await stock.set(id, 1)
    assert (await stock.read(id, bypass=True)).cache.source == STORE
    assert (await stock.read(id)).cache.source == L2


async def test_a_product_without_stock_is_not_found(stock: Stockroom) -> None:
    id = new_id()
    for call in (stock.get(id), stock.adjust(id, 1), stock.reserve({id: 1})):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "NOT_FOUND")
        assert refusal.metadata == {"resource": "inventory", "id": id}
    await stock.set(id, 0)
    assert (await stock.get(id)).available == 0


async def test_a_batch_comes_in_the_order_asked_for(stock: Stockroom) -> None:
    ids = [new_id() for _ in range(4)]
    await stock.set(ids[0], 10)
    await stock.set(ids[2], 12, bucket_count=3)
    asked = [ids[2], ids[1], ids[0], ids[2], ids[3], ids[1]]
    reply = await stock.calls.BatchGetInventory(pb.BatchGetInventoryRequest(product_ids=asked))
    assert [one.product_id for one in reply.inventories] == [ids[2], ids[0]], "once, where named first"
    assert [one.available for one in reply.inventories] == [12, 10]
    assert list(reply.missing) == [ids[1], ids[3]]
    assert [cache.source for cache in reply.inventory_caches] == [L2, L2]
    assert reply.cache.source == STORE
    assert reply.cache.version == max(cache.version for cache in reply.inventory_caches)


async def test_an_etag_guards_against_somebody_elses_change(stock: Stockroom) -> None:
    id = new_id()
    refusal = await refused(stock.set(id, 1, etag="1"))
    assert (refusal.code, refusal.metadata["etag"]) == (StatusCode.ABORTED, "")
    first = await stock.set(id, 1)
    second = await stock.set(id, 2, etag=first.etag)
    refusal = await refused(stock.set(id, 3, etag=first.etag))
    assert (refusal.code, refusal.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert refusal.metadata["etag"] == second.etag
    assert (await stock.get(id)).available == 2


async def test_a_reservation_changes_the_etag_of_any_bucket(stock: Stockroom) -> None:
    id = new_id()
    made = await stock.set(id, 64, bucket_count=8)
    seen = {made.etag}
    for _ in range(8):
        await stock.reserve({id: 1})
        seen.add((await stock.get(id)).etag)
    assert len(seen) == 9
    assert (await refused(stock.set(id, 1, etag=made.etag))).code is StatusCode.ABORTED
    assert (await stock.set(id, 1, etag=(await stock.get(id)).etag)).available == 1


async def test_an_adjustment_adds_and_takes_away_and_keeps_why(stock: Stockroom, shared_database: str) -> None:
    id, request = new_id(), request_id()
    await stock.set(id, 10)
    assert (await stock.adjust(id, 5)).available == 15
    assert (await stock.adjust(id, -15, reason="water damage", request_id=request)).available == 0
    refusal = await refused(stock.adjust(id, -1))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK")
    assert refusal.metadata == {"product_id": id, "available": "0"}
    kept = await query(
        shared_database,
        """SELECT delta, reason, request_id::text FROM cache_sidecar.inventory_adjustments
           WHERE product_id = %s ORDER BY adjustment DESC""",
        id,
    )
    assert kept[0] == (-15, "water damage", request)
    assert len(kept) == 2


async def test_stock_does_not_overflow(stock: Stockroom) -> None:
    id = new_id()
    await stock.set(id, MAX)
    refusal = await refused(stock.adjust(id, 1))
    assert (refusal.code, list(refusal.violations)) == (StatusCode.INVALID_ARGUMENT, ["delta"])
    assert (await stock.get(id)).available == MAX


@pytest.mark.parametrize("method", ["set", "adjust"])
async def test_a_repeat_returns_the_first_reply_and_changes_nothing(stock: Stockroom, other: Stockroom, method: str) -> None:
    id, request = new_id(), request_id()
    await stock.set(id, 5)
    first = await getattr(stock, method)(id, 3, request_id=request)
    await stock.set(id, 100)
    assert await getattr(other, method)(id, 3, request_id=request) == first
    assert (await other.get(id)).available == 100
    refusal = await refused(getattr(stock, method)(id, 4, request_id=request))
    assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


INVALID = {
    "no id": pb.SetInventoryRequest(available=1),
    "control character": pb.SetInventoryRequest(product_id="a\x1f1", available=1),
    "negative": pb.SetInventoryRequest(product_id="a", available=-1),
    "too many": pb.SetInventoryRequest(product_id="a", available=MAX + 1),
    "buckets": pb.SetInventoryRequest(product_id="a", available=1, bucket_count=65),
    "request_id": pb.SetInventoryRequest(product_id="a", available=1, request_id="no"),
    "delta": pb.AdjustInventoryRequest(product_id="a", reason="x", request_id=request_id()),
    "no reason": pb.AdjustInventoryRequest(product_id="a", delta=1, request_id=request_id()),
    "no request_id": pb.AdjustInventoryRequest(product_id="a", delta=1, reason="x"),
    "no ids": pb.BatchGetInventoryRequest(),
    "many ids": pb.BatchGetInventoryRequest(product_ids=["a"] * 501),
    "empty get": pb.GetInventoryRequest(),
    "watch nothing": pb.WatchInventoryRequest(),
    "watch much": pb.WatchInventoryRequest(product_ids=["a"] * 1001),
}


@pytest.mark.parametrize("name", INVALID)
async def test_requests_that_break_a_rule_are_refused(stock: Stockroom, name: str) -> None:
    request = INVALID[name]
    call = getattr(stock.calls, type(request).__name__.removesuffix("Request"))(request)
    refusal = await refused(call.read() if hasattr(call, "read") else call)
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.violations


async def test_buckets_share_the_stock_and_the_total_stays_exact(
    stock: Stockroom, other: Stockroom, shared_database: str
) -> None:
    id = new_id()
    await stock.set(id, 13, bucket_count=4)
    assert await _buckets(shared_database, id) == [(0, 4, 0), (1, 3, 0), (2, 3, 0), (3, 3, 0)]
    assert (await other.get(id)).available == 13
    await asyncio.gather(*(room.reserve({id: 1}) for room in (stock, other) * 3))
    assert await stock.numbers(id) == await stock.numbers(id, bypass=True) == (7, 6)
    # More than any bucket has, and all there is.
    reservation = await other.reserve({id: 7})
    assert await stock.numbers(id) == (0, 13)
    assert (await refused(stock.reserve({id: 1}))).metadata == {"product_id": id, "available": "0"}
    assert [(item.product_id, item.quantity) for item in reservation.items] == [(id, 7)]
    await other.release(reservation.reservation_id)
    assert await stock.numbers(id) == (7, 6)
    assert [available + reserved for _, available, reserved in await _buckets(shared_database, id)] == [4, 3, 3, 3]


async def test_more_buckets_can_be_made_and_taken_away_when_nothing_is_reserved_there(
    stock: Stockroom, shared_database: str
) -> None:
    id = new_id()
    await stock.set(id, 10)
    first = await stock.reserve({id: 10})
    grown = await stock.set(id, 8, bucket_count=8)
    assert (grown.available, grown.reserved, grown.bucket_count) == (8, 10, 8)
    everything = await stock.reserve({id: 8})
    refusal = await refused(stock.set(id, 8, bucket_count=2))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "BUCKETS_IN_USE")
    await stock.commit(everything.reservation_id)
    shrunk = await stock.set(id, 6, bucket_count=1)
    assert (shrunk.available, shrunk.reserved, shrunk.bucket_count) == (6, 10, 1)
    await stock.release(first.reservation_id)
    assert await _buckets(shared_database, id) == [(0, 16, 0)]
    assert await stock.numbers(id) == (16, 0)


async def test_adjusting_keeps_the_buckets_and_evens_them(stock: Stockroom, shared_database: str) -> None:
    id = new_id()
    await stock.set(id, 2, bucket_count=2)
    await stock.reserve({id: 1})
    assert (await stock.adjust(id, 6)).available == 7
    assert [available for _, available, _ in await _buckets(shared_database, id)] == [4, 3]


async def test_a_change_made_in_sql_is_written_to_the_outbox(stock: Stockroom, shared_database: str) -> None:
    id = new_id()
    await stock.set(id, 2, bucket_count=2)
    await query(shared_database, "UPDATE cache_sidecar.inventory SET available = 5 WHERE product_id = %s", id)
    told = await query(
        shared_database,
        "SELECT id FROM cache_sidecar.outbox WHERE dataset = 'inventory' AND id LIKE %s || '%%' ORDER BY version DESC LIMIT 2",
        id,
    )
    assert {row_id for (row_id,) in told} == {id, f"{id}\x1f1"}
    assert (await stock.get(id, bypass=True)).available == 10


async def _buckets(dsn: str, product_id: str) -> list[tuple[int, ...]]:
    return await query(
        dsn,
        "SELECT bucket, available, reserved FROM cache_sidecar.inventory WHERE product_id = %s ORDER BY bucket",
        product_id,
    )
