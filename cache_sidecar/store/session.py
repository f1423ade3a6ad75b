"""Sessions in PostgreSQL, by the SHA-256 of their ids. SQL only. All times come from the caller's clock."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg.types.json import Jsonb

from cache_sidecar.core.errors import Failure, NotFound, Tier, TierFailed
from cache_sidecar.store import pages
from cache_sidecar.store.pages import Page
from cache_sidecar.store.pool import Connection, Database
from cache_sidecar.store.values import Micros, checked

# Rows that one statement purges.
PURGE = 1000


class SessionRow(NamedTuple):
    """A row of cache_sidecar.sessions."""

    session_hash: str
    user_id: str
    attributes: dict[str, str]
    ip_address: str
    user_agent: str
    create_time: datetime
    update_time: datetime
    use_time: datetime
    "The last use that PostgreSQL heard of."
    end_time: datetime
    delete_time: datetime | None = None
    version: int = 0

    def is_over(self, now: datetime, unused: timedelta) -> bool:
        """Whether it is certainly over: ended, or nothing was heard of a use for so long."""
        # A use may be written as late as time goes: nothing is added to it.
        return self.delete_time is not None or now - self.use_time >= unused or now >= self.end_time


_COLUMNS = ", ".join(SessionRow._fields)
_SELECT = f"SELECT {_COLUMNS} FROM cache_sidecar.sessions"
_INSERTED = SessionRow._fields[:9]
_INSERT = f"""INSERT INTO cache_sidecar.sessions ({", ".join(_INSERTED)})
    VALUES ({", ".join(["%s"] * len(_INSERTED))}) RETURNING {_COLUMNS}"""
_UPDATED = ("user_id", "attributes", "ip_address", "user_agent", "update_time", "use_time")
_UPDATE = f"""UPDATE cache_sidecar.sessions SET {", ".join(f"{column} = %s" for column in _UPDATED)}
    WHERE session_hash = %s RETURNING {_COLUMNS}"""
_LOCK_USER = "SELECT cache_sidecar.lock_user_sessions(%s, exclusive => %s)"
_END = "UPDATE cache_sidecar.sessions SET delete_time = %s WHERE"
_TOUCH = """
    WITH used AS (SELECT * FROM unnest(%s::text[], %s::timestamptz[]) AS used (session_hash, use_at)),
    behind AS (
        SELECT session_hash, use_at FROM cache_sidecar.sessions JOIN used USING (session_hash)
        WHERE delete_time IS NULL AND use_time < use_at AND use_time <= %s
        ORDER BY session_hash FOR UPDATE OF sessions SKIP LOCKED),  -- who holds the lock writes use_time, or ends it
    written AS (
        UPDATE cache_sidecar.sessions SET use_time = use_at FROM behind
        WHERE sessions.session_hash = behind.session_hash)
    SELECT session_hash, coalesce(version, 0) FROM used LEFT JOIN cache_sidecar.sessions USING (session_hash)
    WHERE version IS NULL OR delete_time IS NOT NULL"""
_PURGE = f"""
    WITH purging AS MATERIALIZED (SELECT set_config('cache_sidecar.purging', 'on', true)),
    over AS (
        SELECT session_hash FROM purging, cache_sidecar.sessions
        WHERE (use_time < %s AND delete_time IS NULL) OR delete_time < %s
        LIMIT {PURGE} FOR UPDATE OF sessions SKIP LOCKED),
    gone AS (DELETE FROM cache_sidecar.sessions USING over WHERE sessions.session_hash = over.session_hash RETURNING 1)
    SELECT count(*) FROM gone"""
# Bytes of a row, see `pages.fetch`.
_SIZE = "400 + octet_length(user_agent) + pg_column_size(attributes || '{}'::jsonb)"


class SessionStore:
    """Reads and writes sessions. Methods that take a connection are one step of a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, hashes: Sequence[str]) -> list[SessionRow]:
        """Returns those of the sessions that have a row, those that are over included, by one statement."""
        rows = await self._database.fetch(f"{_SELECT} WHERE session_hash = ANY(%s)", [list(hashes)])
        return [SessionRow(*row) for row in rows]

    async def page(
        self,
        user_id: str,
        *,
        now: datetime,
        unused: timedelta,
        after: tuple[Micros, str] | None,
        limit: int,
        max_bytes: int,
    ) -> Page[SessionRow]:
        """Returns the next of a user's sessions that may not be over, the newest first; see `pages.fetch`."""
        further = "AND (create_time, session_hash) < (%s, %s)" if after else ""
        query = f"""{_SELECT} WHERE user_id = %s AND user_id <> '' AND delete_time IS NULL AND use_time > %s AND end_time > %s
            {further} ORDER BY create_time DESC, session_hash DESC LIMIT %s"""
        parameters = [user_id, now - unused, now, *(after or ()), limit]
        rows, there = await pages.fetch(self._database, query, parameters, size=_SIZE, max_bytes=max_bytes)
        return Page([SessionRow(*row) for row in rows], there)

    async def create(self, connection: Connection, row: SessionRow) -> SessionRow:
        """Inserts a session; its version is PostgreSQL's."""
        values: list[object] = list(row[: len(_INSERTED)])
        values[_INSERTED.index("attributes")] = Jsonb(row.attributes)
        cursor = await connection.execute(_INSERT, values)
        return _row(await cursor.fetchone())

    async def update(
        self, connection: Connection, session_hash: str, change: Callable[[SessionRow], SessionRow], *, joins: str = ""
    ) -> SessionRow:
        """Locks a session, changes it, and returns it as changed. Raises NotFound, and whatever `change` raises.

        `joins` is the user whose session it becomes, if the change says so.
        """
        if joins:
            # Before the row, in the order that everybody locks in: the trigger would wait for the user with the row locked.
            await connection.execute(_LOCK_USER, [joins, False])
        changed = change(await self._locked(connection, session_hash))
        values: list[object] = [getattr(changed, column) for column in _UPDATED]
        values[_UPDATED.index("attributes")] = Jsonb(changed.attributes)
        cursor = await connection.execute(_UPDATE, [*values, session_hash])
        return _row(await cursor.fetchone())

    async def end(self, connection: Connection, session_hash: str, now: datetime) -> int:
        """Ends a session, and returns the version of that. Raises NotFound when there is none, or it was ended before."""
        cursor = await connection.execute(
            f"{_END} session_hash = %s AND delete_time IS NULL RETURNING version", [now, session_hash]
        )
        ended = await cursor.fetchone()
        if ended is None:
            raise not_found(session_hash)
        return int(ended[0])

    async def rotate(
        self, connection: Connection, session_hash: str, new_hash: str, change: Callable[[SessionRow], SessionRow]
    ) -> tuple[SessionRow, int]:
        """Ends a session and goes on with it, as changed, under another hash; returns that, and the version of the end.

        Raises NotFound, whatever `change` raises, and TierFailed when the session became another user's meanwhile.
        """
        owner = await self._lock_owner(connection, session_hash)
        current = await self._locked(connection, session_hash)
        if current.user_id != owner:
            # To lock the other user now, with the row locked, could wait in a circle; a new transaction begins with that user.
            raise TierFailed(Tier.STORE, Failure.CONFLICT, "the session became another user's")
        current = change(current)
        ended = await self.end(connection, session_hash, current.update_time)
        return await self.create(connection, current._replace(session_hash=new_hash)), ended

    async def end_all(self, connection: Connection, user_id: str, now: datetime) -> int:
        """Ends all of a user's sessions, and returns how many: every one that was added before, and none that is added later.

        Whoever adds a session is waited for, or waits. The statement that ends them comes after that wait: one that began
        before it would not see what was committed during it.
        """
        await connection.execute(_LOCK_USER, [user_id, True])
        cursor = await connection.execute(f"{_END} user_id = %s AND user_id <> '' AND delete_time IS NULL", [now, user_id])
        return cursor.rowcount

    async def ended(self, user_id: str) -> dict[str, int]:
        """Returns the hashes of a user's sessions that were ended, by whomever, and are not purged, with their versions."""
        rows = await self._database.fetch(
            """SELECT session_hash, version FROM cache_sidecar.sessions
               WHERE user_id = %s AND user_id <> '' AND delete_time IS NOT NULL""",
            [user_id],
        )
        return dict(rows)

    async def touch(self, uses: Mapping[str, datetime], *, overdue: datetime) -> dict[str, int]:
        """Takes note of uses of sessions where the last one known is not after `overdue`.

        Returns those that are ended, with the version of that; 0 when there is no row.
        """
        return dict(await self._database.fetch(_TOUCH, [list(uses), list(uses.values()), overdue]))

    async def purge(self, *, unused_since: datetime, deleted_before: datetime) -> int:
        """Deletes rows of sessions that are over so long, and returns how many: at most PURGE."""
        rows = await self._database.fetch(_PURGE, [unused_since, deleted_before])
        return int(rows[0][0])

    async def _lock_owner(self, connection: Connection, session_hash: str) -> str:
        """Returns whose a session is, once nobody ends all sessions of that user, and until the end of the transaction."""
        cursor = await connection.execute(
            """SELECT user_id, cache_sidecar.lock_user_sessions(user_id, exclusive => false)
               FROM cache_sidecar.sessions WHERE session_hash = %s""",
            [session_hash],
        )
        found = await cursor.fetchone()
        return str(found[0]) if found else ""

    async def _locked(self, connection: Connection, session_hash: str) -> SessionRow:
        cursor = await connection.execute(
            f"{_SELECT} WHERE session_hash = %s AND delete_time IS NULL FOR UPDATE", [session_hash]
        )
        row = await cursor.fetchone()
        if row is None:
            raise not_found(session_hash)
        return checked(SessionRow(*row), "session", not_found(session_hash).id)


def not_found(session_hash: str) -> NotFound:
    """Returns the error that there is no such session, which names it without giving it away."""
    return NotFound("session", f"sha256:{session_hash[:12]}")


def _row(returned: tuple[object, ...] | None) -> SessionRow:
    assert returned is not None, "RETURNING gives the row that was written"
    return SessionRow(*returned)  # type: ignore[arg-type]
