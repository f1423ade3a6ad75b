"""The relay ends reservations whose time is over, and Redis hears of it."""

import asyncio
from pathlib import Path

import pytest

from cache_sidecar.clock import SystemClock
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.relay import holds
from cache_sidecar.relay.holds import Holds
from cache_sidecar.store.reservation import HoldStore
from tests.contract.shop import refused
from tests.sidecars import in_process, process, settings_for, until
from tests.stockroom import EXPIRED, Stockroom, database_of, expire, moment, query

# As if everything had been reserved an hour ago.
LONG_AGO = "UPDATE cache_sidecar.reservations SET expire_time = now() - interval '45 minutes' WHERE state = 'held'"


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
    monkeypatch.setattr(holds, "POLL", 0.01)
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
        task = asyncio.get_running_loop().create_task(Holds(store, clock=SystemClock()).run())
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
        relays = [Holds(HoldStore(opened), clock=SystemClock()) for _ in range(4)]
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
