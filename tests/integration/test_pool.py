"""The pool: bounds, and a server that is slow, gone, or not what it should be."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog

from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import Failure, NotFound, SettingsError, Tier, TierFailed
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.store import pool
from cache_sidecar.store.database import Database
from cache_sidecar.store.writes import RowChange, Transaction, WriteResult
from cache_sidecar.tiers.resilience.breaker import BREAK_FOR, Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.databases import Creation, key, open_database, run
from tests.support.free_ports import ChoosePorts
from tests.support.gates import Gate
from tests.support.proxy import Proxy
from tests.support.until import until


@pytest.fixture
async def opened(database: str) -> AsyncIterator[Database]:
    async with open_database(database) as store:
        yield store


@pytest.fixture(scope="module")
async def own(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[Postgres]:
    """A PostgreSQL that tests may stop."""
    (port,) = choose_ports(1)
    server = Postgres(processes, processes.state.path / "postgres-pool", port, settings={"fsync": "off"})
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    with structlog.testing.capture_logs() as said:
        yield said  # type: ignore[misc]


async def failure_of(database: Database, query: str = "SELECT 1") -> Failure | None:
    try:
        await database.fetch(query, [])
    except TierFailed as error:
        return error.failure if error.tier is Tier.STORE else None
    return None


def proxied(dsn: str, proxy: Proxy) -> str:
    before, _, after = dsn.rpartition("@")
    return f"{before}@{proxy.address}/{after.partition('/')[2]}"


@pytest.mark.parametrize(("size", "timeout"), [(0, 1.0), (1, 0.0), (-1, 1.0)])
def test_bounds_are_checked(size: int, timeout: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Database("postgresql://nobody/none", size=size, timeout=timeout, prepare=True, guard=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dsn", ["postgresql://u:s3cr3t@db/shop?no_such_option=1", "postgresql://u:s3cr3t@[db/shop"])
def test_a_uri_that_libpq_cannot_read_is_a_setting_that_is_wrong(dsn: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Database(dsn, size=1, timeout=1.0, prepare=True, guard=None)  # type: ignore[arg-type]
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_rows_are_returned(opened: Database) -> None:
    assert await opened.fetch("SELECT %s::int, 'x'", [5]) == [(5, "x")]
    assert await opened.fetch("SELECT 1 WHERE false", []) == []


@pytest.mark.parametrize("prepare", [True, False])
async def test_statements_are_prepared_or_not(database: str, prepare: bool) -> None:
    async with open_database(database, size=1, prepare=prepare) as store:
        for _ in range(10):
            await store.fetch("SELECT 1 AS prepared_or_not", [])
        found = await store.fetch("SELECT 1 FROM pg_prepared_statements WHERE statement LIKE %s", ["%prepared_or_not%"])
        assert bool(found) == prepare


# Failures


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        ("SELECT * FROM no_such_table", Failure.REFUSED),
        ("SELECT 1/0", Failure.REFUSED),
        ("not sql", Failure.REFUSED),
        ("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)", Failure.TIMEOUT),
    ],
)
async def test_what_postgresql_refuses_is_no_defect(database: str, query: str, failure: Failure) -> None:
    async with open_database(database, size=1) as store:
        assert await failure_of(store, query) is failure
        assert await failure_of(store) is None


async def test_a_statement_that_was_cancelled_is_not_repeated(database: str) -> None:
    async with open_database(database, size=1) as store:
        await run(database, "CREATE SEQUENCE public.attempts")
        query = "SELECT nextval('attempts'), pg_cancel_backend(pg_backend_pid()), pg_sleep(60)"
        assert await failure_of(store, query) is Failure.TIMEOUT
    assert await run(database, "SELECT last_value, is_called FROM attempts") == [(1, True)]


async def test_work_that_takes_too_long_is_ended_and_gives_its_connection_back(database: str) -> None:
    async with open_database(database, size=1, seconds=0.2) as store:
        assert await failure_of(store, "SELECT pg_sleep(60)") is Failure.TIMEOUT
        await until(lambda: nobody_sleeps(database))
        assert await failure_of(store) is None


async def nobody_sleeps(database: str) -> bool:
    found = await run(database, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'")
    return not found


async def test_a_caller_who_leaves_gives_the_connection_back(database: str) -> None:
    async with open_database(database, size=1) as store:
        leaving = asyncio.create_task(store.fetch("SELECT pg_sleep(60)", []))
        await until(lambda: somebody_sleeps(database))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert await failure_of(store) is None


async def somebody_sleeps(database: str) -> bool:
    return not await nobody_sleeps(database)


async def test_over_the_bound_it_is_busy_at_once(database: str) -> None:
    async with open_database(database, size=1, waiting=1) as store:
        gate = Gate()
        gate.close()

        async def hold(_: Transaction) -> WriteResult[None]:
            await gate.passed()
            return WriteResult(b"")

        holding = asyncio.create_task(store.write(None, hold))
        await gate.reached()
        waiting = asyncio.create_task(store.fetch("SELECT 1", []))
        await asyncio.sleep(0)
        assert await failure_of(store) is Failure.BUSY
        gate.open()
        await asyncio.gather(holding, waiting)
        assert await failure_of(store) is None


async def test_callers_that_conflict_are_no_sign_that_the_server_is_away(database: str) -> None:
    """Deadlocks and the like are answers: they must not make the breaker refuse everybody."""
    async with open_database(database, size=2) as store:
        for _ in range(5):
            assert await failure_of(store, "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$") is not None
        assert await failure_of(store) is None


# The server goes away


async def test_a_server_that_is_not_there_is_unreachable(database: str) -> None:
    async with Proxy("127.0.0.1:1") as nobody, open_database(proxied(database, nobody), seconds=0.5) as store:
        assert await failure_of(store) in (Failure.UNREACHABLE, Failure.TIMEOUT)


async def test_a_server_that_comes_later_is_used(database: str) -> None:
    target = database.rpartition("@")[2].partition("/")[0]
    async with Proxy(target) as proxy:
        proxy.cut()
        async with open_database(proxied(database, proxy), seconds=0.2) as store:
            assert await failure_of(store) in (Failure.UNREACHABLE, Failure.TIMEOUT)
            await proxy.heal()
            await until(lambda: works(store))


async def works(store: Database) -> bool:
    return await failure_of(store) is None


async def test_a_read_survives_the_restart_of_the_server(own: Postgres) -> None:
    async with open_database(own.dsn(), size=4) as store:
        await asyncio.gather(*(store.fetch("SELECT pg_sleep(0.05)", []) for _ in range(4)))
        await own.restart()
        assert await failure_of(store) is None
        assert await asyncio.gather(*(failure_of(store) for _ in range(8))) == [None] * 8


async def test_a_read_survives_connections_that_were_cut(own: Postgres) -> None:
    async with open_database(own.dsn(), size=4) as store:
        await asyncio.gather(*(store.fetch("SELECT pg_sleep(0.05)", []) for _ in range(4)))
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cache_sidecar'"
        await run(own.dsn("postgres"), query)
        assert await failure_of(store) is None


async def test_a_server_that_hangs_is_a_timeout_and_heals(own: Postgres) -> None:
    async with open_database(own.dsn(), seconds=0.3) as store:
        assert await failure_of(store) is None
        own.pause()
        try:
            async with asyncio.timeout(10):
                assert await failure_of(store) in (Failure.TIMEOUT, Failure.UNREACHABLE)
        finally:
            own.resume()
        await until(lambda: works(store))


async def test_a_network_that_hangs_is_a_timeout_and_heals(database: str) -> None:
    target = database.rpartition("@")[2].partition("/")[0]
    async with Proxy(target) as proxy, open_database(proxied(database, proxy), seconds=0.3) as store:
        assert await failure_of(store) is None
        proxy.stall()
        async with asyncio.timeout(10):
            assert await failure_of(store) is Failure.TIMEOUT
        await until(
            lambda: not inside.uses_of(store.pool).running
        )  # the connection was given up: nobody knows when it would come back
        await proxy.heal()
        await until(lambda: works(store))


async def test_a_write_is_not_repeated_when_the_connection_breaks(database: str) -> None:
    async with open_database(database) as store:
        runs = 0

        async def work(tx: Transaction) -> WriteResult[None]:
            nonlocal runs
            runs += 1
            await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            return WriteResult(b"", [RowChange("a", 1)])

        with pytest.raises(TierFailed) as caught:
            await store.write(key(), work)
        assert (caught.value.failure, runs) == (Failure.UNREACHABLE, 1)


# Writes


async def test_a_write_is_committed_when_it_returns(opened: Database, database: str) -> None:
    written = await opened.write(None, Creation("a"))
    assert (written.reply, [(id, entry) for id, _, entry in written.changes]) == (b"reply", [("a", b"entry")])
    assert await run(database, "SELECT version FROM cache_sidecar.products") == [(written.changes[0].version,)]


async def test_a_write_that_fails_leaves_nothing(opened: Database, database: str) -> None:
    async def work(tx: Transaction) -> WriteResult[None]:
        await Creation("a")(tx)
        raise NotFound("product", "b")

    with pytest.raises(NotFound):
        await opened.write(key(), work)
    for table in ("products", "outbox", "requests"):
        assert await run(database, f"SELECT 1 FROM cache_sidecar.{table}") == []


async def test_a_conflict_without_a_request_id_is_refused(opened: Database) -> None:
    await opened.write(None, Creation("a"))
    with pytest.raises(TierFailed) as caught:
        await opened.write(None, Creation("a"))
    assert caught.value.failure is Failure.REFUSED


async def test_after_close_nothing_is_done(database: str) -> None:
    async with open_database(database) as store:
        pass
    assert await failure_of(store) is Failure.UNREACHABLE


async def test_closing_gives_every_connection_back(database: str) -> None:
    async with open_database(database, size=3) as store:
        await asyncio.gather(*(store.fetch("SELECT pg_sleep(0.02)", []) for _ in range(3)))
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cache_sidecar' AND datname = current_database()"

    async def all_closed() -> bool:
        return await run(database, query) == [(0,)]

    await until(all_closed)


# Long outages


@pytest.mark.parametrize("away", ["refusing", "hanging"])
async def test_no_outage_is_too_long_to_heal_from(database: str, away: str) -> None:
    """As often as a relay asks in a quarter of an hour: nothing is left that fills up, and each is told why."""
    clock = ManualClock()
    async with Proxy(database.rpartition("@")[2].partition("/")[0]) as proxy:
        guard = Guard(Tier.STORE, timeout=0.01, max_running=2, max_waiting=8, breaker=Breaker(Tier.STORE, clock=clock))
        store = Database(proxied(database, proxy), size=2, timeout=10.0, prepare=True, guard=guard)
        await store.open()
        proxy.cut() if away == "refusing" else proxy.stall()
        for _ in range(900):
            clock.advance(BREAK_FOR)
            assert await failure_of(store) in (Failure.UNREACHABLE, Failure.TIMEOUT)
        await until(lambda: not inside.uses_of(store.pool).running)
        assert (inside.slots_of(store.pool)._value, len(inside.idle_of(store.pool))) == (2, 0)
        guard.timeout = 10.0
        await proxy.heal()
        clock.advance(BREAK_FOR)
        assert await failure_of(store) is None, "the first who asks is answered"
        await store.close()


async def test_a_server_that_cannot_be_connected_to_is_told_in_its_own_words(database: str) -> None:
    before, _, after = database.rpartition("/")
    async with open_database(f"{before}/no_such_database") as store:
        with pytest.raises(TierFailed, match='database "no_such_database" does not exist'):
            await store.fetch("SELECT 1", [])


async def test_what_a_burst_opened_is_closed_but_for_one(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE", 0.0)
    async with open_database(database, size=4) as store:
        await asyncio.gather(*(store.fetch("SELECT pg_sleep(0.05)", []) for _ in range(4)))
        await until(lambda: len(inside.idle_of(store.pool)) == 1)


async def test_a_connection_is_replaced_when_it_is_old(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_database(database, size=1) as store:
        first = await store.fetch("SELECT pg_backend_pid()", [])
        assert await store.fetch("SELECT pg_backend_pid()", []) == first
        monkeypatch.setattr(pool, "LIFETIME", -1.0)
        inside.idle_of(store.pool)[0] = inside.idle_of(store.pool)[0]._replace(until=0.0)
        assert await store.fetch("SELECT pg_backend_pid()", []) != first


async def test_a_write_survives_the_restart_of_the_server(own: Postgres) -> None:
    async with open_database(own.dsn(), size=4) as store:
        await asyncio.gather(*(store.fetch("SELECT pg_sleep(0.05)", []) for _ in range(4)))
        await own.restart()

        async def work(tx: Transaction) -> WriteResult[None]:
            await tx.execute("SELECT 1")
            return WriteResult(b"done")

        assert [(await store.write(None, work)).reply for _ in range(4)] == [b"done"] * 4


# What a session remembers, and holds no longer

REPLACE = (
    "DROP TABLE public.goods; CREATE TABLE public.goods (id bigint, name varchar); INSERT INTO public.goods VALUES (7, 'x')"
)


@pytest.fixture
async def prepared(database: str) -> AsyncIterator[Database]:
    """Four connections, each of which prepared a statement on a table that is another one since."""
    await run(database, "CREATE TABLE public.goods (id int, name text)")
    async with open_database(database, size=4) as store:
        for _ in range(8):
            await asyncio.gather(*(store.fetch("SELECT *, pg_sleep(0.01) FROM public.goods", []) for _ in range(4)))
            await asyncio.gather(
                *(store.fetch("SELECT * FROM public.goods WHERE pg_sleep(0.01) IS NOT NULL", []) for _ in range(4))
            )
        for _ in range(30):
            await store.fetch("SELECT * FROM public.goods", [])
        for statement in REPLACE.split("; "):
            await run(database, statement)
        yield store


async def test_a_plan_that_no_longer_fits_is_made_anew(prepared: Database, log: list[dict[str, Any]]) -> None:
    for query in ("SELECT * FROM public.goods", "SELECT * FROM public.goods WHERE pg_sleep(0.01) IS NOT NULL"):
        for _ in range(4):
            assert await asyncio.gather(*(prepared.fetch(query, []) for _ in range(4))) == [[(7, "x")]] * 4
    (said,) = log
    assert said["log_level"] == "warning"
    assert said["statement"] == "SELECT * FROM public.goods"
    assert "cached plan must not change result type" in said["error"]


async def test_so_it_is_in_a_write(prepared: Database, database: str) -> None:
    runs = 0

    async def work(tx: Transaction) -> WriteResult[None]:
        nonlocal runs
        runs += 1
        await tx.execute("INSERT INTO public.goods VALUES (8, 'y')")
        await tx.execute("SELECT * FROM public.goods")
        return WriteResult(b"done", [RowChange("a", 1)])

    assert (await prepared.write(key(), work)).reply == b"done"
    assert runs == 2
    assert await run(database, "SELECT count(*) FROM public.goods") == [(2,)], "the first attempt was rolled back"


@pytest.mark.parametrize(
    "code",
    ["26000", "42P05", "XX000", "42804", "25006"],
    ids=["no such prepared statement", "prepared already", "cache lookup failed", "type changed", "read only"],
)
async def test_whatever_else_goes_away_with_a_new_connection(database: str, code: str) -> None:
    """Said by a function, of sessions that are older than a moment."""
    await run(database, "CREATE TABLE public.moment AS SELECT clock_timestamp() AS since WHERE false")
    await run(
        database,
        f"""CREATE FUNCTION public.remember() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) < (SELECT since FROM public.moment) THEN
                RAISE EXCEPTION 'remembered' USING ERRCODE = '{code}';
            END IF; RETURN 1; END $$""",
    )
    async with open_database(database, size=2) as store:
        assert await store.fetch("SELECT public.remember()", []) == [(1,)]
        await run(database, "INSERT INTO public.moment VALUES (clock_timestamp())")
        assert await store.fetch("SELECT public.remember()", []) == [(1,)]


async def test_what_a_new_connection_is_told_too_is_refused_and_said_once(database: str, log: list[dict[str, Any]]) -> None:
    """It opens no connection for each call."""
    async with open_database(database, size=1) as store:
        query = "DO $$ BEGIN RAISE EXCEPTION 'lasting' USING ERRCODE = 'XX000'; END $$"
        assert [await failure_of(store, query) for _ in range(5)] == [Failure.REFUSED] * 5
        first = await store.fetch("SELECT pg_backend_pid()", [])
        assert await failure_of(store, query) is Failure.REFUSED
        assert await store.fetch("SELECT pg_backend_pid()", []) == first
    assert [said["log_level"] for said in log] == ["warning"]
    assert (log[0]["statement"], log[0]["error"]) == (query, "InternalError_: lasting")


async def test_what_the_dependency_says_is_said_once_with_the_statement(database: str, log: list[dict[str, Any]]) -> None:
    dependency = Dependencies().of("postgres", "catalog")
    async with open_database(database, size=1, dependency=dependency) as store:
        for query in ["SELECT * FROM no_such_table"] * 3 + ["SELECT 1 FROM no_such_table"] * 3:
            assert await failure_of(store, query) is Failure.REFUSED
    reason = 'relation "no_such_table" does not exist'
    assert [(said["event"], said["statement"]) for said in log] == [
        ("a dependency fails", "SELECT * FROM no_such_table"),
        ("PostgreSQL refuses a statement", "SELECT 1 FROM no_such_table"),
    ]
    assert log[0]["reason"] == reason
    assert reason in log[1]["error"]


async def test_a_pooler_that_passes_on_the_pid_is_found_out_and_said_once(database: str, log: list[dict[str, Any]]) -> None:
    """Each session lacks a statement that it prepared, as soon as it is used for a while; that it is pooled cannot be seen."""
    await run(database, "CREATE TABLE public.moment AS SELECT clock_timestamp() AS since WHERE false")
    await run(
        database,
        """CREATE FUNCTION public.execute() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) < (SELECT since FROM public.moment) THEN
                RAISE EXCEPTION 'prepared statement "_pg3_0" does not exist' USING ERRCODE = '26000';
            END IF; RETURN 1; END $$""",
    )
    await run(database, "INSERT INTO public.moment VALUES (clock_timestamp())")
    async with open_database(database, size=1) as store:
        assert await store.fetch("SELECT public.execute()", []) == [(1,)]
        for _ in range(4):
            await run(database, "UPDATE public.moment SET since = clock_timestamp()")
            assert await store.fetch("SELECT public.execute()", []) == [(1,)]
        assert inside.options_of(store.pool)["prepare_threshold"] is None
    assert len(log) == 1


async def test_a_server_that_stays_read_only_is_said_once(database: str, log: list[dict[str, Any]]) -> None:
    async with open_database(database, size=1) as store:
        query = "DO $$ BEGIN RAISE EXCEPTION 'cannot write' USING ERRCODE = '25006'; END $$"
        assert [await failure_of(store, query) for _ in range(5)] == [Failure.REFUSED] * 5
    assert [said["log_level"] for said in log] == ["warning", "warning"]


async def test_what_is_logged_quotes_no_values(database: str, log: list[dict[str, Any]]) -> None:
    async with open_database(database, size=1) as store:
        assert await failure_of(store, "SELECT 'ann@example.org'::text::int") is Failure.REFUSED
    assert "ann@example.org" not in log[0]["error"]
