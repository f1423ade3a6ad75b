"""Migrates a database to the schema of this version: the numbered files below `migrations/<role>`, each once, in order.

Those in `migrations/shared` come first, once per database: roles that share a database share its versions and outbox.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

import psycopg

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.store.connection import Connection
from cache_sidecar.store.postgres_errors import check_dsn, first_line
from cache_sidecar.store.rights import LACKING, RELATIONS, Relation, Rights, grant_statements, list_needs

SHARED = "shared"
# One migration of a database at a time.
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


_NO_GRANTS: Mapping[str, Sequence[Rights]] = {}
# Whether a role has the owner's rights anyway.
_ROLE = """
    SELECT rolsuper OR pg_has_role(oid, (SELECT nspowner FROM pg_namespace WHERE nspname = 'cache_sidecar'), 'USAGE')
    FROM pg_roles WHERE rolname = %s"""


class Migration(NamedTuple):
    """One file."""

    name: str
    sql: str

    @property
    def digest(self) -> str:
        """A hash of the SQL: an applied migration must never change."""
        return hashlib.sha256(self.sql.encode()).hexdigest()[:16]


def migrations(role: str) -> list[Migration]:
    """Returns the migrations of a role, in order."""
    folder = resources.files("cache_sidecar.store").joinpath("migrations", role)
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [Migration(file.name.removesuffix(".sql"), file.read_text()) for file in files]


async def migrate(
    dsn: str, *roles: str, grants: Mapping[str, Sequence[Rights]] = _NO_GRANTS, language: str = "english"
) -> list[str]:
    """Applies the missing migrations, shared and of the roles, and returns their names; then grants rights to login roles.

    In one transaction: a failure leaves the database as it was. Then lists are compared with the products, in another one, and
    relays are asked to index all products in `language`, a text search configuration.

    Raises ServerUnreachable, and InputError when an applied file has changed since, PostgreSQL refuses a statement, a role
    cannot be granted what it needs, or the language does not exist.
    """
    check_dsn(dsn)
    names = ", ".join(roles)
    try:
        connection = await Connection.connect(dsn, connect_timeout=10, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise ServerUnreachable(f"PostgreSQL ({names}) cannot be reached: {first_line(error)}") from None
    except psycopg.Error as error:
        raise InputError(f"the database ({names}) cannot be used: {first_line(error)}") from None
    async with connection:
        try:
            await _check_encoding(connection, names)
            async with connection.begin():
                await connection.execute(_LOCK)
                await connection.script(_LEDGER)
                applied = [name for role in (SHARED, *roles) for name in await _apply(connection, role)]
                for role, rights in grants.items():
                    await _grant(connection, role, rights)
            if "catalog" in roles:
                # A view may have taken the place of the table of products since the last time. By itself, as a great catalogue
                # takes a while, and a migration may have locked the table: nobody could read a product meanwhile.
                await connection.execute("SELECT cache_sidecar.list_all_products()")
                await connection.execute("SELECT cache_sidecar.reindex_products(%s)", [language])
        except psycopg.errors.UndefinedObject as error:
            if "text search configuration" not in str(error):
                raise
            raise InputError(
                f"search_language: the database ({names}) has no text search configuration {language!r}: "
                "`SELECT cfgname FROM pg_ts_config` lists them"
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise InputError(f"the database user may not migrate: {first_line(error)}") from None
        except psycopg.OperationalError as error:
            raise ServerUnreachable(
                f"PostgreSQL ({names}) went away while migrating: {first_line(error)}; run it again for what is missing"
            ) from None
        except psycopg.Error as error:
            raise InputError(f"the database ({names}) cannot be migrated, and is left as it was: {first_line(error)}") from None
    return applied


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


async def _grant(connection: Connection, role: str, rights: Sequence[Rights]) -> None:
    cursor = await connection.execute(_ROLE, [role])
    found = await cursor.fetchone()
    if found is None:
        raise InputError(f"there is no role {role!r} in PostgreSQL: create it with CREATE ROLE, or name an existing one")
    if found[0]:
        raise InputError(
            f"the role {role!r} has all rights of the schema's owner: name one that is neither superuser nor owner"
        )
    cursor = await connection.execute(RELATIONS)
    relations = [Relation(*row) for row in await cursor.fetchall()]
    for statement in grant_statements(role, rights, relations):
        await connection.execute(statement)
    for one in rights:
        # PostgreSQL only warns when nothing was granted.
        cursor = await connection.execute(LACKING, [*list_needs(one, relations), role])
        if lacking := "; ".join(f"{privilege} on {names}" for privilege, names in await cursor.fetchall()):
            raise InputError(
                f"the database user may not grant {lacking}: have the owner grant it to {role!r}, or run this as it"
            )


async def _run(connection: Connection, migration: Migration) -> None:
    try:
        await connection.script(migration.sql)
    except (psycopg.errors.InsufficientPrivilege, psycopg.OperationalError):
        raise
    except psycopg.Error as error:
        raise InputError(
            f"migration {migration.name} cannot be applied to this database, which is left as it was: {first_line(error)}"
        ) from None
