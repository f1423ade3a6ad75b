"""One product used through four sidecars while what they need breaks: the recorded histories are linearizable.

Reads from PostgreSQL and everything it grants strictly; reads of caches and refusals by the gate within a bound of staleness.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.failure.inventory_stack import InventoryStack
from tests.support.launch import in_process, settings_for
from tests.support.linearizability import is_linearizable, staleness, widened
from tests.support.stock_model import REFUSED, Recorder, model
from tests.support.stockroom import Stockroom, query
from tests.support.until import until

STOCK, CLIENTS = 6, 6
# Operations before something breaks, and as many after it works again.
OPERATIONS = 120
# Seconds that a cache or a refusal may be behind. Without faults: the time between a commit and its news in Redis, on a
# machine that others use as well. With them: a failover, and the relay's next attempt.
CALM_BOUND, FAULT_BOUND = 2.0, 15.0


async def _record(
    rooms: list[Stockroom],
    product_id: str,
    break_it: Callable[[], Awaitable[None]],
    *,
    seed: int,
) -> Recorder:
    await rooms[0].set(product_id, STOCK)
    recorder = Recorder(rooms, product_id, seed=seed)
    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(recorder.client())
        await until(lambda: len(recorder.history) >= OPERATIONS, seconds=60)
        await break_it()
        done = len(recorder.history)
        await until(lambda: len(recorder.history) >= done + OPERATIONS, seconds=60)
        recorder.stop()
    return recorder


async def _kill_primary(stack: InventoryStack) -> None:
    node = await stack.primary_of("primary killed")
    node.kill()
    await stack.cluster.wait_ok()
    await node.start()
    await stack.cluster.wait_ok()


async def _fail_over(stack: InventoryStack) -> None:
    replica = await stack.replica_of(await stack.primary_of("failed over"))
    async with replica.client() as client:
        await client.cluster("FAILOVER")
    await until(lambda: stack.is_primary(replica))
    await stack.cluster.wait_ok()


async def _restart_postgres(stack: InventoryStack) -> None:
    # In the middle of transactions, with no time to say goodbye.
    await asyncio.to_thread(stack.postgres.kill)
    await stack.postgres.start()


FAULTS: dict[str, Callable[[InventoryStack], Awaitable[None]]] = {
    "primary killed": _kill_primary,
    "failed over": _fail_over,
    "PostgreSQL restarted": _restart_postgres,
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", FAULTS)
async def test_histories_under_faults_are_linearizable(stack: InventoryStack, fault: str) -> None:
    async with stack.rooms() as rooms:
        recorder = await _record(rooms, fault, lambda: FAULTS[fault](stack), seed=len(fault))
        history = recorder.history
        bound = staleness(history, model(STOCK), at_most=FAULT_BOUND)
        print(f"{fault}: {len(history)} operations, {recorder.failures} repeats, at most {bound} s stale")
        assert bound is not None
        strict = [one for one in history if not one.may_be_stale]
        assert is_linearizable(strict, model(STOCK))
        # It says something only if all kinds of things happened.
        results = {(type(one.action).__name__, one.result == REFUSED) for one in history}
        assert {("Reserve", False), ("Reserve", True), ("End", False), ("Get", False)} <= results


async def _nothing() -> None:
    pass


@asynccontextmanager
async def _two_rooms(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> AsyncIterator[list[Stockroom]]:
    settings = settings_for(",".join(valkey_cluster.addresses), database, namespace)
    async with in_process(settings) as one, in_process(settings) as other:
        yield [Stockroom(one.channel), Stockroom(other.channel)]


async def test_a_history_without_faults_is_linearizable(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> None:
    async with _two_rooms(valkey_cluster, database, namespace) as rooms:
        recorder = await _record(rooms, "calm", _nothing, seed=1)
    assert is_linearizable(widened(recorder.history, CALM_BOUND), model(STOCK))
    assert not recorder.failures


# What take() would be if somebody thought that reading first and writing then is the same.
LOST_UPDATES = """
CREATE OR REPLACE FUNCTION cache_sidecar.take(of_product text, of_bucket integer, pieces integer, for_reservation uuid)
RETURNS SETOF cache_sidecar.inventory LANGUAGE plpgsql AS $$
DECLARE
    part cache_sidecar.inventory;
BEGIN
    SELECT * INTO part FROM cache_sidecar.inventory AS present
    WHERE present.product_id = of_product AND present.bucket = of_bucket AND present.available >= pieces;
    IF FOUND THEN
        RETURN QUERY UPDATE cache_sidecar.inventory AS present
            SET available = part.available - pieces, reserved = present.reserved + pieces
            WHERE present.product_id = of_product AND present.bucket = of_bucket RETURNING present.*;
        INSERT INTO cache_sidecar.reservation_items (reservation_id, product_id, bucket, quantity, grant_version)
        VALUES (for_reservation, of_product, of_bucket, pieces, nextval('cache_sidecar.version_seq'));
    END IF;
END $$
"""
# What end_reservation() would do if it did not look whether the reservation is held.
GIVEN_BACK_TWICE = """
ALTER TABLE cache_sidecar.inventory DROP CONSTRAINT inventory_reserved_check;
DO $do$ BEGIN EXECUTE replace(
    pg_get_functiondef('cache_sidecar.end_reservation'::regproc), 'AND present.state = ''held''', ''); END $do$
"""


async def _both_reserve(recorder: Recorder, database: str) -> None:
    await _at_once(database, recorder.reserve(1), recorder.reserve(1))
    await recorder.get(bypass=True)


async def _both_release(recorder: Recorder, database: str) -> None:
    reservation_id = await recorder.reserve(1)
    await _at_once(database, recorder.end(reservation_id, "released"), recorder.end(reservation_id, "released"))
    await recorder.get(bypass=True)


async def _at_once(database: str, *calls: Coroutine[Any, Any, Any]) -> None:
    """Makes calls that change stock, and holds all of it until each has come as far as it gets without."""
    async with await psycopg.AsyncConnection.connect(database) as holder:
        await holder.execute("SELECT FROM cache_sidecar.inventory FOR UPDATE")
        async with asyncio.TaskGroup() as tasks:
            for call in calls:
                tasks.create_task(call)
            await until(lambda: _all_wait(database, len(calls)))
            await holder.rollback()


async def _all_wait(database: str, callers: int) -> bool:
    waiting = await query(
        database,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    return waiting == [(callers,)]


@pytest.mark.parametrize(
    ("error", "provoke"),
    [(LOST_UPDATES, _both_reserve), (GIVEN_BACK_TWICE, _both_release)],
    ids=["lost updates", "given back twice"],
)
async def test_a_planted_error_is_found(
    valkey_cluster: ValkeyCluster,
    database: str,
    namespace: str,
    error: str,
    provoke: Callable[[Recorder, str], Awaitable[None]],
) -> None:
    async with _two_rooms(valkey_cluster, database, namespace) as rooms:

        async def is_found(product_id: str) -> bool:
            await rooms[0].set(product_id, STOCK)
            recorder = Recorder(rooms, product_id, seed=1)
            await provoke(recorder, database)
            assert not any(one.may_be_stale for one in recorder.history)
            return not is_linearizable(recorder.history, model(STOCK))

        assert not await is_found("before")
        await query(database, error)
        assert await is_found("after")
