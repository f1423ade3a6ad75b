"""The relay: what a writer could not tell, Redis hears all the same."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from cache_sidecar.config import policy
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.datasets import TABLES
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.relay import outbox as module
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.store.database import Database
from cache_sidecar.store.leadership import Leadership, LeadershipLost, Term
from cache_sidecar.store.outbox import Progress, RelayStore
from cache_sidecar.tiers.ports import PARTITIONS, Record, Source, partition_of
from cache_sidecar.tiers.redis.l2 import MERGE_OVER, RedisL2
from cache_sidecar.tiers.redis.watermarks import RedisWatermarks
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.databases import INSERT, UNLISTED, open_database, run
from tests.support.dataset_case import Direct, fill, open_case, open_l2, take_back, told_until
from tests.support.launch import process, publishes
from tests.support.listening import HERE, open_line
from tests.support.proxy import Proxy
from tests.support.until import until

OLD = Record(1, 0.0, b"old")


@pytest.fixture(autouse=True)
async def _unlisted(database: str) -> None:
    await run(database, UNLISTED)


@pytest.fixture
async def store(database: str) -> AsyncIterator[RelayStore]:
    async with open_database(database) as opened:
        yield RelayStore(opened)


class Region:
    """A relay that leads in a region, and what it does when the test says so."""

    def __init__(self, relay: Relay, term: Term) -> None:
        self.relay, self.term = relay, term

    async def step(self) -> int:
        await self.relay.check_primaries()
        return await self.relay.step(self.term)


def relay_of(
    store: RelayStore, l2: RedisL2, *, region: str = "eu", retention: float = 3600.0, clock: Clock | None = None
) -> Relay:
    watermarks = RedisWatermarks(inside.connection_of(l2), inside.names_of(l2))
    known = policy.default()
    clock = clock or SystemClock()
    dependency = Dependencies().of("relay")
    return Relay(
        store,
        l2,
        watermarks,
        known,
        region=region,
        roles=["catalog"],
        retention=retention,
        clock=clock,
        dependency=dependency,
        tables=TABLES,
    )


@asynccontextmanager
async def leading(store: RelayStore, l2: RedisL2, database: str, *, region: str = "eu") -> AsyncIterator[Region]:
    async with Leadership(database, region=region).term() as term:
        yield Region(relay_of(store, l2, region=region), term)


@pytest.fixture
async def region(store: RelayStore, l2: RedisL2, database: str) -> AsyncIterator[Region]:
    """The one that most tests need."""
    async with leading(store, l2, database) as opened:
        yield opened


@asynccontextmanager
async def running(relay: Relay, database: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(relay.run(Leadership(database, region=inside.region_of(relay))))
    try:
        yield task
    finally:
        await cancel_and_wait(task)


async def stored_version(l2: RedisL2, id: str = "a") -> int:
    """Returns the version that Redis holds, of whatever kind."""
    client = Direct(l2)
    value = await client.get(inside.names_of(l2).key("product", id))
    return int(value[:16], 16) if value else 0


async def version_in(database: str, id: str = "a") -> int:
    ((version,),) = await run(database, "SELECT max(version) FROM cache_sidecar.outbox WHERE id = %s", [id])
    return int(version)


# One step


async def test_nothing_to_tell_is_nothing_done(region: Region) -> None:
    assert await region.step() == 0


async def test_race_09_what_a_writer_committed_and_died_is_told(
    region: Region, l2: RedisL2, database: str, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    async with open_line(",".join(valkey_cluster.addresses), namespace) as line:
        await fill(l2, "product", {"a": OLD}, ttl=60)
        await run(database, "SELECT setval('cache_sidecar.version_seq', 10)")
        await run(database, INSERT, ["a", "Sofa"])
        assert await region.step() == 1
        await line.heard("a", await version_in(database))
        assert await l2.read("product", ["a"]) == {}
        assert await region.step() == 0


@pytest.mark.parametrize(
    ("statement", "ids"),
    [
        ("UPDATE cache_sidecar.products SET title = 'x'", {"a"}),
        ("DELETE FROM cache_sidecar.products", {"a"}),
        ("UPDATE cache_sidecar.products SET product_id = 'b'", {"a", "b"}),
        ("INSERT INTO cache_sidecar.products SELECT 'c', title, description, 1, 0, 'EUR' FROM cache_sidecar.products", {"c"}),
    ],
)
async def test_what_other_programs_do_in_plain_sql_is_told(
    region: Region, l2: RedisL2, database: str, statement: str, ids: set[str]
) -> None:
    await run(database, "SELECT setval('cache_sidecar.version_seq', 10)")
    await run(database, INSERT, ["a", "Sofa"])
    await region.step()
    await fill(l2, "product", dict.fromkeys(ids - {"a"}, OLD), ttl=60)
    await run(database, statement)
    assert await region.step() == len(ids)
    for id in ids:
        assert await stored_version(l2, id) == await version_in(database, id)


async def test_what_the_writer_told_already_stays_as_it_is(region: Region, l2: RedisL2, database: str) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    version = await version_in(database)
    await l2.put_if_newer("product", {"a": Record(version, 0.0, b"new")}, ttl=60)
    await region.step()
    assert (await l2.read("product", ["a"]))["a"].value == b"new"


@pytest.mark.parametrize("change", ["UPDATE cache_sidecar.products SET title = 'new'", "DELETE FROM cache_sidecar.products"])
async def test_no_forged_version_outlives_a_change_by_another_program(
    region: Region, l2: RedisL2, database: str, valkey_cluster: ValkeyCluster, namespace: str, change: str
) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    await region.step()
    await fill(l2, "product", {"a": Record(2**62, 0.0, b"forged")}, ttl=60)
    await run(database, change, [])
    async with open_line(",".join(valkey_cluster.addresses), namespace) as line:
        with structlog.testing.capture_logs() as logs:
            await region.step()
        await line.heard("a", 0)
    assert await l2.read("product", ["a"]) == {}
    assert [log["version"] for log in logs] == ([2**62] if "UPDATE" in change else [])


async def test_a_row_that_changed_again_meanwhile_keeps_its_newer_version(region: Region, l2: RedisL2, database: str) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    version = await version_in(database)
    await run(database, "UPDATE cache_sidecar.products SET title = 'new'", [])
    newer = Record(await version_in(database), 0.0, b"new")
    await l2.put_if_newer("product", {"a": newer}, ttl=60)
    published = await l2.invalidate_many("product", {"a": version}, ttl=60)
    assert published.newer == {"a": newer.version}
    await region.step()
    assert await l2.read("product", ["a"]) == {"a": newer}


async def test_race_11_a_relay_that_dies_before_it_remembers_tells_again(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def killed(*_: object) -> None:
        raise Killed

    await run(database, INSERT, ["a", "Sofa"])
    with monkeypatch.context() as patch:
        patch.setattr(store, "remember", killed)
        async with leading(store, l2, database) as region:
            with pytest.raises(Killed):
                await region.step()
    version = await version_in(database)
    assert await stored_version(l2) == version
    await fill(l2, "product", {"a": Record(version, 0.0, b"read since")}, ttl=60)
    async with leading(store, l2, database) as next_one:
        assert await next_one.step() == 1
    assert (await l2.read("product", ["a"]))["a"].value == b"read since"


async def test_only_the_last_change_of_an_id_is_told(
    region: Region, database: str, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    async with open_line(",".join(valkey_cluster.addresses), namespace) as line:
        await run(database, INSERT, ["a", "Sofa"])
        for title in "xyz":
            await run(database, "UPDATE cache_sidecar.products SET title = %s", [title])
        assert await region.step() == 4
        await line.heard("a", await version_in(database))
        assert len(line.ear.changes) == 1


async def test_many_changes_go_in_pages(region: Region, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 4)
    for number in range(10):
        await run(database, INSERT, [f"id{number}", "Sofa"])
    assert [await region.step() for _ in range(4)] == [4, 4, 2, 0]
    assert all([await stored_version(l2, f"id{number}") for number in range(10)])


async def test_each_region_is_told_of_everything(store: RelayStore, l2: RedisL2, database: str) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    async with leading(store, l2, database) as eu, leading(store, l2, database, region="us") as us:
        assert [await region.step() for region in (eu, us, eu)] == [1, 1, 0]


async def test_a_dataset_that_this_version_does_not_know_is_passed_over(region: Region, database: str) -> None:
    await run(database, "INSERT INTO cache_sidecar.outbox (version, dataset, id, kind) VALUES (5, 'sofa', 'a', 'created')")
    assert [await region.step(), await region.step()] == [1, 0]


async def test_what_redis_does_not_take_is_not_remembered_as_told(
    store: RelayStore, l2: RedisL2, database: str, namespace: str
) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    async with open_l2("127.0.0.1:1", namespace) as away, leading(store, away, database) as region:
        with pytest.raises(TierFailed):
            await region.step()
        assert await region.relay.step(region.term) == 1
    assert await store.progress("eu") == (0, 0)


async def test_a_primary_that_cannot_be_looked_at_does_not_keep_the_others_from_being_told(
    region: Region, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise TierFailed(Tier.L2, Failure.UNREACHABLE)

    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    await region.step()
    before = (await told_until(RedisWatermarks(inside.connection_of(l2), inside.names_of(l2))))["catalog"]
    await run(database, INSERT, ["a", "Sofa"])
    with monkeypatch.context() as patch:
        patch.setattr(inside.watermarks_of(region.relay), "primaries", fail)
        with pytest.raises(TierFailed):
            await region.relay.turn(region.term)
        assert await stored_version(l2) == await version_in(database)
        assert await told_until(RedisWatermarks(inside.connection_of(l2), inside.names_of(l2))) == {"catalog": before}, (
            "no sign without a look"
        )


# Many at once


async def test_a_change_of_a_hundred_thousand_rows_is_told_in_few_messages(
    region: Region, l2: RedisL2, database: str, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    rows = 100_000
    await run(
        database,
        f"""ALTER TABLE cache_sidecar.products DISABLE TRIGGER USER;
            INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code, version)
            SELECT 'p' || n, 'a mug', 1, 'EUR', nextval('cache_sidecar.version_seq') FROM generate_series(1, {rows}) AS n;
            ALTER TABLE cache_sidecar.products ENABLE TRIGGER USER""",
    )
    await region.step()
    async with open_line(",".join(valkey_cluster.addresses), namespace) as line:
        before = await messages(l2)
        samples = [f"p{n}" for n in range(1, rows + 1, 1000)]
        await fill(l2, "product", dict.fromkeys(samples, OLD), ttl=60)
        await run(database, "UPDATE cache_sidecar.products SET price_units = 2")
        steps = [await region.step()]
        while steps[-1]:
            steps.append(await region.step())
        assert sum(steps) == rows
        # A message per partition and page, not one per row.
        assert await messages(l2) - before == (len(steps) - 1) * PARTITIONS
        versions = dict(await run(database, "SELECT product_id, version FROM cache_sidecar.products"))
        assert [await stored_version(l2, id) for id in samples] == [versions[id] for id in samples]
        await until(lambda: set(line.ear.partitions) == set(range(PARTITIONS)))
        assert line.ear.changes == []


async def test_a_few_changes_of_one_partition_are_told_by_their_ids(
    region: Region, database: str, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    together = [id for id in (f"p{n}" for n in range(10_000)) if partition_of(id) == HERE]
    few, one_more = together[:MERGE_OVER], together[: MERGE_OVER + 1]
    async with open_line(",".join(valkey_cluster.addresses), namespace) as line:
        for id in few:
            await run(database, INSERT, [id, "Sofa"])
        await region.step()
        await until(lambda: {id for id, _ in line.ear.changes} == set(few))
        assert line.ear.partitions == []
        await run(database, INSERT, [one_more[-1], "Sofa"])
        await run(database, "UPDATE cache_sidecar.products SET title = 'x'")
        await region.step()
        await line.dropped(HERE)
        assert {id for id, _ in line.ear.changes} == set(few)


async def messages(l2: RedisL2) -> int:
    """Returns how many messages were published since the beginning."""
    counters = [await Direct(l2).get(inside.names_of(l2).counter(partition)) for partition in range(PARTITIONS)]
    return sum(int(count or 0) for count in counters)


# After a failover


async def test_race_17_a_redis_that_lost_its_last_writes_is_told_again(
    store: RelayStore, database: str, valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    await run(database, "SELECT setval('cache_sidecar.version_seq', 10)")
    await run(database, INSERT, ["a", "Sofa"])
    async with open_l2(valkey.address, namespace) as l2, leading(store, l2, database) as region:
        await region.step()
        await take_back(l2, OLD)
        await region.step()
        assert await stored_version(l2) == OLD.version, "the primary is the same: it loses nothing"
        await valkey.restart()
        await until(lambda: is_up(l2))
        await take_back(l2, OLD)
        await region.step()
        assert await stored_version(l2) == await version_in(database)


async def test_race_18_what_the_old_primary_still_acknowledged_is_told_to_the_new_one(
    store: RelayStore,
    database: str,
    valkey: ValkeyServer,
    replica: ValkeyServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    await run(database, "SELECT setval('cache_sidecar.version_seq', 10)")
    async with (
        Proxy(valkey.address) as proxy,
        open_l2(proxy.address, namespace) as l2,
        leading(store, l2, database) as region,
        replica.client() as client,
    ):
        await region.step()
        # The majority made the replica the primary, and the old one, in the minority, has not heard of it.
        await client.replicaof("NO", "ONE")
        await run(database, INSERT, ["a", "Sofa"])
        version = await version_in(database)
        await l2.put_if_newer("product", {"a": Record(version, 0.0, b"new")}, ttl=60)
        assert await region.step() == 1
        await proxy.turn_to(replica.address)
        await until(lambda: is_up(l2))
        await take_back(l2, OLD)
        await region.step()
        assert await stored_version(l2) == version


async def is_up(l2: RedisL2) -> bool:
    try:
        return bool(await l2.owners())
    except TierFailed:
        return False


async def test_a_new_leader_tells_again_what_may_have_been_lost_before_its_time(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    await run(database, "SELECT setval('cache_sidecar.version_seq', 10)")
    for id in "abcde":
        await run(database, INSERT, [id, "Sofa"])
    async with leading(store, l2, database) as region:
        assert [await region.step() for _ in range(3)] == [2, 2, 1]
    await take_back(l2, OLD, "a")
    await take_back(l2, OLD, "e")
    async with leading(store, l2, database) as region:
        assert await region.step() == 0
    for id in "ae":
        assert await stored_version(l2, id) == await version_in(database, id)


async def test_what_no_failover_can_undo_any_more_is_not_told_again(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    await run(database, "SELECT setval('cache_sidecar.version_seq', 10)")
    await run(database, INSERT, ["a", "Sofa"])
    async with leading(store, l2, database) as region:
        await region.step()
        monkeypatch.setattr(module, "REPLAY", 0.0)
        await region.step()
        await inside.prune(region.relay, region.term)
        assert await store.progress("eu") == (1, 1)
    await take_back(l2, OLD)
    async with leading(store, l2, database) as region:
        await region.step()
    assert await stored_version(l2) == OLD.version


async def test_one_that_leads_no_more_tells_what_it_had_and_remembers_nothing(
    region: Region, store: RelayStore, l2: RedisL2, database: str
) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    await region.relay.check_primaries()
    await run(
        database, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
    )
    with pytest.raises(LeadershipLost):
        await region.step()
    assert await store.progress("eu") == (0, 0)
    async with leading(store, l2, database) as next_one:
        assert await next_one.step() == 1


async def test_one_that_is_stopped_in_its_tracks_is_followed_and_comes_back_as_the_second(
    valkey_cluster: ValkeyCluster, l2: RedisL2, database: str, namespace: str, tmp_path: Path
) -> None:
    config = {"redis_nodes": ",".join(valkey_cluster.addresses), "postgres_catalog": database, "namespace": namespace}
    async with process("relay", tmp_path, config) as first:
        await until(lambda: publishes(first.log))
        async with process("relay", tmp_path, config) as second:
            os.kill(first.pid, signal.SIGSTOP)
            try:
                await run(database, INSERT, ["a", "Sofa"])
                await until(lambda: has(l2, "a"))
            finally:
                os.kill(first.pid, signal.SIGCONT)
            await until(lambda: "not leading" in first.log.read_text())
            assert "not leading" not in second.log.read_text()
            os.kill(second.pid, signal.SIGKILL)
            await run(database, INSERT, ["b", "Sofa"])
            await until(lambda: has(l2, "b"))
        assert "Traceback" not in first.log.read_text()


# Up to when everything was told


async def test_redis_is_told_up_to_when_everything_was_told(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    clock, watermarks = ManualClock(), RedisWatermarks(inside.connection_of(l2), inside.names_of(l2))
    for id in "abc":
        await run(database, INSERT, [id, "Sofa"])
    async with Leadership(database, region="eu").term() as term:
        relay = relay_of(store, l2, clock=clock)
        await relay.check_primaries()
        await relay.step(term)
        assert await told_until(watermarks) == {}, "there may be more"
        moment = clock.now()
        clock.advance(5)
        await relay.step(term)
        assert await told_until(watermarks, "catalog", "user") == {"catalog": moment}, "nobody looked who is primary since"
        await relay.step(term)
        assert await told_until(watermarks) == {"catalog": moment}
        await relay.check_primaries()
        await relay.step(term)
        assert await told_until(watermarks) == {"catalog": moment + 5}


async def test_a_sign_that_is_none_is_no_sign(l2: RedisL2) -> None:
    await Direct(l2).set(inside.names_of(l2).watermark("catalog", 0), "soon")
    assert await told_until(RedisWatermarks(inside.connection_of(l2), inside.names_of(l2))) == {}


# Running


async def test_what_was_written_while_redis_was_away_reaches_it(
    store: RelayStore, database: str, valkey: ValkeyServer, namespace: str
) -> None:
    async with open_l2(valkey.address, namespace) as l2, running(relay_of(store, l2), database) as task:
        await valkey.stop()
        try:
            for id in "abc":
                await run(database, INSERT, [id, "Sofa"])
        finally:
            await valkey.restart()
        await until(lambda: has(l2, "c"))
        assert [await stored_version(l2, id) for id in "abc"] == [await version_in(database, id) for id in "abc"]
        assert not task.done()


async def has(l2: RedisL2, id: str) -> bool:
    try:
        return bool(await stored_version(l2, id))
    except Exception:  # noqa: BLE001  # whatever redis-py says while it starts
        return False


async def test_a_postgresql_that_restarts_is_survived(postgres: Postgres, l2: RedisL2, database: str) -> None:
    async with open_database(database) as opened, running(relay_of(RelayStore(opened), l2), database):
        await run(database, INSERT, ["a", "Sofa"])
        await until(lambda: has(l2, "a"))
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        query = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
        for _ in range(3):
            await run(database, query)
        await run(database, INSERT, ["b", "Sofa"])
        await until(lambda: has(l2, "b"))


async def test_a_notification_wakes_it(store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 3600.0)
    async with running(relay_of(store, l2), database):
        for id in "abc":
            await run(database, INSERT, [id, "Sofa"])
            await until(lambda id=id: has(l2, id))


async def test_it_cleans_up_although_there_is_always_something_to_tell(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember = store.remember

    async def remember_and_change_again(term: Term, region: str, progress: Progress) -> None:
        await remember(term, region, progress)
        await run(database, "UPDATE cache_sidecar.products SET title = title || 'x'")

    await run(database, INSERT, ["a", "Sofa"])
    monkeypatch.setattr(store, "remember", remember_and_change_again)
    for name in ("PRUNE_EVERY", "LOOK_EVERY", "REPLAY"):
        monkeypatch.setattr(module, name, 0.0)

    async def is_pruned() -> bool:
        ((kept, newest),) = await run(database, "SELECT count(*), max(position) FROM cache_sidecar.outbox")
        return newest is not None and newest > 20 and kept < newest / 2

    async with running(relay_of(store, l2, retention=0.0), database):
        await until(is_pruned)


async def test_it_cleans_up_more_than_one_round(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[None] = []

    async def prune(**_: float) -> bool:
        rounds.append(None)
        return len(rounds) >= 5

    monkeypatch.setattr(store, "prune", prune)
    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    async with running(relay_of(store, l2), database):
        await until(lambda: len(rounds) >= 5)


async def test_a_sidecar_that_could_not_tell_is_believed_again_when_the_relay_did(
    database: str, valkey: ValkeyServer, namespace: str
) -> None:
    """A write while Redis is away, and back: the writer's sidecar and another one read the new value."""
    async with open_database(database) as opened, open_case(valkey.address, namespace) as case:
        await run(database, INSERT, ["a", "Sofa"])
        version = await version_in(database)
        await valkey.stop()
        try:
            await case.write("a", version, b"new")
            assert await case.get("a") == (b"new", Source.STORE)
        finally:
            await valkey.restart()
        async with open_l2(valkey.address, namespace) as l2:
            await fill(l2, "product", {"a": Record(version - 1, 0.0, b"old")}, ttl=60)
            async with leading(RelayStore(opened), l2, database) as region:
                await region.step()
            assert await l2.read("product", ["a"]) == {}
        case.forget()
        case.clock.advance(1)  # the breaker looks again
        assert (await case.get("a"))[0] == b"new"


async def test_the_database_of_a_relay_is_closed_without_hanging(database: str, l2: RedisL2) -> None:
    async with open_database(database) as opened, running(relay_of(RelayStore(opened), l2), database):
        assert isinstance(opened, Database)
