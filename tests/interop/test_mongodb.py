"""The copy of user events in MongoDB: every event once, whatever dies; erased with its user; the same answers as PostgreSQL's.

`mongo_server.py` says what the server that these tests run cannot prove.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from bson.decimal128 import Decimal128

from cache_sidecar import analytics, user_data
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.mongodb.database import open_database
from cache_sidecar.mongodb.events import EventCopy
from cache_sidecar.store.user_event import MONGODB, EventCopyStore, UserEventStore
from tests.integration.test_cli import run as command
from tests.interop.mongo_server import MongoServer, copier_of, copying, documents, ids, leadership_of, record
from tests.support.databases import RELAY, as_role, run
from tests.support.databases import open_database as open_postgres
from tests.support.gates import Gate
from tests.support.launch import process, settings_for
from tests.support.proxy import Proxy
from tests.support.recorder import moving, new_event_id
from tests.support.until import until

HOUR = 3600.0


@pytest.fixture
def settings(mongodb: MongoServer, valkey: ValkeyServer, database: str, namespace: str) -> Settings:
    return settings_with(mongodb.address, valkey, database, namespace)


def settings_with(address: str, valkey: ValkeyServer, database: str, namespace: str) -> Settings:
    more: dict[str, Any] = {"redis_mode": "single", "event_replicas": 0, "postgres_timeout": 10.0}
    return settings_for(valkey.address, database, namespace, mongodb_uri=f"mongodb://{address}/{namespace}", **more)


@pytest.fixture
async def proxy(mongodb: MongoServer) -> AsyncIterator[Proxy]:
    async with Proxy(mongodb.address) as opened:
        yield opened


def line(user: str = "ann", event_type: str = "home-page-view", *, at: float | None = None, **columns: Any) -> str:
    event_id = new_event_id(time.time() if at is None else at)
    return json.dumps({"event_id": event_id, "user_id": user, "event_type": event_type} | columns)


def ids_of(lines: Sequence[str]) -> list[str]:
    return sorted(json.loads(one)["event_id"] for one in lines)


async def wait_for(settings: Settings, expected: Sequence[str]) -> None:
    """Waits until the copy has these events and no others."""

    async def has_all() -> bool:
        return sorted(await ids(settings)) == list(expected)

    await until(has_all)


async def lag(settings: Settings) -> float | None:
    async with open_postgres(settings.database("analytics")) as postgres:
        return await UserEventStore(postgres).copy_lag()


# What is copied


async def test_an_event_is_a_document(settings: Settings) -> None:
    now = int(time.time() * 1000) / 1000
    products = [
        {"product_id": "sofa", "quantity": 2, "price_units": 29, "price_nanos": 990_000_000, "currency_code": "EUR"},
        {"product_id": "lamp", "quantity": 1, "price_units": 100, "price_nanos": 0, "currency_code": "EUR"},
        {"product_id": "mug", "quantity": 1},
    ]
    value = {"value_units": 9_223_372_036_854_775_807, "value_nanos": 999_999_999, "currency_code": "EUR"}
    bought = line("ann", "purchase-complete", at=now, products=products, **value, attribution_token="t")
    searched = line("ben", "search", at=now + 1, search_query="a 'sofa' \\ \"日本\"", experiment_id="e", variant="b")
    await record(settings, bought, searched)
    async with copying(settings):
        await wait_for(settings, ids_of([bought, searched]))
    assert await documents(settings) == [
        {
            "_id": UUID(json.loads(bought)["event_id"]),
            "event_time": datetime.fromtimestamp(now, UTC),
            "event_type": "purchase-complete",
            "user_id": "ann",
            "products": [
                {"product_id": "sofa", "quantity": 2, "price": Decimal128("29.99"), "currency_code": "EUR"},
                {"product_id": "lamp", "quantity": 1, "price": Decimal128("100"), "currency_code": "EUR"},
                {"product_id": "mug", "quantity": 1},
            ],
            "value": Decimal128("9223372036854775807.999999999"),
            "currency_code": "EUR",
            "attribution_token": "t",
        },
        {
            "_id": UUID(json.loads(searched)["event_id"]),
            "event_time": datetime.fromtimestamp(now + 1, UTC),
            "event_type": "search",
            "user_id": "ben",
            "search_query": "a 'sofa' \\ \"日本\"",
            "experiment_id": "e",
            "variant": "b",
        },
    ]


async def test_what_cannot_be_a_document_keeps_no_other_from_being_copied(settings: Settings) -> None:
    lines = [line(), line()]
    broken: list[Any] = [
        [7],
        [{"product_id": "sofa"}],
        [{"product_id": "sofa", "quantity": "x"}],
        [{"product_id": 1, "quantity": 1e300}],
    ]
    await record(settings, lines[0], *(line("eve", products=products) for products in broken), lines[1])
    async with copying(settings):
        await wait_for(settings, ids_of(lines))


async def test_more_events_than_fit_on_a_page_are_copied_in_their_order(settings: Settings) -> None:
    lines = [line(str(number)) for number in range(2_500)]
    await record(settings, *lines)
    async with copying(settings):
        await wait_for(settings, ids_of(lines))
        last = line()
        await record(settings, last)
        await wait_for(settings, ids_of([*lines, last]))


# Once, whatever dies


async def test_a_relay_that_dies_before_it_saves_its_position_leaves_no_double(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, gate = [line() for _ in range(10)], Gate()
    await record(settings, *lines)

    async def held(self: EventCopy, position: int) -> None:
        await gate.passed()

    gate.close()
    with monkeypatch.context() as patch:
        patch.setattr(EventCopy, "save_position", held)
        async with copying(settings):
            await gate.reached()
    await wait_for(settings, ids_of(lines))
    lines.append(line())
    await record(settings, lines[-1])
    async with copying(settings):
        await wait_for(settings, ids_of(lines))


async def test_a_position_never_goes_back(settings: Settings) -> None:
    """A former leader that wakes up saves its own after that of its successor."""
    async with open_database(settings, patience=5.0) as opened:
        copy = EventCopy(opened)
        for position in (0, 7, 5):
            await copy.save_position(position)
        assert await copy.position() == 7


async def test_killed_relays_lose_no_event_and_double_none(
    settings: Settings, valkey: ValkeyServer, database: str, namespace: str, tmp_path: Path
) -> None:
    config = {
        "redis_nodes": valkey.address,
        "redis_mode": "single",
        "postgres_catalog": as_role(RELAY, database),
        "namespace": namespace,
        "mongodb_uri": settings.mongodb_uri.get_secret_value(),
    }
    lines: list[str] = []
    for _ in range(3):
        async with process("relay", tmp_path, config) as relay:
            for _ in range(20):
                new = [line() for _ in range(100)]
                lines += new
                await record(settings, *new)

            async def has_some(count: int = len(lines) - 2_000) -> bool:
                return len(await ids(settings)) > count

            await until(has_some)
            relay.process.kill()
    async with process("relay", tmp_path, config):
        await wait_for(settings, ids_of(lines))


async def test_a_mongodb_that_comes_back_without_its_data_gets_all_events_again(
    settings: Settings, mongodb: MongoServer
) -> None:
    dependencies, lines = Dependencies(is_logged=False), [line(), line()]
    await record(settings, lines[0])
    async with copying(settings, dependencies=dependencies):
        await wait_for(settings, ids_of(lines[:1]))
        mongodb.kill()
        await record(settings, lines[1])
        await until(dependencies.failing)
        (failing,) = dependencies.failing()
        assert (failing.what, failing.effect) == ("mongodb", "user events are not copied to MongoDB")
        assert "Topology" not in failing.reason
        await mongodb.start()
        await wait_for(settings, ids_of(lines))
        await until(lambda: not dependencies.failing())


@pytest.mark.parametrize("fault", ["cut", "mute"])
async def test_a_connection_that_breaks_while_events_are_written_doubles_none(
    fault: str, proxy: Proxy, settings: Settings, valkey: ValkeyServer, database: str, namespace: str
) -> None:
    """Without its reply, nobody knows whether they were written."""
    through, lines = settings_with(proxy.address, valkey, database, namespace), [line() for _ in range(50)]
    dependencies = Dependencies(is_logged=False)
    async with copying(through, dependencies=dependencies):
        await wait_for(settings, [])
        if fault == "mute":
            proxy.mute(once_asked=b"home-page-view")
        else:
            proxy.cut()
        await record(settings, *lines)
        await until(dependencies.failing)
        if fault == "mute":
            assert len(await ids(settings)) == 50, "they were written"
        await proxy.heal()
        await wait_for(settings, ids_of(lines))
        await until(lambda: not dependencies.failing())


async def test_a_postgresql_that_was_restored_is_copied_from_its_beginning(settings: Settings, database: str) -> None:
    lines = [line() for _ in range(5)]
    await record(settings, *lines)
    async with copying(settings):
        await wait_for(settings, ids_of(lines))
    await run(database, "TRUNCATE cache_sidecar.user_events")
    await run(database, "ALTER SEQUENCE cache_sidecar.event_position_seq RESTART")
    lines.append(line())
    await record(settings, lines[-1])
    async with copying(settings):
        await wait_for(settings, ids_of(lines))


async def test_of_two_relays_one_copies_and_the_other_follows(settings: Settings) -> None:
    async with copying(settings):
        first = asyncio.create_task(_copy(settings))
        lines = [line()]
        await record(settings, *lines)
        await wait_for(settings, ids_of(lines))
    lines.append(line())
    await record(settings, lines[-1])
    await wait_for(settings, ids_of(lines))
    await cancel_and_wait(first)


async def _copy(settings: Settings) -> None:
    async with copying(settings):
        await asyncio.Event().wait()


# Erased


def waiting(report: user_data.Report) -> list[str]:
    """Returns where events are still to be erased. No relay here publishes what caches are to drop."""
    return [where for where in report.unpublished if where != "catalog, user, analytics: no relay has ever run"]


async def test_an_erased_user_is_erased_there_too(settings: Settings) -> None:
    await record(settings, line("ann"), line("ann"), other := line("ben"))
    async with moving(settings), copying(settings):

        async def are_there() -> bool:
            return len(await ids(settings)) == 3

        await until(are_there)
        report = await user_data.erase(settings, "ann", specs=())
        assert (report.erased[user_data.EVENTS].rows, waiting(report)) == (2, [])
        assert await ids(settings) == ids_of([other])
        await record(settings, again := line("ann"))
        await wait_for(settings, ids_of([other, again]))


async def test_an_erasure_without_mongodb_says_so_and_is_completed_later(
    settings: Settings, proxy: Proxy, valkey: ValkeyServer, database: str, namespace: str
) -> None:
    through = settings_with(proxy.address, valkey, database, namespace)
    await record(settings, line("ann"))
    async with moving(settings), copying(through):
        await until(lambda: ids(settings))
        proxy.cut()
        report = await user_data.erase(settings, "ann", specs=(), published_within=1.0)
        assert waiting(report) == ["user events: MongoDB"]
        # From after the erasure: it stays, also in MongoDB.
        await record(settings, later := line("ann"))
        # An export does not wait for a copy of what it has.
        assert (await user_data.export(settings, "ann", specs=(), moved_within=5.0))["incomplete"] == []
        await proxy.heal()
        await wait_for(settings, ids_of([later]))

        async def is_confirmed() -> bool:
            return not await run(database, "SELECT 1 FROM cache_sidecar.event_marks")

        await until(is_confirmed)
    assert await ids(settings) == ids_of([later])


async def test_an_erasure_waits_for_the_relays_before_it_reaches_mongodb(
    settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event in Redis -> erased in MongoDB -> moved to PostgreSQL, and copied -> erased by its relay, and left in the copy."""
    await record(settings, line("ann"))
    await run(database, "INSERT INTO cache_sidecar.event_relays (region, mark) VALUES ('far', 0)")
    async with copying(settings):
        await until(lambda: ids(settings))
        report = await user_data.erase(settings, "ann", specs=(), published_within=0.0)
        assert waiting(report) == ["user events: MongoDB", "user events: region 'far'"]
        late, again = line("ann"), line("ann")
        await record(settings, late, again)

        async def are_copied() -> bool:
            return set(ids_of([late, again])) <= set(await ids(settings))

        await until(are_copied)
        looks, look = [], EventCopyStore.marks

        async def counted(self: EventCopyStore) -> Any:
            looks.append(await look(self))
            return looks[-1]

        monkeypatch.setattr(EventCopyStore, "marks", counted)
        # The second one began after the first one had its effect.
        await until(lambda: len(looks) > 1)
        await run(database, "DELETE FROM cache_sidecar.user_events WHERE event_id = %s", ids_of([late]))
        await run(database, "UPDATE cache_sidecar.event_relays SET mark = 1 WHERE region = 'far'")
        await wait_for(settings, ids_of([again]))


async def test_a_former_leader_that_wakes_up_brings_back_no_erased_event(
    settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reads ann's event and is paused -> she is erased, and B deletes what the copy has of her -> A writes the event."""
    gate, original = Gate(), EventCopy.add
    await record(settings, line("ann"))
    async with open_postgres(database) as postgres, open_database(settings, patience=5.0) as opened:

        async def held(self: EventCopy, events: Any) -> int:
            if self is paused:
                await gate.passed()
            return await original(self, events)

        monkeypatch.setattr(EventCopy, "add", held)
        gate.close()
        paused = EventCopy(opened)
        copier = copier_of(settings, UserEventStore(postgres), paused, Dependencies(is_logged=False))
        task = asyncio.create_task(copier.run(leadership_of(settings)))
        await gate.reached()
        await run(
            database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cache_sidecar_relay'"
        )
        async with moving(settings), copying(settings):
            report = await user_data.erase(settings, "ann", specs=())
            assert waiting(report) == []
            written = asyncio.Event()
            check = copier.check_written

            async def checked() -> None:
                written.set() if await ids(settings) else None
                await check()

            monkeypatch.setattr(copier, "check_written", checked)
            gate.open()
            await asyncio.wait_for(written.wait(), 60.0)
            await wait_for(settings, [])
        await cancel_and_wait(task)


# How far behind it is


async def test_the_lag_is_the_time_since_everything_was_copied(settings: Settings, mongodb: MongoServer, database: str) -> None:
    assert await lag(settings) is None
    async with copying(settings):
        await until(lambda: lag(settings))
        await run(database, "UPDATE cache_sidecar.event_relays SET update_time = now() - interval '1 hour'")

        async def is_up_to_date() -> bool:
            return (await lag(settings) or HOUR) < HOUR / 2

        await until(is_up_to_date)
    await run(database, "UPDATE cache_sidecar.event_relays SET update_time = now() - interval '1 hour'")
    # A mark that is passed says nothing about that.
    async with leadership_of(settings).term() as term, open_postgres(database) as postgres:
        store = EventCopyStore(term)
        await UserEventStore(postgres).set_mark()
        await store.pass_marks(await store.marks())
    assert (await lag(settings) or 0) >= HOUR
    assert not await run(database, "SELECT 1 FROM cache_sidecar.event_marks")
    assert await run(database, "SELECT mark FROM cache_sidecar.event_relays WHERE region = %s", [MONGODB]) == [(1,)]


# Questions


def random_events(seed: int) -> list[str]:
    """Returns events of a few users with a few products over two weeks, no two at the same time."""
    chance, lines = random.Random(seed), []
    for number in range(600):
        products = []
        for product_id in chance.sample(["sofa", "lamp", "mug", "pen"], chance.randint(0, 3)):
            one: dict[str, Any] = {"product_id": product_id, "quantity": chance.randint(1, 5)}
            if chance.random() < 0.7:
                one |= {
                    "price_units": chance.randint(0, 99),
                    "price_nanos": chance.choice([0, 500_000_000, 1]),
                    "currency_code": chance.choice(["EUR", "USD"]),
                }
            products.append(one)
        kind = chance.choice(
            ["detail-page-view", "add-to-cart", "add-to-cart", "remove-from-cart", "purchase-complete", "search"]
        )
        user = f"user-{chance.randint(1, 40)}"
        lines.append(
            line(user, kind, at=time.time() - 14 * 24 * HOUR + number * 0.5 * HOUR + chance.random(), products=products)
        )
    chance.shuffle(lines)
    return lines


@pytest.mark.parametrize("seed", [1, 2])
async def test_both_stores_give_the_same_answers(settings: Settings, seed: int) -> None:
    lines = random_events(seed)
    await record(settings, *lines)
    async with copying(settings):
        await wait_for(settings, ids_of(lines))
    for ask in (
        lambda store: analytics.top(settings, store, days=7, limit=20),
        lambda store: analytics.top(settings, store, days=30, limit=2),
        lambda store: analytics.funnel(settings, store, days=30),
        lambda store: analytics.idle_carts(settings, store, days=30, idle=1.0),
        lambda store: analytics.idle_carts(settings, store, days=30, idle=72.0),
    ):
        expected = await ask(analytics.POSTGRESQL)
        assert expected.rows
        assert (await ask(analytics.MONGODB)).lines() == expected.lines()


async def test_without_events_it_says_so(settings: Settings) -> None:
    for ask in (
        analytics.top(settings, analytics.MONGODB, days=7, limit=20),
        analytics.idle_carts(settings, analytics.MONGODB, days=7, idle=1.0),
    ):
        assert (await ask).rows == []
    steps = await analytics.funnel(settings, analytics.MONGODB, days=7)
    assert steps.rows == [("viewed", 0, 0, None), ("added to cart", 0, 0, None), ("bought", 0, 0, None)]


async def test_the_command_asks_mongodb(settings: Settings) -> None:
    await record(settings, line("ann", "purchase-complete", products=[{"product_id": "sofa", "quantity": 2}]))
    async with copying(settings):
        await until(lambda: ids(settings))
    # No PostgreSQL is needed.
    variables = {
        "CACHE_SIDECAR_POSTGRES_CATALOG": "postgresql://127.0.0.1:1/none",
        "CACHE_SIDECAR_MONGODB_URI": settings.mongodb_uri.get_secret_value(),
    }
    code, out, err = await command("analytics", "top", "--store", "mongodb", "--json", **variables)
    assert (code, err) == (0, "")
    assert json.loads(out) == [{"product_id": "sofa", "pieces": 2, "orders": 1, "revenue": {}}]
