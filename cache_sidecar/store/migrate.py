"""Brings a database to the schema this version needs: the numbered files below `migrations/<role>`, each once, in order.

Those in `migrations/shared` come first, once per database: roles that are the same database share its versions and outbox.
"""

import hashlib
from importlib import resources
from typing import NamedTuple

import psycopg

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.pool import check_dsn

SHARED = "shared"
# Two migrations of one database at a time would be one too many.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('cache_sidecar.migrate'))"
_LEDGER = """
CREATE SCHEMA IF NOT EXISTS cache_sidecar;
CREATE TABLE IF NOT EXISTS cache_sidecar.migrations (
    role       text NOT NULL,
    name       text NOT NULL,
    digest     text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (role, name)
)"""


class Migration(NamedTuple):
    """One file."""

    name: str
    sql: str

    @property
    def digest(self) -> str:
        """A hash of the SQL: an applied migration never changes."""
        return hashlib.sha256(self.sql.encode()).hexdigest()[:16]


def migrations(role: str) -> list[Migration]:
    """Returns the migrations of a role, in order."""
    folder = resources.files("cache_sidecar.store").joinpath("migrations", role)
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [Migration(file.name.removesuffix(".sql"), file.read_text()) for file in files]


async def migrate(dsn: str, *roles: str) -> list[str]:
    """Applies what is missing of the shared migrations and of the roles', and returns its names.

    All of it is one transaction: what fails leaves the database as it was, without the schema if it had none. Raises
    ServerUnreachable, or InputError when the database was migrated by another version of the same files, or refuses.
    """
    check_dsn(dsn)
    names = ", ".join(roles)
    try:
        connection = await Connection.connect(dsn, connect_timeout=10, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise ServerUnreachable(f"PostgreSQL ({names}) cannot be reached: {_first_line(error)}") from None
    except psycopg.Error as error:
        raise InputError(f"the database ({names}) cannot be used: {_first_line(error)}") from None
    async with connection:
        try:
            await _check_encoding(connection, names)
            async with connection.begin():
                await connection.execute(_LOCK)
                await connection.script(_LEDGER)
                return [name for role in (SHARED, *roles) for name in await _apply(connection, role)]
        except psycopg.errors.InsufficientPrivilege as error:
            raise InputError(f"the database user may not migrate: {_first_line(error)}") from None
        except psycopg.OperationalError as error:
            raise ServerUnreachable(
                f"PostgreSQL ({names}) went away while migrating: {_first_line(error)}; run it again for what is missing"
            ) from None
        except psycopg.Error as error:
            raise InputError(
                f"the database ({names}) cannot be migrated, and is left as it was: {_first_line(error)}"
            ) from None


async def _check_encoding(connection: Connection, names: str) -> None:
    cursor = await connection.execute("SELECT current_setting('server_encoding'), current_database()")
    encoding, database = await cursor.fetchone() or ("", "")
    if encoding != "UTF8":
        raise InputError(
            f"the database {database!r} ({names}) has the encoding {encoding}, which lacks characters that shops use: "
            "make one with ENCODING 'UTF8' TEMPLATE template0; nothing was changed"
        )


async def _apply(connection: Connection, role: str) -> list[str]:
    cursor = await connection.execute("SELECT name, digest FROM cache_sidecar.migrations WHERE role = %s", [role])
    applied: dict[str, str] = dict(await cursor.fetchall())
    names = []
    for migration in migrations(role):
        digest = applied.get(migration.name)
        if digest is None:
            await _run(connection, migration)
            await connection.execute(
                "INSERT INTO cache_sidecar.migrations (role, name, digest) VALUES (%s, %s, %s)",
                [role, migration.name, migration.digest],
            )
            names.append(migration.name)
        elif digest != migration.digest:
            raise InputError(
                f"migration {migration.name} was applied to this database in another form: "
                "restore the file it was applied from, or migrate an empty database"
            )
    return names


async def _run(connection: Connection, migration: Migration) -> None:
    try:
        await connection.script(migration.sql)
    except (psycopg.errors.InsufficientPrivilege, psycopg.OperationalError):
        raise
    except psycopg.Error as error:
        raise InputError(
            f"migration {migration.name} cannot be applied to this database, which is left as it was: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
