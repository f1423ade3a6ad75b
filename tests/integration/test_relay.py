"""The relay: what a writer could not tell, Redis hears all the same."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from cache_sidecar import policy
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.errors import TierFailed
from cache_sidecar.relay import outbox as module
from cache_sidecar.relay.outbox import Relay
from cache_sidecar.store.listener import Listener
from cache_sidecar.store.outbox import RelayStore
from cache_sidecar.store.pool import Database
from cache_sidecar.tiers.l2 import RedisL2
from cache_sidecar.tiers.ports import Record, Source
from tests.listening import open_line
from tests.sidecars import until
from tests.stores import INSERT, open_database, run
from tests.tiers import open_case, open_l2

OLD = Record(1, 0.0, b"old")


@pytest.fixture
async def store(database: str) -> AsyncIterator[RelayStore]:
    async with open_database(database) as opened:
        yield RelayStore(opened)


def relay_of(store: RelayStore, l2: RedisL2, *, region: str = "eu", retention: float = 3600.0) -> Relay:
    return Relay(store, l2, policy.default(), region=region, retention=retention)


async def forever(_: float) -> None:
    await asyncio.Event().wait()


async def briefly(_: float) -> None:
    await asyncio.sleep(0.01)


@asynccontextmanager
async def running(relay: Relay, woken: Callable[[float], Awaitable[None]] = briefly) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(relay.run(woken=woken))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stored_version(l2: RedisL2, id: str = "a") -> int:
    """Returns the version that Redis holds, of whatever kind."""
    client = await l2._connection.client()
    value = await client.get(l2._names.key("product", id))
    return int(value[:16], 16) if value else 0


async def version_in(database: str, id: str = "a") -> int:
    ((version,),) = await run(database, "SELECT max(version) FROM cache_sidecar.outbox WHERE id = %s", [id])
    return int(version)


# One step


async def test_nothing_to_tell_is_nothing_done(store: RelayStore, l2: RedisL2) -> None:
    assert await relay_of(store, l2).step() == 0


async def test_race_09_what_a_writer_committed_and_died_is_told(
    store: RelayStore, l2: RedisL2, database: str, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    async with open_line(",".join(valkey_cluster.addresses), namespace) as line:
        await l2.fill("product", {"a": OLD}, ttl=60)
        await run(database, "SELECT setval('cache_sidecar.version_seq', 10)")
        await run(database, INSERT, ["a", "Sofa"])
        assert await relay_of(store, l2).step() == 1
        await line.heard("a", await version_in(database))
        assert await l2.read("product", ["a"]) == {}
        assert await relay_of(store, l2).step() == 0


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
    store: RelayStore, l2: RedisL2, database: str, statement: str, ids: set[str]
) -> None:
    await run(database, "SELECT setval('cache_sidecar.version_seq', 10)")
    await run(database, INSERT, ["a", "Sofa"])
    relay = relay_of(store, l2)
    await relay.step()
    await l2.fill("product", dict.fromkeys(ids - {"a"}, OLD), ttl=60)
    await run(database, statement)
    assert await relay.step() == len(ids)
    for id in ids:
        assert await stored_version(l2, id) == await version_in(database, id)


async def test_what_the_writer_told_already_stays_as_it_is(store: RelayStore, l2: RedisL2, database: str) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    version = await version_in(database)
    await l2.change("product", {"a": Record(version, 0.0, b"new")}, ttl=60)
    await relay_of(store, l2).step()
    assert (await l2.read("product", ["a"]))["a"].value == b"new"


async def test_race_11_a_relay_that_dies_before_it_remembers_tells_again(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def killed(*_: object) -> None:
        raise Killed

    await run(database, INSERT, ["a", "Sofa"])
    with monkeypatch.context() as patch:
        patch.setattr(store, "told", killed)
        with pytest.raises(Killed):
            await relay_of(store, l2).step()
    version = await version_in(database)
    assert await stored_version(l2) == version
    await l2.fill("product", {"a": Record(version, 0.0, b"read since")}, ttl=60)
    assert await relay_of(store, l2).step() == 1
    assert (await l2.read("product", ["a"]))["a"].value == b"read since"


async def test_only_the_last_change_of_an_id_is_told(
    store: RelayStore, l2: RedisL2, database: str, valkey_cluster: ValkeyCluster, namespace: str
) -> None:
    async with open_line(",".join(valkey_cluster.addresses), namespace) as line:
        await run(database, INSERT, ["a", "Sofa"])
        for title in "xyz":
            await run(database, "UPDATE cache_sidecar.products SET title = %s", [title])
        assert await relay_of(store, l2).step() == 4
        await line.heard("a", await version_in(database))
        assert len(line.ear.changes) == 1


async def test_many_changes_go_in_pages(store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 4)
    for number in range(10):
        await run(database, INSERT, [f"id{number}", "Sofa"])
    relay = relay_of(store, l2)
    assert [await relay.step() for _ in range(4)] == [4, 4, 2, 0]
    assert all([await stored_version(l2, f"id{number}") for number in range(10)])


async def test_each_region_is_told_of_everything(store: RelayStore, l2: RedisL2, database: str) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    assert [await relay_of(store, l2, region=region).step() for region in ("eu", "us", "eu")] == [1, 1, 0]


async def test_a_dataset_that_this_version_does_not_know_is_passed_over(store: RelayStore, l2: RedisL2, database: str) -> None:
    await run(database, "INSERT INTO cache_sidecar.outbox (version, dataset, id, kind) VALUES (5, 'sofa', 'a', 'created')")
    relay = relay_of(store, l2)
    assert [await relay.step(), await relay.step()] == [1, 0]


async def test_what_redis_does_not_take_is_not_remembered_as_told(store: RelayStore, database: str, namespace: str) -> None:
    await run(database, INSERT, ["a", "Sofa"])
    async with open_l2("127.0.0.1:1", namespace) as away:
        with pytest.raises(TierFailed):
            await relay_of(store, away).step()
    assert len(await store.pending("eu", limit=10)) == 1


# Running


async def test_what_was_written_while_redis_was_away_reaches_it(
    store: RelayStore, database: str, valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    async with open_l2(valkey.address, namespace) as l2, running(relay_of(store, l2)) as task:
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


async def test_a_postgresql_that_restarts_is_survived(
    postgres: Postgres, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    async with open_database(database) as opened, running(relay_of(RelayStore(opened), l2)):
        await run(database, INSERT, ["a", "Sofa"])
        await until(lambda: has(l2, "a"))
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        query = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
        for _ in range(3):
            await run(database, query)
        await run(database, INSERT, ["b", "Sofa"])
        await until(lambda: has(l2, "b"))


async def test_a_notification_wakes_it(store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL", 3600.0)
    listener = Listener(database)
    async with running(relay_of(store, l2), listener.wait):
        await until(lambda: listener._connection is not None)
        for id in "abc":
            await run(database, INSERT, [id, "Sofa"])
            await until(lambda id=id: has(l2, id))
    await listener.close()


async def test_it_cleans_up_although_there_is_always_something_to_tell(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = store.told

    async def told_and_changed_again(region: str, position: int) -> None:
        await told(region, position)
        await run(database, "UPDATE cache_sidecar.products SET title = title || 'x'")

    await run(database, INSERT, ["a", "Sofa"])
    monkeypatch.setattr(store, "told", told_and_changed_again)
    monkeypatch.setattr(module, "PRUNE_EVERY", 0.0)

    async def is_pruned() -> bool:
        ((kept, newest),) = await run(database, "SELECT count(*), max(position) FROM cache_sidecar.outbox")
        return newest is not None and newest > 20 and kept < newest / 2

    async with running(relay_of(store, l2, retention=0.0)):
        await until(is_pruned)


async def test_it_cleans_up_more_than_one_round(
    store: RelayStore, l2: RedisL2, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[None] = []

    async def prune(**_: float) -> bool:
        rounds.append(None)
        return len(rounds) >= 5

    monkeypatch.setattr(store, "prune", prune)
    async with running(relay_of(store, l2)):
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
            await l2.fill("product", {"a": Record(version - 1, 0.0, b"old")}, ttl=60)
            await relay_of(RelayStore(opened), l2).step()
            assert await l2.read("product", ["a"]) == {}
        case.forget()
        case.clock.advance(1)  # the breaker looks again
        assert (await case.get("a"))[0] == b"new"


async def test_the_database_of_a_relay_is_closed_without_hanging(database: str, l2: RedisL2) -> None:
    async with open_database(database) as opened, running(relay_of(RelayStore(opened), l2), forever):
        assert isinstance(opened, Database)
