"""Passwords of PostgreSQL from files, ours and libpq's own: each new connection reads them again, for both databases."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cache_sidecar.config.settings import ROLES, Settings
from cache_sidecar.store.connection import Connection
from tests.support.databases import SIDECAR, run

Write = Callable[[str], Settings]


@pytest.fixture
async def user(database: str, namespace: str) -> AsyncIterator[str]:
    await run(database, f"CREATE ROLE {namespace} LOGIN IN ROLE {SIDECAR}")
    yield namespace
    await run(database, f"DROP ROLE {namespace}")


async def change_password(database: str, user: str, password: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), password))


@pytest.mark.parametrize("kind", ["password_file", "passfile", "service"])
async def test_a_rotated_password_is_read_by_the_next_connection(
    database: str, user: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, host = tmp_path / "a file", database.rpartition("@")[2]
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    uris = {
        "password_file": f"postgresql://{user}@{host}",
        "passfile": f"postgresql://{user}@{host}?passfile={str(file).replace(' ', '%20')}",
        "service": f"postgresql://{user}@{host}?service=shop",
    }
    content = {"password_file": "{}\n", "passfile": "*:*:*:*:{}\n", "service": "[shop]\npassword={}\n"}[kind]

    def write(password: str) -> None:
        file.write_text(content.format(password))
        file.chmod(0o600)

    write("the-first")
    named = {"postgres_catalog_password_file": str(file), "postgres_user_password_file": str(file)}
    settings = Settings(
        redis_nodes="127.0.0.1:1",  # type: ignore[arg-type]
        postgres_catalog=uris[kind],  # type: ignore[arg-type]
        postgres_user=f"{uris[kind]}{'&' if '?' in uris[kind] else '?'}application_name=users",  # type: ignore[arg-type]
        **(named if kind == "password_file" else {}),  # type: ignore[arg-type]
    )
    assert len(settings.databases()) == 2
    for password in ("the-first", "the-second"):
        await change_password(database, user, password)
        write(password)
        for role in ROLES:
            async with await Connection.connect(settings.database(role)) as connection:
                cursor = await connection.execute("SELECT current_user::text")
                assert await cursor.fetchone() == (user,)
    await change_password(database, user, "the-third")
    for role in ROLES:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed") as raised:
            await Connection.connect(settings.database(role))
        assert "the-" not in str(raised.value)
