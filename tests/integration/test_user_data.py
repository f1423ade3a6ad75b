"""`cache-sidecar user`: everything about one user is exported, and is gone from PostgreSQL and Redis once it was erased."""

import asyncio
import contextlib
import json
import os
import pwd
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from cache_sidecar import datasets, user_data
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import Failure, InputError, ServerUnreachable, Tier, TierFailed
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.services.session import hash_of
from cache_sidecar.services.shared.writes import key_of
from cache_sidecar.store.database import Database
from cache_sidecar.store.migrate import migrate
from cache_sidecar.store.provided import Key, ProvidedList, ProvidedStore
from cache_sidecar.v1 import cart_service_pb2, inventory_service_pb2, product_service_pb2, session_service_pb2
from cache_sidecar.v1.session_pb2 import Session
from tests.integration.test_cli import run as command
from tests.support.customers import Customer, item, lines, new_request, new_user
from tests.support.databases import RELAY, SIDECAR, as_role, open_database, run
from tests.support.launch import Process, in_process, process, settings_for
from tests.support.proxy import Proxy
from tests.support.recommended import learn_baskets
from tests.support.shop import refused
from tests.support.stockroom import COMMITTED, RELEASED, Stockroom
from tests.support.until import DEADLINE, until

# In a session's attributes: whatever still has it was not erased.
CANARY = "canary-5f1c"


@pytest.fixture
def settings(valkey: ValkeyServer, database: str, namespace: str) -> Settings:
    # As many pieces as callers can add while an erasure waits for the relay.
    more = {"redis_mode": "single", "postgres_timeout": 10.0, "cart_max_quantity": 1_000_000}
    return settings_for(valkey.address, as_role(SIDECAR, database), namespace, **more)


@contextlib.asynccontextmanager
async def relay(folder: Path, redis: str, database: str, namespace: str, **more: str) -> AsyncIterator[Process]:
    config = {
        "redis_nodes": redis,
        "postgres_catalog": as_role(RELAY, database),
        "namespace": namespace,
        "redis_mode": "single",
        "region": "eu",
    }
    async with process("relay", folder, config | more) as running:

        async def has_led() -> bool:
            users = more.get("postgres_user", database)
            regions = "SELECT 1 FROM cache_sidecar.relays", "SELECT 1 FROM cache_sidecar.event_relays"
            return bool(await run(database, regions[0]) and await run(users, regions[1]))

        await run(database, "INSERT INTO cache_sidecar.carts (user_id) VALUES ('somebody else')")
        await until(has_led)
        yield running


@pytest.fixture
async def relaying(tmp_path: Path, valkey: ValkeyServer, database: str, namespace: str) -> AsyncIterator[None]:
    async with relay(tmp_path, valkey.address, database, namespace):
        yield


@pytest.fixture
async def customer(settings: Settings) -> AsyncIterator[Customer]:
    async with in_process(settings) as sidecar:
        yield Customer(sidecar)


@pytest.fixture
async def stockroom(customer: Customer) -> Stockroom:
    return Stockroom(customer.sidecar.channel)


async def fill(customer: Customer, stockroom: Stockroom, user: str) -> dict[str, str]:
    """Makes everything that is kept about a user; returns the ids."""
    await stockroom.set("sofa", 10)
    session_id = await customer.create(user, new_request(), note=CANARY)
    guest = await customer.create("", new_request(), note=CANARY)
    update = session_service_pb2.UpdateSessionRequest(
        session=Session(session_id=guest, user_id=user), request_id=new_request(), update_mask={"paths": ["user_id"]}
    )
    await customer.sessions.UpdateSession(update)
    rotate = session_service_pb2.RotateSessionRequest(session_id=guest, request_id=new_request())
    rotated = (await customer.sessions.RotateSession(rotate)).session_id
    await customer.add(user, item("sofa", 2))
    await customer.add("friend", item("lamp"))
    await customer.merge("friend", user)
    await customer.add(user, item("sofa", 1, engraving=CANARY))
    held = await stockroom.reserve({"sofa": 3}, user_id=user)
    sold = await stockroom.reserve({"sofa": 1}, user_id=user)
    await stockroom.commit(sold.reservation_id, request_id=new_request())
    return {"session": session_id, "rotated": rotated, "held": held.reservation_id, "sold": sold.reservation_id}


async def tables_with(database: str, text: str) -> dict[str, int]:
    """Returns in which tables a text is, in how many rows each; replies in the ledger count by their bytes."""
    found = {}
    for (table,) in await run(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'cache_sidecar'"):
        query = f"SELECT count(*) FROM cache_sidecar.{table} AS row WHERE row::text LIKE %s OR row::text LIKE %s"
        ((count,),) = await run(database, query, [f"%{text}%", f"%{text.encode().hex()}%"])
        if count:
            found[table] = count
    return found


async def values_in_redis(valkey: ValkeyServer, namespace: str) -> list[bytes]:
    async with Redis.from_url(f"redis://{valkey.address}") as redis:
        keys = [key async for key in redis.scan_iter(f"{namespace}:*")]
        streams = [key for key in keys if key.startswith(f"{namespace}:events:".encode())]
        values = [value for key in keys if key not in streams and isinstance(value := await redis.get(key), bytes)]
        return values + [entry[b"e"] for key in streams for _, entry in await redis.xrange(key)]


async def reservations_of(stockroom: Stockroom, user: str) -> list[Any]:
    request = inventory_service_pb2.ListReservationsRequest(user_id=user)
    return list((await stockroom.calls.ListReservations(request)).reservations)


async def test_every_table_with_users_in_it_is_known(database: str) -> None:
    tables = {
        table
        for (table,) in await run(
            database,
            """SELECT relname::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
               WHERE relnamespace = 'cache_sidecar'::regnamespace AND attname = 'user_id' AND relkind IN ('r', 'p', 'v')
                 AND NOT relispartition""",
        )
    }
    # A view of recommendation_users, and what is erased with it: by the same function, and by each relay that passes a mark.
    tables -= {"recommendation_profiles", "recommendation_ahead"}
    assert tables == {
        user_data.EVENTS,
        user_data.HISTORY,
        user_data.LISTS,
        *(spec.user_rows.name for spec in datasets.ALL if spec.user_rows is not None),
    }
    assert {spec.name for spec in datasets.ALL if spec.is_private and spec.user_rows is None} == {
        "recommendation",
        "recommendation_profile",
        "product_search",
    }, "two are views of a user's history, and nobody knows whose a search is"


async def test_everything_is_exported(settings: Settings, customer: Customer, stockroom: Stockroom) -> None:
    user = new_user()
    ids = await fill(customer, stockroom, user)
    found = json.loads(json.dumps(await user_data.export(settings, user)))
    assert found["user_id"] == user
    assert {hash_of(ids["session"]), hash_of(ids["rotated"])} < {row["session_hash"] for row in found["sessions"]}
    assert [row["attributes"] for row in found["sessions"]] == [{"note": CANARY}] * 3, (
        "the rotated one, too, until it is purged"
    )
    assert [row["items"][0]["options"] for row in found["carts"]] == [{"engraving": CANARY}]
    assert {(row["reservation_id"], row["state"], row["items"]["sofa"]) for row in found["reservations"]} == {
        (ids["held"], "held", 3),
        (ids["sold"], "committed", 1),
    }
    methods = sorted(request["method"] for request in found["requests"])
    assert methods == sorted(
        ["CreateSession"] * 2
        + ["UpdateSession", "RotateSession", "MergeCarts", "CommitReservation"]
        + ["AddCartItem"] * 2
        + ["ReserveInventory"] * 2
    )
    (update,) = [request for request in found["requests"] if request["method"] == "UpdateSession"]
    assert update["reply"]["session"]["attributes"] == {"note": CANARY}
    assert {change["dataset"] for change in found["outbox"]} == {"session", "cart"}


async def test_the_export_is_the_owner_s_alone(
    settings: Settings, customer: Customer, stockroom: Stockroom, database: str, tmp_path: Path
) -> None:
    user, file = new_user(), tmp_path / "export.json"
    await fill(customer, stockroom, user)
    file.write_text("of before")
    file.chmod(0o644)
    variables = {
        "CACHE_SIDECAR_POSTGRES_CATALOG": database,
        "CACHE_SIDECAR_LOG_LEVEL": "error",
        "CACHE_SIDECAR_LOG_FORMAT": "json",
    }
    code, out, err = await command("user", "export", user, "--output", str(file), **variables)
    assert (code, out) == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["carts"][0]["user_id"] == user
    assert list(tmp_path.iterdir()) == [file]
    audit = json.loads(err)
    assert (audit["event"], audit["audit"]) == ("user data exported", True)
    assert (audit["sessions"], audit["carts"], audit["reservations"]) == (3, 1, 2)
    assert audit["by"] == pwd.getpwuid(os.getuid()).pw_name
    assert audit["user"] == f"sha256:{sha256(user.encode()).hexdigest()[:12]}"
    assert user not in err
    code, out, _ = await command("user", "export", user, **variables)
    assert (code, json.loads(out)["user_id"]) == (0, user)
    code, _, err = await command("user", "export", user, "--output", str(tmp_path / "none" / "x"), **variables)
    assert code == 64
    audit, error = err.splitlines()
    assert json.loads(audit)["event"] == "user data exported: failed"
    assert error.startswith("cache-sidecar: cannot write ")
    # Such a path would be replaced by a file: /dev/stdout is a link, /dev/null a device.
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(file)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path):
        code, _, err = await command("user", "export", user, "--output", str(path), **variables)
        assert (code, err) == (64, f"cache-sidecar: cannot write {path}: it exists and is not a regular file\n")
    assert link.is_symlink()
    assert pipe.is_fifo()
    code, _, err = await command("user", "export", user, "--output", "", **variables)
    assert (code, err) == (64, "cache-sidecar: cannot write .: it exists and is not a regular file\n")


@pytest.mark.usefixtures("relaying")
async def test_nothing_remains(
    settings: Settings, customer: Customer, stockroom: Stockroom, database: str, valkey: ValkeyServer, namespace: str
) -> None:
    user = new_user()
    ids = await fill(customer, stockroom, user)
    assert await tables_with(database, CANARY)
    assert any(CANARY.encode() in value for value in await values_in_redis(valkey, namespace))
    with capture_logs() as logs:
        report = await user_data.erase(settings, user)
    assert report.unpublished == []
    assert list(report.lines()) == [
        "reservations: 2 erased, 1 of them held and released first",
        "sessions: 3 erased",
        "carts: 1 erased",
        "user_events: 0 erased",
        "recommendation_users: 0 erased",
        "requests: 10 erased",
        "outbox: keeps the ids, without content, until every relay has published them, and for 3600 s",
        "Redis: every region has dropped its copies",
    ]
    assert await tables_with(database, CANARY) == {}
    assert set(await tables_with(database, user)) == {"outbox"}
    values = await values_in_redis(valkey, namespace)
    assert not any(CANARY.encode() in value or user.encode() in value for value in values)
    (audit,) = [line for line in logs if line["event"] == "user data erased"]
    assert (audit["sessions"], audit["carts"], audit["reservations"], audit["requests"]) == (3, 1, 2, 10)
    assert user not in str(logs)
    # As for somebody who never was.
    never = new_user()
    for session_id in (ids["session"], ids["rotated"]):
        assert (await refused(customer.session(session_id))).reason == "NOT_FOUND"
    assert (await customer.cart(user)).items == (await customer.cart(never)).items
    assert (await customer.cart(user)).etag == (await customer.cart(never)).etag
    assert await reservations_of(stockroom, user) == []
    listed = await customer.sessions.ListUserSessions(session_service_pb2.ListUserSessionsRequest(user_id=user))
    assert list(listed.sessions) == []
    # The stock is as it would be, and the books balance.
    for id, state in ((ids["held"], RELEASED), (ids["sold"], COMMITTED)):
        kept = await stockroom.reservation(id)
        assert (kept.user_id, kept.state) == ("", state)

    async def is_released() -> bool:
        return await stockroom.numbers("sofa") == (9, 0)

    await until(is_released)
    assert lines(await customer.cart("friend")) == {"lamp": 1, "sofa": 2}, "what was given to somebody else is theirs"


@pytest.mark.usefixtures("relaying")
async def test_a_second_time_and_somebody_unknown_are_nothing_to_erase(
    settings: Settings, customer: Customer, stockroom: Stockroom
) -> None:
    user = new_user()
    await fill(customer, stockroom, user)
    await user_data.erase(settings, user)
    for nobody in (user, new_user()):
        report = await user_data.erase(settings, nobody)
        assert set(report.counts().values()) == {0}
        assert (report.is_complete, report.unpublished) == (True, [])
        found = await user_data.export(settings, nobody)
        assert [found[name] for name in ("sessions", "carts", "reservations", "requests")] == [[]] * 4
        # Caches may have held a home page of somebody of whom nothing else was known.
        assert {(change["dataset"], change["kind"]) for change in found["outbox"]} == {("recommendation", "deleted")}


@pytest.mark.usefixtures("relaying")
async def test_a_session_in_use_ends_at_every_sidecar(settings: Settings, customer: Customer) -> None:
    user = new_user()
    session_id = await customer.create(user, new_request(), note=CANARY)
    async with in_process(settings) as sidecar:
        other, uses, is_erased = Customer(sidecar), 0, False

        async def use(at: Customer) -> None:
            nonlocal uses
            while not is_erased:
                with contextlib.suppress(Exception):
                    await (at.touch(session_id) if uses % 2 else at.session(session_id))
                    uses += 1

        users = [asyncio.create_task(use(at)) for at in (customer, other, customer, other)]
        await until(lambda: uses > 50)
        assert (await user_data.erase(settings, user)).unpublished == []
        refusals = [await refused(at.session(session_id)) for at in (customer, other)]
        is_erased = True
        await asyncio.gather(*users)
        refusals += [await refused(at.session(session_id)) for at in (customer, other)]
    assert {refusal.reason for refusal in refusals} == {"NOT_FOUND"}


@pytest.mark.usefixtures("relaying")
async def test_of_changes_meanwhile_only_those_after_it_remain(
    settings: Settings, customer: Customer, database: str, namespace: str
) -> None:
    user, added = new_user(), 0
    is_over = False

    async def add() -> None:
        nonlocal added
        while not is_over:
            await customer.add(user, item("sofa"))
            added += 1

    adders = [asyncio.create_task(add()) for _ in range(4)]
    for _ in range(5):
        await until(lambda so_far=added: added > so_far + 20)
        await user_data.erase(settings, user)
    is_over = True
    await asyncio.gather(*adders)
    ((requests,),) = await run(database, "SELECT count(*) FROM cache_sidecar.requests WHERE scope = %s", [f"user {user}"])
    assert lines(await customer.cart(user)).get("sofa", 0) == requests < added, "each request that is known is in the cart"
    assert (await user_data.erase(settings, user)).unpublished == []
    assert not (await customer.cart(user)).items


@contextlib.asynccontextmanager
async def held_at(database: str, table: str, operation: str) -> AsyncIterator[None]:
    """Holds transactions at the end of the first statement that deletes from or updates a table, even if it finds no row."""
    await run(
        database,
        f"""CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
            CREATE TRIGGER hold AFTER {operation} ON cache_sidecar.{table} FOR EACH STATEMENT EXECUTE FUNCTION hold()""",
    )
    async with await psycopg.AsyncConnection.connect(database) as holder:
        await holder.execute("SELECT pg_advisory_xact_lock(1)")
        yield


async def is_held(database: str) -> bool:
    return bool(await run(database, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted"))


@pytest.mark.usefixtures("relaying")
@pytest.mark.parametrize("place", [("reservations", "UPDATE"), ("carts", "DELETE")])
async def test_what_is_made_meanwhile_is_not_made_again_by_a_repeat(
    settings: Settings, customer: Customer, stockroom: Stockroom, database: str, place: tuple[str, str]
) -> None:
    user, requests = new_user(), [new_request() for _ in range(3)]
    await stockroom.set("sofa", 10)

    async def make() -> str:
        await customer.add(user, item("sofa", 2), request_id=requests[0])
        await customer.create(user, requests[1])
        return (await stockroom.reserve({"sofa": 3}, user_id=user, request_id=requests[2])).reservation_id

    async with held_at(database, *place):
        erasing = asyncio.create_task(user_data.erase(settings, user))
        await until(lambda: is_held(database))
        if place[0] == "carts":  # the datasets before have been erased
            first = await make()
        else:
            first = (await stockroom.reserve({"sofa": 3}, user_id=user, request_id=requests[2])).reservation_id
    await erasing
    assert await make() == first
    assert [found.reservation_id for found in await reservations_of(stockroom, user)] == [first]
    assert lines(await customer.cart(user)) == {"sofa": 2}
    assert await run(
        database, "SELECT count(*) FROM cache_sidecar.sessions WHERE user_id = %s AND delete_time IS NULL", [user]
    ) == [(1,)]
    await user_data.erase(settings, user)
    assert set(await tables_with(database, user)) == {"outbox"}


async def test_a_command_that_is_terminated_says_what_it_has_erased(
    customer: Customer, stockroom: Stockroom, database: str, settings: Settings
) -> None:
    user = new_user()
    await fill(customer, stockroom, user)
    async with held_at(database, "carts", "DELETE"):
        variables = {"CACHE_SIDECAR_REDIS_NODES": settings.redis_nodes[0], "CACHE_SIDECAR_POSTGRES_CATALOG": database}
        erasing = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cache_sidecar", "user", "erase", user),
            env=os.environ | variables,
            stderr=asyncio.subprocess.PIPE,
        )
        await until(lambda: is_held(database))
        erasing.terminate()
        _, err = await asyncio.wait_for(erasing.communicate(), DEADLINE)
    assert erasing.returncode == 130
    line = json.loads(err.decode().splitlines()[0])
    assert (line["event"], line["audit"], line["reservations"]) == ("user data erased: failed", True, 2)


def test_every_method_with_the_user_s_scope_is_known() -> None:
    """One that is not would be erased from the ledger by each dataset's transaction, though what it made may remain."""
    with_scope = set()
    for pool in (cart_service_pb2, inventory_service_pb2, product_service_pb2, session_service_pb2):
        for name in pool.DESCRIPTOR.message_types_by_name:
            request = getattr(pool, name)()
            if not hasattr(request, "request_id"):
                continue
            if hasattr(request, "user_id"):
                request.user_id = "somebody"
            elif hasattr(request, "cart"):
                request.cart.user_id = "somebody"
            request.request_id = new_request()
            key = key_of(request)
            if key is not None and key.scope.startswith("user "):
                with_scope.add(name)
    known = [method for spec in datasets.ALL if spec.user_rows is not None for method in spec.user_rows.methods]
    assert sorted(known) == sorted(with_scope)


async def test_without_redis_it_is_erased_and_says_what_is_left(
    settings: Settings, customer: Customer, database: str, valkey: ValkeyServer, namespace: str, tmp_path: Path
) -> None:
    user = new_user()
    await customer.add(user, item("sofa", engraving=CANARY))
    async with Proxy(valkey.address) as proxy, relay(tmp_path, proxy.address, database, namespace):
        proxy.cut()
        report = await user_data.erase(settings, user, published_within=0.5)
        assert report.unpublished == ["user events: region 'eu'", "catalog, user, analytics: region 'eu'"]
        assert await tables_with(database, CANARY) == {}
        assert any(CANARY.encode() in value for value in await values_in_redis(valkey, namespace)), "that is what it says"
        await proxy.heal()
        report = await user_data.erase(settings, user, published_within=60.0)
        assert report.unpublished == []
    assert not any(CANARY.encode() in value for value in await values_in_redis(valkey, namespace))


@pytest.fixture
async def users(postgres: Postgres) -> AsyncIterator[str]:
    """The DSN of a database that has no role but `user` and `analytics`."""
    name = f"users_{new_user().removeprefix('user-')}"
    await run(postgres.dsn("postgres"), f"CREATE DATABASE {name}")
    await migrate(postgres.dsn(name), "user", "analytics")
    yield postgres.dsn(name)
    await run(postgres.dsn("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


async def test_two_databases_are_both_erased(
    database: str, users: str, valkey: ValkeyServer, namespace: str, tmp_path: Path
) -> None:
    user = new_user()
    settings = settings_for(valkey.address, database, namespace, redis_mode="single", postgres_user=users)
    async with in_process(settings) as sidecar, relay(tmp_path, valkey.address, database, namespace, postgres_user=users):
        await fill(Customer(sidecar), Stockroom(sidecar.channel), user)
        found = await user_data.export(settings, user)
        assert [len(found[name]) for name in ("sessions", "carts", "reservations", "requests")] == [3, 1, 2, 10]
        report = await user_data.erase(settings, user)
        assert list(report.counts().values()) == [2, 3, 1, 0, 0, 10]
        assert report.unpublished == []
    for dsn in (database, users):
        assert await tables_with(dsn, CANARY) == {}
        assert set(await tables_with(dsn, user)) <= {"outbox"}


async def test_without_a_relay_the_exit_code_says_so(customer: Customer, database: str) -> None:
    user = new_user()
    await customer.add(user, item("sofa"))
    variables = {"CACHE_SIDECAR_POSTGRES_CATALOG": database, "CACHE_SIDECAR_LOG_FORMAT": "json"}
    code, out, err = await command("user", "erase", user, **variables)
    assert code == 69
    assert "carts: 1 erased" in out
    assert "every region" not in out
    audit, error = err.splitlines()
    assert json.loads(audit)["event"] == "user data erased"
    assert error.startswith(
        "cache-sidecar: erased in PostgreSQL, but not yet in Redis (user events: no relay has ever run; "
        "catalog, user, analytics: no relay has ever run)"
    )


@pytest.mark.usefixtures("relaying")
async def test_a_hold_that_cannot_be_released_remains_and_is_counted(
    settings: Settings, customer: Customer, stockroom: Stockroom, database: str
) -> None:
    user = new_user()
    await stockroom.set("sofa", 10)
    await stockroom.reserve({"sofa": 3}, user_id=user)
    await customer.add(user, item("sofa"))
    await run(database, "UPDATE cache_sidecar.inventory SET reserved = 0 WHERE product_id = 'sofa'")
    report = await user_data.erase(settings, user)
    assert not report.is_complete
    assert (report.counts()["carts"], report.erased["reservations"].remaining) == (1, 1)
    assert "reservations: 1 remain, as they could not be ended: run the command again" in list(report.lines())
    await run(database, "UPDATE cache_sidecar.inventory SET reserved = 3 WHERE product_id = 'sofa'")
    assert (await user_data.erase(settings, user)).is_complete
    assert "reservations" not in await tables_with(database, user)


@pytest.mark.usefixtures("relaying")
async def test_several_erasures_at_once_all_finish(settings: Settings, stockroom: Stockroom, database: str) -> None:
    user, holds = new_user(), 60
    for product_id in ("sofa", "lamp"):
        await stockroom.set(product_id, holds)
    await asyncio.gather(*(stockroom.reserve({"sofa": 1, "lamp": 1}, user_id=user) for _ in range(holds)))
    reports = await asyncio.gather(*(user_data.erase(settings, user) for _ in range(3)))
    assert all(report.is_complete for report in reports)
    assert sum(report.erased["reservations"].released for report in reports) == holds
    assert sum(report.counts()["reservations"] for report in reports) == holds
    assert await run(database, "SELECT sum(reserved)::int, sum(available)::int FROM cache_sidecar.inventory") == [
        (0, 2 * holds)
    ]
    assert "reservations" not in await tables_with(database, user)


@pytest.mark.usefixtures("relaying")
async def test_a_write_that_conflicts_again_and_again_is_attempted_until_it_does_not(
    settings: Settings, stockroom: Stockroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, attempts = new_user(), 0
    await stockroom.set("sofa", 2)
    await stockroom.reserve({"sofa": 2}, user_id=user)
    write = Database.write

    async def write_after_conflicts(self: Database, *given: Any, **named: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts % 4:
            raise TierFailed(Tier.STORE, Failure.CONFLICT)
        return await write(self, *given, **named)

    monkeypatch.setattr(Database, "write", write_after_conflicts)
    report = await user_data.erase(settings, user)
    assert (report.is_complete, report.erased["reservations"].released) == (True, 1)


@pytest.mark.parametrize("user_id", ["", "x" * 129, "a\nb", "\udcff"])
async def test_what_can_be_no_user_is_refused(settings: Settings, user_id: str) -> None:
    with pytest.raises(InputError, match="USER_ID"):
        await user_data.erase(settings, user_id)
    with pytest.raises(InputError, match="USER_ID"):
        await user_data.export(settings, user_id)


async def test_without_postgres_it_is_refused(settings: Settings) -> None:
    away = settings_for("127.0.0.1:1", "postgresql://nobody@127.0.0.1:1/none", "x")
    with capture_logs() as logs, pytest.raises(ServerUnreachable):
        await user_data.erase(away, "ann")
    (audit,) = [line for line in logs if line["event"] == "user data erased: failed"]
    assert audit["log_level"] == "error"


async def test_what_was_learned_from_a_user_is_exported_and_erased(settings: Settings, database: str) -> None:
    user, other = new_user(), new_user()
    await learn_baskets(database, (user, ["sofa"]), (other, ["sofa"]))
    found = await user_data.export(settings, user, moved_within=0.0)
    assert [product for product, _ in found[user_data.HISTORY][0]["products"]] == ["sofa"]
    assert {change["dataset"] for change in found["outbox"]} == {"recommendation", "recommendation_profile"}
    report = await user_data.erase(settings, user, published_within=0.0)
    assert report.erased[user_data.HISTORY].rows == 1
    assert await run(database, "SELECT user_id FROM cache_sidecar.recommendation_users") == [(other,)]
    assert (await user_data.export(settings, user, moved_within=0.0))[user_data.HISTORY] == []


async def test_lists_that_were_imported_for_a_user_are_exported_and_erased(settings: Settings, database: str) -> None:
    user, other = new_user(), new_user()
    lists = [ProvidedList(Key(one, "", "RECOMMENDED_FOR_YOU"), ["sofa"], [0.5]) for one in (user, other)]
    async with open_database(database) as opened:
        store = ProvidedStore(opened)
        await store.receive("served", lists, first=0, commit=True)
        await store.receive("next", lists, first=0)
    found = json.loads(json.dumps(await user_data.export(settings, user, moved_within=0.0)))
    assert [(row["batch_id"], row["product_ids"]) for row in found[user_data.LISTS]] == [
        ("served", ["sofa"]),
        ("next", ["sofa"]),
    ]
    report = await user_data.erase(settings, user, published_within=0.0)
    assert report.erased[user_data.HISTORY].rows == 1
    assert await run(database, "SELECT DISTINCT user_id FROM cache_sidecar.provided_recommendations") == [(other,)]


async def test_what_a_relay_erases_before_the_command_is_counted(settings: Settings, database: str) -> None:
    user = new_user()
    await learn_baskets(database, (user, ["sofa"]))
    await run(database, "INSERT INTO cache_sidecar.event_relays (region, mark) VALUES ('eu', 0)")

    async def pass_mark(_: float) -> None:
        await run(database, f"SELECT cache_sidecar.erase_recommendation_user('{user}')")
        await run(database, "UPDATE cache_sidecar.event_relays SET mark = (SELECT max(mark) FROM cache_sidecar.event_marks)")

    report = await user_data.erase(settings, user, published_within=0.1, sleep=pass_mark)
    assert report.erased[user_data.HISTORY].rows == 1
    assert await run(database, "SELECT user_id FROM cache_sidecar.recommendation_users") == []
