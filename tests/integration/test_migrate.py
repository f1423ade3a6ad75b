"""Migrations: each once, in order, all or nothing, whoever else migrates."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from cache_sidecar.config.settings import ROLES
from cache_sidecar.core.errors import InputError, ServerUnreachable, SidecarError
from cache_sidecar.devstack.postgres import Postgres
from cache_sidecar.store import migrate as module
from cache_sidecar.store.migrate import Migration, migrate, migrations
from tests.support.databases import run


@pytest.fixture
async def empty(postgres: Postgres) -> AsyncIterator[str]:
    """The DSN of an empty database."""
    name = f"empty_{uuid4().hex[:8]}"
    await run(postgres.dsn("postgres"), f"CREATE DATABASE {name}")
    yield postgres.dsn(name)
    await run(postgres.dsn("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


async def applied(dsn: str) -> list[tuple[str, str]]:
    return await run(dsn, "SELECT role, name FROM cache_sidecar.migrations ORDER BY role, name")  # type: ignore[return-value]


async def test_what_is_missing_is_applied_once(empty: str) -> None:
    first = await migrate(empty, "catalog")
    assert first == [migration.name for role in (module.SHARED, "catalog") for migration in migrations(role)]
    assert "0001_versions_and_outbox" in first
    assert await migrate(empty, "catalog") == []
    assert len(await applied(empty)) == len(first)


async def test_roles_in_one_database_share_what_is_shared(empty: str) -> None:
    shared = {migration.name for migration in migrations(module.SHARED)}
    names = [set(await migrate(empty, role)) for role in ROLES]
    assert shared <= names[0]
    assert all(not shared & later for later in names[1:])


async def test_concurrent_migrations_apply_everything_once(empty: str) -> None:
    outcomes = await asyncio.gather(*(migrate(empty, "catalog") for _ in range(5)))
    assert sorted(map(bool, outcomes)) == [False] * 4 + [True]


@pytest.mark.parametrize("change", ["more", "less"])
async def test_an_applied_migration_that_changed_is_refused(empty: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(empty, "catalog")
    before = await applied(empty)

    def changed(role: str) -> list[Migration]:
        found = migrations(role)
        sql = found[0].sql + "-- more" if change == "more" else found[0].sql[1:]
        later = Migration("9999_later", "CREATE TABLE cache_sidecar.later ()")
        return [Migration(found[0].name, sql), *found[1:], later]

    monkeypatch.setattr(module, "migrations", changed)
    with pytest.raises(InputError, match="was applied to this database in another form"):
        await migrate(empty, "catalog")
    assert await applied(empty) == before


async def test_a_migration_that_fails_leaves_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(role: str) -> list[Migration]:
        return [*migrations(role), Migration("9999_broken", "CREATE TABLE cache_sidecar.x (); SELECT 1/0")]

    monkeypatch.setattr(module, "migrations", broken)
    with pytest.raises(SidecarError) as caught:
        await migrate(empty, "catalog")
    assert "9999_broken" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert await run(empty, "SELECT 1 FROM pg_namespace WHERE nspname = 'cache_sidecar'") == []
    monkeypatch.undo()
    assert await migrate(empty, "catalog")


async def test_roles_that_share_a_database_are_migrated_together_or_not_at_all(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration("9999_broken", "SELECT 1/0")
    monkeypatch.setattr(module, "migrations", lambda role: migrations(role) + ([broken] if role == "user" else []))
    with pytest.raises(InputError, match=r"9999_broken .* left as it was"):
        await migrate(empty, *ROLES)
    assert await run(empty, "SELECT 1 FROM pg_namespace WHERE nspname = 'cache_sidecar'") == []
    monkeypatch.undo()
    assert len(await migrate(empty, *ROLES)) == len(await applied(empty))


@pytest.mark.parametrize("broken", ["a statement", "the commit"])
async def test_so_it_is_whatever_fails(empty: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_the_end = """CREATE TABLE cache_sidecar.x (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
                    INSERT INTO cache_sidecar.x VALUES (1), (1)"""
    later = Migration("9999_later", at_the_end if broken == "the commit" else "SELECT 'x'::int")
    monkeypatch.setattr(module, "migrations", lambda role: [*migrations(role), later])
    with pytest.raises(InputError, match="left as it was") as caught:
        await migrate(empty, "catalog")
    assert "\n" not in str(caught.value)
    assert await run(empty, "SELECT 1 FROM pg_namespace WHERE nspname = 'cache_sidecar'") == []


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_is_not_utf_8_is_refused_in_a_line_and_left_alone(postgres: Postgres, encoding: str) -> None:
    name = f"encoded_{uuid4().hex[:8]}"
    await run(postgres.dsn("postgres"), f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(InputError, match=f"encoding {encoding}") as caught:
            await migrate(postgres.dsn(name), *ROLES)
        assert "\n" not in str(caught.value)
        assert await run(postgres.dsn(name), "SELECT 1 FROM pg_namespace WHERE nspname = 'cache_sidecar'") == []
    finally:
        await run(postgres.dsn("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


async def test_whatever_the_database_is_set_to_it_is_migrated(empty: str) -> None:
    name = empty.rpartition("/")[2]
    for setting in ("default_transaction_read_only = on", "default_transaction_isolation = serializable", "search_path = ''"):
        async with await psycopg.AsyncConnection.connect(empty, autocommit=True) as connection:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(f"ALTER DATABASE {name} SET {setting}")  # type: ignore[arg-type]
    assert await migrate(empty, *ROLES)


async def test_a_schema_that_somebody_made_already_is_told_in_a_line(empty: str) -> None:
    await run(empty, "CREATE SCHEMA cache_sidecar")
    await run(empty, "CREATE TABLE cache_sidecar.products (id int)")
    with pytest.raises(InputError) as caught:
        await migrate(empty, "catalog")
    assert "products" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_user_who_may_not_is_told_in_a_line(empty: str) -> None:
    name = f"reader_{uuid4().hex[:8]}"
    await run(empty, f"CREATE ROLE {name} LOGIN PASSWORD 'reader'")
    try:
        with pytest.raises(InputError, match="may not migrate"):
            await migrate(f"postgresql://{name}:reader@{empty.rpartition('@')[2]}", "catalog")
    finally:
        await run(empty, f"DROP ROLE {name}")


async def test_a_server_that_is_not_there_is_told_in_a_line() -> None:
    with pytest.raises(ServerUnreachable, match="PostgreSQL"):
        await migrate("postgresql://nobody@127.0.0.1:1/none", "catalog")


async def test_a_wrong_password_is_told_and_not_shown(empty: str) -> None:
    with pytest.raises(ServerUnreachable) as caught:
        await migrate(f"postgresql://postgres:s3cr3t@{empty.rpartition('@')[2]}", "catalog")
    assert "password" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("dsn", ["postgresql://u:s3cr3t@db/shop?no_such_option=1", "postgresql://u:s3cr3t@[db/shop"])
async def test_a_uri_that_cannot_be_read_is_told_in_a_line(dsn: str) -> None:
    with pytest.raises(SidecarError) as caught:
        await migrate(dsn, "catalog")
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_files_are_numbered_without_a_gap_in_their_order() -> None:
    for role in (module.SHARED, *ROLES):
        names = [migration.name for migration in migrations(role)]
        assert names == sorted(names)
        assert len({name[:4] for name in names}) == len(names)
