"""The relay ends reservations whose time is over, and Redis hears of it."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import SystemClock
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.tasks import poll
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay import holds
from cache_sidecar.relay.holds import ExpiredHolds
from cache_sidecar.store.reservation import HoldStore
from tests.support.clocks import ManualClock
from tests.support.launch import in_process, process, settings_for
from tests.support.shop import refused
from tests.support.stockroom import EXPIRED, Stockroom, database_of, expire, moment, query
from tests.support.until import until

# As if everything had been reserved an hour ago.
LONG_AGO = "UPDATE cache_sidecar.reservations SET expire_time = now() - interval '45 minutes' WHERE state = 'held'"


async def failures(database: str, clock: ManualClock) -> list[tuple[int, float | None]]:
    """Returns how often each hold could not be ended, and in how many seconds it is tried again."""
    rows = await query(
        database,
        """SELECT expire_failures, extract(epoch FROM retry_time)::float8
           FROM cache_sidecar.reservations WHERE state = 'held' ORDER BY reservation_id""",
    )
    return [(count, retry_time and retry_time - clock.now()) for count, retry_time in rows]


async def test_the_relay_process_gives_back_what_is_over(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, tmp_path: Path
) -> None:
    redis = ",".join(valkey_cluster.addresses)
    config = {"redis_nodes": redis, "postgres_catalog": database, "namespace": namespace, "log_level": "error"}
    async with in_process(settings_for(redis, database, namespace)) as sidecar, process("relay", tmp_path, config):
        room = Stockroom(sidecar.channel)
        await room.set("a", 4, bucket_count=2)
        held = [await room.reserve({"a": 2}) for _ in range(2)]
        sold = await room.commit(held[0].reservation_id)
        assert (await refused(room.reserve({"a": 1}))).reason == "OUT_OF_STOCK"
        await query(database, LONG_AGO)
        await until(lambda: _is_over(room, held[1].reservation_id))
        # What the gate reads is what the relay told Redis.
        await until(lambda: _available(room, 2))
        assert (await room.reserve({"a": 2})).reservation_id
        assert await room.reservation(sold.reservation_id) == sold


async def _is_over(room: Stockroom, reservation_id: str) -> bool:
    return (await room.reservation(reservation_id)).state == EXPIRED


async def _available(room: Stockroom, wanted: int) -> bool:
    return (await room.get("a")).available == wanted


async def test_holds_are_looked_at_again_after_a_failure(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "EVERY", 0.01)
    async with (
        in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as sidecar,
        database_of(database) as opened,
    ):
        room = Stockroom(sidecar.channel)
        await room.set("a", 5)
        made = [await room.reserve({"a": 1}) for _ in range(5)]
        await query(database, LONG_AGO)
        await query(database, "ALTER FUNCTION cache_sidecar.expire_hold RENAME TO gone")
        store = HoldStore(opened)
        failures = 0
        expire_one = store.expire_one

        async def counted(now: object) -> object:
            nonlocal failures
            failures += 1
            return await expire_one(now)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "expire_one", counted)
        task = asyncio.get_running_loop().create_task(poll(holds.EVERY, ExpiredHolds(store, clock=SystemClock()).step))
        await until(lambda: failures >= 2)
        assert not task.done()
        await query(database, "ALTER FUNCTION cache_sidecar.gone RENAME TO expire_hold")
        await until(lambda: _is_over(room, made[-1].reservation_id))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await room.numbers("a", bypass=True) == (5, 0)


async def test_two_relays_share_the_work(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> None:
    async with (
        in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as sidecar,
        database_of(database) as opened,
    ):
        room = Stockroom(sidecar.channel)
        await room.set("a", 40)
        await asyncio.gather(*(room.reserve({"a": 1}) for _ in range(40)))
        await query(database, LONG_AGO)
        relays = [ExpiredHolds(HoldStore(opened), clock=SystemClock()) for _ in range(4)]
        counts = await asyncio.gather(*(relay.step() for relay in relays))
        # One that finds only what others work on stops, and looks again a second later.
        counts.append(await relays[0].step())
        assert sum(counts) == 40
        assert await room.numbers("a", bypass=True) == (40, 0)


@pytest.mark.parametrize("end", ["commit", "release", "expire"])
async def test_a_reservation_ends_although_its_stock_was_deleted_and_made_anew(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, end: str
) -> None:
    async with in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as sidecar:
        room = Stockroom(sidecar.channel)
        for others in (0, 4):
            await room.set("a", 5)
            held = await room.reserve({"a": 3})
            await query(database, "DELETE FROM cache_sidecar.inventory")
            await room.set("a", 7)
            # Those who reserve of the new stock keep what they have.
            kept = [await room.reserve({"a": 1}, hold=86_400) for _ in range(others)]
            if end == "expire":
                assert await expire(database, at=moment(held.expire_time, after=1)) == 1
            else:
                await getattr(room, end)(held.reservation_id)
            assert await room.numbers("a", bypass=True) == (7 - others, others)
            for one in kept:
                await room.commit(one.reservation_id)


async def test_holds_that_cannot_be_ended_delay_no_other(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as sidecar,
        database_of(database) as opened,
    ):
        room = Stockroom(sidecar.channel)
        await room.set("spoiled", 5)
        await room.set("sound", 5)
        bad = [await room.reserve({"spoiled": 1}) for _ in range(2)]
        good = await room.reserve({"sound": 1})
        # By hand; giving back what is held would make it negative.
        await query(database, "UPDATE cache_sidecar.inventory SET reserved = 0 WHERE product_id = 'spoiled'")
        clock = ManualClock(good.expire_time.seconds + 1)
        relay = ExpiredHolds(HoldStore(opened), clock=clock)
        logged: list[dict[str, Any]] = []
        monkeypatch.setattr(telemetry.log, "error", lambda event, **fields: logged.append({"event": event} | fields))

        assert await relay.step() == 1
        assert (await room.reservation(good.reservation_id)).state == EXPIRED
        assert await room.numbers("sound", bypass=True) == (5, 0)
        assert await failures(database, clock) == [(1, 1), (1, 1)]
        assert await relay.step() == 0
        assert await failures(database, clock) == [(1, 1), (1, 1)]
        clock.advance(1)
        later = await room.reserve({"sound": 1})
        await query(database, f"{LONG_AGO} AND retry_time IS NULL")
        assert await relay.step() == 1, "also beside those that are tried again"
        assert (await room.reservation(later.reservation_id)).state == EXPIRED
        assert await failures(database, clock) == [(2, 2), (2, 2)]
        [line] = [line for line in logged if "reservation" in line]
        assert line["reservation"] in {one.reservation_id for one in bad}
        assert line["error"] == "23514 inventory_reserved_check"

        clock.advance(60)
        assert await relay.step() == 0
        assert [line["attempts"] for line in logged if "reservation" in line] == [1, 4], "those left out are counted"
        await query(database, "UPDATE cache_sidecar.inventory SET reserved = 2 WHERE product_id = 'spoiled'")
        clock.advance(4)
        assert await relay.step() == 2, "mended"
        assert (relay.expired, relay.unreleased) == (4, 6)
        assert await room.numbers("spoiled", bypass=True) == (5, 0)


async def test_a_hold_whose_stock_is_locked_delays_no_other(
    valkey_cluster: ValkeyCluster, database: str, namespace: str
) -> None:
    async with (
        in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as sidecar,
        database_of(database) as opened,
        await psycopg.AsyncConnection.connect(database) as other,
    ):
        room = Stockroom(sidecar.channel)
        for product in ("locked", "free"):
            await room.set(product, 5)
        held = [await room.reserve({product: 1}) for product in ("locked", "free")]
        clock = ManualClock(held[1].expire_time.seconds + 1)
        relay = ExpiredHolds(HoldStore(opened), clock=clock)
        await other.execute("SELECT FROM cache_sidecar.inventory WHERE product_id = 'locked' FOR UPDATE")
        assert await relay.step() == 1
        assert (await room.reservation(held[1].reservation_id)).state == EXPIRED
        await other.rollback()
        clock.advance(1)
        assert await relay.step() == 1


async def test_what_concerns_every_hold_is_no_failure_of_one(
    valkey_cluster: ValkeyCluster, database: str, namespace: str
) -> None:
    async with (
        in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as sidecar,
        database_of(database) as opened,
    ):
        room = Stockroom(sidecar.channel)
        await room.set("a", 5)
        held = await room.reserve({"a": 1})
        clock = ManualClock(held.expire_time.seconds + 1)
        await query(database, "ALTER FUNCTION cache_sidecar.end_reservation RENAME TO gone")
        with pytest.raises(TierFailed):
            await ExpiredHolds(HoldStore(opened), clock=clock).step()
        assert await failures(database, clock) == [(0, None)]
