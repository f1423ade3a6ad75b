"""Sessions in PostgreSQL, by the SHA-256 of their ids. SQL only. All times come from the caller's clock."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg.types.json import Jsonb

from cache_sidecar.core.errors import Failure, NotFound, Tier, TierFailed
from cache_sidecar.store import pages
from cache_sidecar.store.database import Database
from cache_sidecar.store.pages import Page
from cache_sidecar.store.values import Micros, check_readable
from cache_sidecar.store.writes import Transaction

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
    "The last use that was written to PostgreSQL."
    end_time: datetime
    delete_time: datetime | None = None
    version: int = 0

    def is_over(self, now: datetime, unused: timedelta) -> bool:
        """Whether it is certainly over: ended, or no use was written for `unused`."""
        # use_time may be the last moment a datetime holds, so nothing is added to it.
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
        ORDER BY session_hash FOR UPDATE OF sessions SKIP LOCKED),  -- whatever holds the lock writes use_time, or ends it
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
    """Reads and writes sessions. Methods that take a Transaction are one step of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, hashes: Sequence[str]) -> list[SessionRow]:
        """Returns the sessions that have a row, also those that are over, by one statement."""
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
        """Returns a user's sessions that may not be over, the newest first; see `pages.fetch`."""
        further = "AND (create_time, session_hash) < (%s, %s)" if after else ""
        query = f"""{_SELECT} WHERE user_id = %s AND user_id <> '' AND delete_time IS NULL AND use_time > %s AND end_time > %s
            {further} ORDER BY create_time DESC, session_hash DESC LIMIT %s"""
        parameters = [user_id, now - unused, now, *(after or ()), limit]
        rows, there = await pages.fetch(self._database, query, parameters, size=_SIZE, max_bytes=max_bytes)
        return Page([SessionRow(*row) for row in rows], there)

    async def create(self, tx: Transaction, row: SessionRow) -> SessionRow:
        """Inserts a session, and returns it with its version."""
        values: list[object] = list(row[: len(_INSERTED)])
        values[_INSERTED.index("attributes")] = Jsonb(row.attributes)
        cursor = await tx.execute(_INSERT, values)
        return _row(await cursor.fetchone())

    async def lock_user(self, tx: Transaction, user_id: str) -> None:
        """Waits for a transaction that ends all sessions of a user; such ones wait for this transaction from now on.

        To be called before locking a session that becomes this user's: the trigger would lock the user after the row, while
        `end_all` locks the user before the row, and each would wait for the other.
        """
        await tx.execute(_LOCK_USER, [user_id, False])

    async def lock(self, tx: Transaction, session_hash: str) -> SessionRow:
        """Locks a session, and returns it. Raises NotFound when there is none, or it was ended."""
        cursor = await tx.execute(f"{_SELECT} WHERE session_hash = %s AND delete_time IS NULL FOR UPDATE", [session_hash])
        row = await cursor.fetchone()
        if row is None:
            raise not_found(session_hash)
        return check_readable(SessionRow(*row), "session", not_found(session_hash).id)

    async def lock_with_user(self, tx: Transaction, session_hash: str) -> SessionRow:
        """Locks the user of a session, as `lock_user`, then the session, and returns it. Raises NotFound.

        Raises TierFailed when the session became another user's between the two: to lock that user now, with the row locked,
        could deadlock. The transaction is attempted again, and begins with that user.
        """
        cursor = await tx.execute(
            """SELECT user_id, cache_sidecar.lock_user_sessions(user_id, exclusive => false)
               FROM cache_sidecar.sessions WHERE session_hash = %s""",
            [session_hash],
        )
        found = await cursor.fetchone()
        owner = str(found[0]) if found else ""
        current = await self.lock(tx, session_hash)
        if current.user_id != owner:
            raise TierFailed(Tier.STORE, Failure.CONFLICT, "the session became another user's")
        return current

    async def save(self, tx: Transaction, row: SessionRow) -> SessionRow:
        """Saves a session that is locked, and returns it with its new version."""
        values: list[object] = [getattr(row, column) for column in _UPDATED]
        values[_UPDATED.index("attributes")] = Jsonb(row.attributes)
        cursor = await tx.execute(_UPDATE, [*values, row.session_hash])
        return _row(await cursor.fetchone())

    async def end(self, tx: Transaction, session_hash: str, now: datetime) -> int:
        """Ends a session, and returns the version of that. Raises NotFound when there is none, or it was ended before."""
        cursor = await tx.execute(f"{_END} session_hash = %s AND delete_time IS NULL RETURNING version", [now, session_hash])
        ended = await cursor.fetchone()
        if ended is None:
            raise not_found(session_hash)
        return int(ended[0])

    async def end_all(self, tx: Transaction, user_id: str, now: datetime) -> int:
        """Ends all of a user's sessions, and returns how many.

        The user is locked first, against every transaction that adds a session to the user's, and the sessions are ended by a
        second statement. In one statement, this would lose:

            end_all takes its snapshot -> waits for the row of a rotation -> the rotation commits a new session, which is not
            in the snapshot, and stays
        """
        await tx.execute(_LOCK_USER, [user_id, True])
        cursor = await tx.execute(f"{_END} user_id = %s AND user_id <> '' AND delete_time IS NULL", [now, user_id])
        return cursor.rowcount

    async def list_ended(self, user_id: str) -> dict[str, int]:
        """Returns the hashes of a user's sessions that were ended, by any program, and are not purged, with their versions."""
        rows = await self._database.fetch(
            """SELECT session_hash, version FROM cache_sidecar.sessions
               WHERE user_id = %s AND user_id <> '' AND delete_time IS NOT NULL""",
            [user_id],
        )
        return dict(rows)

    async def touch(self, uses: Mapping[str, datetime], *, overdue: datetime) -> dict[str, int]:
        """Writes the last uses of sessions whose use_time is at or before `overdue`.

        Returns the sessions that are ended, with the version of that; 0 for those without a row.
        """
        return dict(await self._database.fetch(_TOUCH, [list(uses), list(uses.values()), overdue]))

    async def purge(self, *, unused_since: datetime, deleted_before: datetime) -> int:
        """Deletes the rows of sessions that expired or ended before these times, at most PURGE; returns how many."""
        rows = await self._database.fetch(_PURGE, [unused_since, deleted_before])
        return int(rows[0][0])


def not_found(session_hash: str) -> NotFound:
    """Returns the error for a session that does not exist; its id is shortened, so that the error does not give it away."""
    return NotFound("session", f"sha256:{session_hash[:12]}")


def _row(returned: tuple[object, ...] | None) -> SessionRow:
    assert returned is not None, "RETURNING gives the row that was written"
    return SessionRow(*returned)  # type: ignore[arg-type]
