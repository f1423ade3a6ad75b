"""Ten thousand want one hundred pieces, while a Redis primary and a sidecar are killed."""

import asyncio
import signal
import time
from typing import Any

import grpc
import psycopg
import pytest

from cache_sidecar.devstack.valkey import ValkeyServer
from tests.failure.inventory_stack import InventoryStack
from tests.support.shop import refusal
from tests.support.stockroom import Stockroom, expire, moment, query, reserving
from tests.support.until import until

STOCK, CALLERS = 100, 10_000
PRODUCT = "the-one-thing"
# BEGIN, the reservation, the ledger, COMMIT.
STATEMENTS_PER_GRANT = 4
PATIENCE = 60.0
# Whoever is granted a piece from a quarter on waits, before the commit, for the lock of who strikes then.
LOCK = 4711
_HOLD = f"""
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared({LOCK}); RETURN NULL; END $$;
    CREATE TRIGGER hold AFTER UPDATE ON cache_sidecar.inventory
        FOR EACH ROW WHEN (NEW.reserved >= {STOCK // 4}) EXECUTE FUNCTION hold()
"""


class Sale:
    """What became of the callers."""

    def __init__(self, rooms: list[Stockroom]) -> None:
        self.rooms = rooms
        self.granted: dict[str, str] = {}
        "reservation_id by request_id."
        self.refused = 0
        self.repeats = 0

    async def want_one(self, number: int) -> None:
        """Asks until there is an answer, each time another sidecar, always with the same request_id."""
        request = reserving({PRODUCT: 1}, user_id=f"user-{number}", hold=600)
        while True:
            try:
                reply = await self.rooms[number % len(self.rooms)].calls.ReserveInventory(request)
            except grpc.aio.AioRpcError as error:
                why = refusal(error)
                if why.reason == "OUT_OF_STOCK":
                    assert why.metadata == {"product_id": PRODUCT, "available": "0"}
                    self.refused += 1
                    return
                assert why.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}, why
                self.repeats += 1
                number += 1
                await asyncio.sleep(0.05)
            else:
                self.granted[request.request_id] = reply.reservation.reservation_id
                return


@pytest.mark.timeout(180)
async def test_a_flash_sale(stack: InventoryStack) -> None:
    async with stack.rooms() as rooms:
        await rooms[0].set(PRODUCT, STOCK)
        await asyncio.gather(*(room.get(PRODUCT) for room in rooms))
        primary = await stack.primary_of(PRODUCT)
        await query(stack.dsn, _HOLD)
        before = stack.statements()
        sale = Sale(rooms)
        with psycopg.connect(stack.dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
            # Not from this loop: that is busy with ten thousand callers.
            disaster = asyncio.to_thread(_strike, connection, stack, primary)
            async with asyncio.timeout(PATIENCE):
                reserved, *_ = await asyncio.gather(disaster, *(sale.want_one(number) for number in range(CALLERS)))
        assert 0 < reserved < STOCK // 4
        asked = stack.statements() - before

        # No more and no fewer than there were, each to one caller, and everybody was told.
        assert len(sale.granted) == len(set(sale.granted.values())) == STOCK
        assert sale.refused == CALLERS - STOCK
        assert sale.repeats
        held = await query(
            stack.dsn,
            """SELECT reservation_id::text, request_id::text FROM cache_sidecar.reservation_items
               JOIN cache_sidecar.reservations USING (reservation_id) WHERE product_id = %s""",
            PRODUCT,
        )
        assert {request_id: reservation_id for reservation_id, request_id in held} == sale.granted
        assert await rooms[0].numbers(PRODUCT, bypass=True) == (0, STOCK)

        wasted = asked.total() - STOCK * STATEMENTS_PER_GRANT
        print(f"{wasted} statements for {sale.refused} refusals, {sale.repeats} repeats; {dict(asked)}")
        assert wasted <= sale.refused * 0.02

        await query(stack.dsn, "DROP FUNCTION hold CASCADE")
        await _end_all(stack, rooms[0], list(sale.granted.values()))


def _strike(connection: psycopg.Connection[Any], stack: InventoryStack, primary: ValkeyServer) -> int:
    """Kills the node with the stock, and a sidecar, when a quarter is granted; returns how much was committed by then."""
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
    while not connection.execute(waiting, [LOCK]).fetchone():
        time.sleep(0.001)
    stack.sidecars[3].process.send_signal(signal.SIGKILL)
    primary.kill()
    found = connection.execute("SELECT reserved FROM cache_sidecar.inventory WHERE product_id = %s", [PRODUCT]).fetchone()
    connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
    return int(found[0]) if found else 0


async def _end_all(stack: InventoryStack, room: Stockroom, reservation_ids: list[str]) -> None:
    """Some pay, some change their minds, and the rest forget about it."""
    sold, released = reservation_ids[:40], reservation_ids[40:60]
    await asyncio.gather(*(room.commit(id) for id in sold), *(room.release(id) for id in released))
    forgotten = await room.reservation(reservation_ids[-1])
    assert await expire(stack.dsn, at=moment(forgotten.expire_time, after=60)) == STOCK - len(sold) - len(released)
    available, reserved = await room.numbers(PRODUCT, bypass=True)
    assert (available, reserved) == (STOCK - len(sold), 0)
    states = await query(
        stack.dsn,
        """SELECT state, sum(quantity)::integer FROM cache_sidecar.reservation_items
           JOIN cache_sidecar.reservations USING (reservation_id) WHERE product_id = %s GROUP BY state ORDER BY state""",
        PRODUCT,
    )
    assert states == [("committed", 40), ("expired", 40), ("released", 20)]
    assert available + dict(states)["committed"] == STOCK
    # The relay brings the news to the gate.
    async with asyncio.timeout(PATIENCE):
        await until(lambda: _can_be_had(room))


async def _can_be_had(room: Stockroom) -> bool:
    return (await room.get(PRODUCT)).available == STOCK - 40
