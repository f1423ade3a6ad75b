"""User events between Redis and PostgreSQL: moved by the relay exactly once, kept for a while, erased with their user."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from cache_sidecar import user_data
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.relay import user_events
from cache_sidecar.store.leadership import LeadershipLost
from cache_sidecar.store.user_event import EventRelayStore, UserEventStore
from cache_sidecar.tiers.redis.event_streams import EventStreams, Outcome
from tests.support import inside
from tests.support.customers import money, new_user
from tests.support.databases import open_database, run
from tests.support.gates import Gate
from tests.support.launch import in_process, settings_for
from tests.support.recorder import (
    BUY,
    HOME,
    SEARCH,
    VIEW,
    Recorder,
    event,
    ids_in,
    leadership_of,
    moving,
    new_event_id,
    open_streams,
    product,
    relay_of,
)
from tests.support.until import DEADLINE, until

DAY = 86_400.0


@pytest.fixture
def settings(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> Settings:
    return settings_for(",".join(valkey_cluster.addresses), database, namespace, event_replicas=1, redis_timeout=5.0)


@pytest.fixture
def single(valkey: ValkeyServer, database: str, namespace: str) -> Settings:
    """A single server without a replica, of which none is asked for."""
    return settings_for(valkey.address, database, namespace, redis_mode="single", event_replicas=0)


@pytest.fixture
async def recorder(settings: Settings) -> AsyncIterator[Recorder]:
    async with in_process(settings, trusted=False) as sidecar:
        yield Recorder(sidecar.channel)


@pytest.fixture
async def streams(settings: Settings) -> AsyncIterator[EventStreams]:
    async with open_streams(settings) as opened:
        yield opened


def line(user: str, event_id: str = "", **columns: Any) -> str:
    """Returns an event as sidecars put it into a stream."""
    event_id = event_id or new_event_id(time.time())
    return json.dumps({"event_id": event_id, "user_id": user, "event_type": "home-page-view"} | columns)


async def append(streams: EventStreams, *lines: str) -> None:
    assert await streams.append([one.encode() for one in lines], limit=1000, replicas=0) is Outcome.STORED


async def waiting(streams: EventStreams) -> int:
    return (await streams.inspect()).waiting


async def is_empty(streams: EventStreams) -> bool:
    return not await waiting(streams)


# From the call to PostgreSQL


async def test_events_are_moved_as_they_were_written(settings: Settings, recorder: Recorder, database: str) -> None:
    user, now = new_user(), time.time()
    lines = product("sofa", 2, "29.99 EUR"), product("lamp")
    purchase = event(user, BUY, *lines, event_id=new_event_id(now), value=money("59.98 EUR"), attribution_token="t")
    search = event(user, SEARCH, at=now + 1, search_query="a 'sofa' \\ \"日本\"", experiment_id="e", variant="b")
    ids = (await recorder.write(search, purchase)).event_ids
    async with moving(settings):
        await until(lambda: ids_in(database, user))
    rows = await run(database, "SELECT to_jsonb(row) - 'position' FROM cache_sidecar.user_events AS row ORDER BY position")
    empty = dict.fromkeys(("search_query", "attribution_token", "experiment_id", "variant"), "")
    first, second = (row | {"event_time": datetime.fromisoformat(row["event_time"]).timestamp()} for (row,) in rows)
    assert first == empty | {
        "event_id": ids[0],
        "event_time": int((now + 1) * 1000) / 1000,
        "event_type": "search",
        "user_id": user,
        "products": [],
        "value_units": None,
        "value_nanos": None,
        "currency_code": None,
        "search_query": "a 'sofa' \\ \"日本\"",
        "experiment_id": "e",
        "variant": "b",
    }
    assert second == empty | {
        "event_id": ids[1],
        "event_time": int(now * 1000) / 1000,
        "event_type": "purchase-complete",
        "user_id": user,
        "products": [
            {"product_id": "sofa", "quantity": 2, "price_units": 29, "price_nanos": 990_000_000, "currency_code": "EUR"},
            {"product_id": "lamp", "quantity": 1},
        ],
        "value_units": 59,
        "value_nanos": 980_000_000,
        "currency_code": "EUR",
        "attribution_token": "t",
    }


async def test_a_retry_is_written_once_whichever_way_it_goes(
    settings: Settings, recorder: Recorder, database: str, streams: EventStreams
) -> None:
    user, id = new_user(), new_event_id(time.time())
    for number in range(3):
        await recorder.write(event(user, event_id=id, experiment_id=str(number)))
    async with open_database(database) as opened:
        store, kept_after = UserEventStore(opened), datetime.now(UTC) - timedelta(days=1)
        assert (await store.add([line(user, id, experiment_id="direct")] * 2, kept_after=kept_after)).new == 1
    async with moving(settings):
        await until(lambda: is_empty(streams))
    ((experiment,),) = await run(database, "SELECT experiment_id FROM cache_sidecar.user_events WHERE user_id = %s", [user])
    assert experiment == "direct", "the first to be committed counts"


async def test_a_relay_that_dies_between_commit_and_removal_leaves_no_double(
    settings: Settings, database: str, streams: EventStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, gate = new_user(), Gate()
    await append(streams, *[line(user) for _ in range(10)])

    async def held(self: EventStreams, taken: Any) -> None:
        await gate.passed()

    gate.close()
    with monkeypatch.context() as patch:
        patch.setattr(EventStreams, "finish", held)
        async with moving(settings):
            await gate.reached()
    assert (len(await ids_in(database, user)), await waiting(streams)) == (10, 10)
    async with moving(settings):
        await until(lambda: is_empty(streams))
    assert len(await ids_in(database, user)) == 10


async def test_what_a_former_leader_took_is_taken_again(
    settings: Settings, database: str, streams: EventStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it takes it after its successor has begun: it was paused, and finds out only when it writes."""
    user, gate = new_user(), Gate()
    monkeypatch.setattr(user_events, "RECOVER_EVERY", 0.05)

    async def held(seconds: float) -> None:
        await gate.passed()
        await asyncio.sleep(seconds)

    gate.close()
    task = asyncio.create_task(relay_of(settings, streams, sleep=held).run(leadership_of(settings)))
    await gate.reached()
    async with open_streams(settings) as paused:
        await append(paused, line(user))
        assert len((await paused.take(100)).entries) == 1
        gate.open()
        await until(lambda: is_empty(paused))
    await cancel_and_wait(task)
    assert len(await ids_in(database, user)) == 1


async def test_a_former_leader_writes_nothing(settings: Settings, database: str) -> None:
    async with leadership_of(settings).term() as term:
        store = EventRelayStore(term, settings.region)
        await run(database, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        with pytest.raises(LeadershipLost, match="PostgreSQL"):
            await store.add([line("u")], kept_after=datetime.now(UTC) - timedelta(days=1))
    assert not await ids_in(database, "u")


async def test_positions_are_in_the_order_of_commits(database: str) -> None:
    """A draws a position -> B draws one and commits -> a reader reads B's -> A commits: nobody would read A's."""
    add = "SELECT cache_sidecar.add_user_events(ARRAY[%s], now() - interval '1 day')"
    await run(database, add, [line("c")])
    async with await psycopg.AsyncConnection.connect(database) as first:
        await first.execute(add, [line("a")])
        second = asyncio.create_task(run(database, add, [line("b")]))

        async def is_held() -> bool:
            return bool(await run(database, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

        await until(is_held)
        assert not await ids_in(database, "b")
    await second
    rows = await run(database, "SELECT user_id FROM cache_sidecar.user_events ORDER BY position")
    assert [user for (user,) in rows] == ["c", "a", "b"]


async def test_two_writers_of_a_new_day_make_one_partition(database: str) -> None:
    make = "SELECT cache_sidecar.make_event_partition((now() AT TIME ZONE 'UTC')::date)"
    async with await psycopg.AsyncConnection.connect(database) as first:
        await first.execute(make)
        second = asyncio.create_task(run(database, make))

        async def is_held() -> bool:
            return bool(await run(database, "SELECT 1 FROM pg_locks WHERE locktype = 'relation' AND NOT granted"))

        await until(is_held)
        await first.commit()
    await second


async def test_what_is_no_event_keeps_no_other_from_being_moved(
    settings: Settings, database: str, streams: EventStreams
) -> None:
    user = new_user()
    broken = ["", "{", "[]", "7", '{"user_id": "u"}', line(user, "no uuid"), line(user, event_type="x"), line("", products=[])]
    far = line(user, new_event_id(time.time() + 400 * DAY))
    await append(streams, line(user), *broken, far, '{"user_id": "\0"}', line(user))
    async with moving(settings):
        await until(lambda: is_empty(streams))
    assert len(await ids_in(database, user)) == 2


async def test_events_that_are_moved_are_counted(settings: Settings, streams: EventStreams) -> None:
    user = new_user()
    await append(streams, line(user), "{", line(user), "nothing", line(user))
    async with leadership_of(settings).term() as term:
        relay, store = relay_of(settings, streams), EventRelayStore(term, settings.region)
        await store.register()
        while not await is_empty(streams):
            await relay.turn(store)
        assert (relay.moved, relay.unreadable) == (3, 2)


async def test_days_are_kept_as_long_as_the_setting_says(settings: Settings, database: str, streams: EventStreams) -> None:
    user, now = new_user(), time.time()
    async with open_database(database) as opened:
        old = [line(user, new_event_id(now - days * DAY)) for days in (0, 5, 60)]
        assert (await UserEventStore(opened).add(old, kept_after=datetime.fromtimestamp(0, UTC))).new == 3
        older = [line(user, new_event_id(now - 3 * DAY))]
        assert await UserEventStore(opened).add(older, kept_after=datetime.fromtimestamp(now - 2 * DAY, UTC)) == (0, 0)
    await append(streams, line(user, new_event_id(now - 50 * DAY)), line(user, new_event_id(now - 6 * DAY)))
    async with moving(settings.model_copy(update={"event_retention": 30})):
        await until(lambda: is_empty(streams))
    assert len(await ids_in(database, user)) == 3
    query = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'cache_sidecar.user_events'::regclass"
    # Those with events, and tomorrow and the day after.
    assert await run(database, query) == [(5,)]


async def test_a_drop_of_partitions_waits_for_no_reader(settings: Settings, database: str) -> None:
    async with open_database(database) as opened:
        await UserEventStore(opened).add(
            [line("u", new_event_id(time.time() - 60 * DAY))], kept_after=datetime.fromtimestamp(0, UTC)
        )
    async with await psycopg.AsyncConnection.connect(database) as reader, leadership_of(settings).term() as term:
        await reader.execute("SELECT 1 FROM cache_sidecar.user_events")
        store, today = EventRelayStore(term, settings.region), datetime.now(UTC).date()
        assert await store.drop_partitions(today) == 0
        await store.make_partition(today)
        await reader.rollback()
        assert await store.drop_partitions(today) == 1


# Where Redis cannot promise to keep them


async def test_without_a_replica_postgresql_has_them_first(single: Settings, database: str) -> None:
    user = new_user()
    async with in_process(single.model_copy(update={"event_replicas": 1}), trusted=False) as sidecar:
        recorder = Recorder(sidecar.channel)
        for _ in range(3):
            await recorder.write(event(user))
        assert len(await ids_in(database, user)) == 3
        async with open_streams(single) as streams:
            assert await waiting(streams) == 1, "the first call found out, and for a while no other tries"
            async with moving(single):
                await until(lambda: is_empty(streams))
    assert len(await ids_in(database, user)) == 3


async def test_a_redis_that_may_evict_them_is_not_relied_on(single: Settings, database: str, valkey: ValkeyServer) -> None:
    user = new_user()
    async with valkey.client() as client, in_process(single, trusted=False) as sidecar:
        recorder, writer = Recorder(sidecar.channel), inside.events_of(sidecar.app)
        await recorder.write(event(user))
        assert not await ids_in(database, user)
        await client.config_set("maxmemory", "1gb")
        await client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            await writer.inspect()
            await recorder.write(event(user))
            assert len(await ids_in(database, user)) == 1
            await client.config_set("maxmemory-policy", "volatile-lru")
            await writer.inspect()
            await recorder.write(event(user))
            assert len(await ids_in(database, user)) == 1
        finally:
            await client.config_set("maxmemory-policy", "noeviction")
            await client.config_set("maxmemory", "0")


async def test_a_full_redis_leaves_them_to_postgresql(single: Settings, database: str, valkey: ValkeyServer) -> None:
    user = new_user()
    async with valkey.client() as client, in_process(single, trusted=False) as sidecar:
        recorder = Recorder(sidecar.channel)
        await recorder.write(event(user))
        await client.config_set("maxmemory", "1")
        try:
            await recorder.write(event(user))
            assert len(await ids_in(database, user)) == 1
            # What is there is moved in spite of that.
            async with moving(single), open_streams(single) as streams:
                await until(lambda: is_empty(streams))
        finally:
            await client.config_set("maxmemory", "0")
    assert len(await ids_in(database, user)) == 2


async def test_events_that_wait_too_long_are_reported(single: Settings, namespace: str, valkey: ValkeyServer) -> None:
    async with valkey.client() as client, in_process(single, trusted=False) as sidecar:
        assert sidecar.app is not None
        await client.xadd(f"{namespace}:events:{{00}}", {"e": line("u")}, id=f"{int((time.time() - 120) * 1000)}-0")
        await inside.events_of(sidecar.app).inspect()
        (found,) = [one for one in sidecar.app.failing_dependencies() if one.what == "user events"]
        assert found.reason == "1 events wait for the relay to move them to PostgreSQL, the oldest for 120 s"
        await client.delete(f"{namespace}:events:{{00}}")
        await inside.events_of(sidecar.app).inspect()
        assert not [one for one in sidecar.app.failing_dependencies() if one.what == "user events"]


# Personal data


# Here relays move events, and none publishes that the caches are to drop the user's recommendations.
UNPUBLISHED = "catalog, user, analytics: no relay has ever run"


async def test_an_erasure_reaches_what_is_still_in_redis(
    settings: Settings, recorder: Recorder, database: str, streams: EventStreams
) -> None:
    user, other = new_user(), new_user()
    async with moving(settings):
        await recorder.write(event(user), event(other))
        await until(lambda: ids_in(database, user))
        await recorder.write(*[event(user)] * 20, event(other))
        report = await user_data.erase(settings, user, specs=())
        assert report.unpublished == [UNPUBLISHED]
        assert await is_empty(streams)
    assert (len(await ids_in(database, user)), len(await ids_in(database, other))) == (0, 2)
    assert not await run(database, "SELECT 1 FROM cache_sidecar.event_marks")


async def test_an_erasure_while_no_relay_runs_is_completed_by_the_next_one(
    settings: Settings, recorder: Recorder, database: str, streams: EventStreams
) -> None:
    user = new_user()
    async with moving(settings):
        await recorder.write(event(user))
        await until(lambda: ids_in(database, user))
    await recorder.write(event(user), event(user))
    report = await user_data.erase(settings, user, specs=(), published_within=0.0)
    assert report.erased[user_data.EVENTS].rows == 1
    assert report.unpublished == ["user events: region 'local'", UNPUBLISHED]
    assert await waiting(streams) == 2
    async with moving(settings):
        await until(lambda: is_empty(streams))

        async def is_confirmed() -> bool:
            return not await run(database, "SELECT 1 FROM cache_sidecar.event_marks")

        await until(is_confirmed)
    assert not await ids_in(database, user)


async def test_an_export_has_what_is_still_in_redis(settings: Settings, recorder: Recorder) -> None:
    user = new_user()
    async with moving(settings):
        await recorder.write(event(user, VIEW, product("sofa")))
        found = await user_data.export(settings, user, specs=(), moved_within=DEADLINE)
    assert [one["event_type"] for one in found[user_data.EVENTS]] == ["detail-page-view"]
    assert found["incomplete"] == []
    await recorder.write(event(user, HOME))
    found = await user_data.export(settings, user, specs=(), moved_within=0.0)
    assert (len(found[user_data.EVENTS]), found["incomplete"]) == (1, ["user events: region 'local'"])


async def test_a_mark_is_not_passed_by_who_did_not_see_it(database: str) -> None:
    """A draws mark 1 -> B draws 2 and commits -> the relay passes 2 -> A commits 1, which nobody erases."""
    async with open_database(database) as opened, await psycopg.AsyncConnection.connect(database) as first:
        await first.execute("SELECT pg_advisory_xact_lock(hashtext('cache_sidecar.event_marks'))")
        second = asyncio.create_task(UserEventStore(opened).set_mark())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(second), 0.05)
        assert not second.done()
        await first.rollback()
        assert await second == 1
    await cancel_and_wait(second)


async def test_the_relay_needs_nothing_of_a_stopped_relay(settings: Settings, database: str, streams: EventStreams) -> None:
    """Two candidates: when the leader ends, the other one moves what comes next."""
    user = new_user()
    async with moving(settings):
        async with open_streams(settings) as own:
            task = asyncio.create_task(relay_of(settings, own).run(leadership_of(settings)))
            await append(streams, line(user))
            await until(lambda: ids_in(database, user))
            await cancel_and_wait(task)
        await append(streams, line(user))
        await until(lambda: is_empty(streams))
    assert len(await ids_in(database, user)) == 2
