"""The outbox: every committed change, in an order everybody agrees on. SQL only; see migrations/catalog/0001."""

from datetime import datetime
from typing import NamedTuple

from cache_sidecar.core.errors import ChangesExpired
from cache_sidecar.store.leadership import Term
from cache_sidecar.store.pool import Database

_LAST = 2**63 - 1
# Changes that get their positions in one go (see migrations/shared/0001), and rows that are deleted in one.
_ROUND = 10_000


class Change(NamedTuple):
    """A committed change of one row."""

    position: int
    version: int
    dataset: str
    id: str
    kind: str
    "created, updated or deleted."
    change_time: datetime


class Outbox:
    """Reads the changes of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, position: int, *, limit: int, dataset: str = "") -> list[Change]:
        """Returns the changes after a position, in order, at most `limit`; of one dataset, or of all."""
        await self._sequence(limit)
        rows = await self._database.fetch(
            """SELECT position, version, dataset, id, kind, change_time FROM cache_sidecar.outbox
               WHERE position > %s AND (dataset = %s OR %s = '') ORDER BY position LIMIT %s""",
            [position, dataset, dataset, limit],
        )
        return [Change(*row) for row in rows]

    async def _sequence(self, wanted: int) -> None:
        """Gives committed changes their positions: all of them, or at least so many."""
        done = _ROUND
        while done >= _ROUND and wanted > 0:
            ((done,),) = await self._database.fetch("SELECT cache_sidecar.sequence_changes()", [])
            wanted -= done

    async def position(self, after_version: int) -> int:
        """Returns the position of the change with a version, or the present one for version 0.

        Raises ChangesExpired when that change is no longer kept.
        """
        await self._sequence(_LAST)
        if after_version == 0:
            # Not the newest row's position: the outbox may be empty by now.
            rows = await self._database.fetch(
                "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM cache_sidecar.position_seq", []
            )
            return int(rows[0][0])
        rows = await self._database.fetch(
            "SELECT position FROM cache_sidecar.outbox WHERE version = %s AND position IS NOT NULL", [after_version]
        )
        if not rows:
            raise ChangesExpired(after_version)
        return int(rows[0][0])

    async def version(self, position: int) -> int:
        """Returns the version of the change at a position, to resume after it; 0 when none is kept there, or none came yet."""
        rows = await self._database.fetch("SELECT version FROM cache_sidecar.outbox WHERE position = %s", [position])
        return int(rows[0][0]) if rows else 0

    async def is_kept(self, position: int) -> bool:
        """Returns whether the change at a position, and so every later one, is still kept."""
        return bool(await self._database.fetch("SELECT 1 FROM cache_sidecar.outbox WHERE position = %s", [position]))


class Progress(NamedTuple):
    """How far a region's Redis was told of the changes of a database, as positions in the outbox."""

    told: int
    "Everything up to here was told."
    settled: int
    "Everything up to here was told so long ago that a failover of Redis cannot undo it."


class RelayStore:
    """What the relay reads and writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._outbox = Outbox(database)

    async def after(self, position: int, *, limit: int) -> list[Change]:
        """Returns the changes after a position, in order, at most `limit`."""
        return await self._outbox.after(position, limit=limit)

    async def progress(self, region: str) -> Progress:
        """Returns how far a region is. A new one starts with everything kept: its Redis may hold anything."""
        rows = await self._database.fetch("SELECT position, settled FROM cache_sidecar.relays WHERE region = %s", [region])
        return Progress(*rows[0]) if rows else Progress(0, 0)

    async def remember(self, term: Term, region: str, progress: Progress) -> None:
        """Remembers how far a region is. Raises LeadershipLost when it is somebody else's to say."""
        await term.fetch(
            """INSERT INTO cache_sidecar.relays (region, position, settled) VALUES (%s, %s, %s)
               ON CONFLICT (region) DO UPDATE
               SET position = greatest(relays.position, excluded.position),
                   settled = greatest(relays.settled, excluded.settled), update_time = now()
               RETURNING position""",
            [region, *progress],
        )

    async def prune(self, *, changes_after: float, requests_after: float) -> bool:
        """Deletes what is older than so many seconds: changes that every region was told of for good, and first replies.

        At most _ROUND of each; returns whether that was all.
        """
        ((changes,),) = await self._database.fetch(
            f"""WITH gone AS (
                   DELETE FROM cache_sidecar.outbox WHERE version IN (
                       SELECT version FROM cache_sidecar.outbox
                       WHERE position <= (SELECT min(settled) FROM cache_sidecar.relays)
                         -- Nothing behind a change that is kept: who resumes from that one must find all that followed.
                         AND position < coalesce((SELECT min(position) FROM cache_sidecar.outbox
                                                  WHERE change_time >= now() - make_interval(secs => %s)), %s)
                       ORDER BY position LIMIT {_ROUND})
                   RETURNING 1)
               SELECT count(*) FROM gone""",
            [changes_after, _LAST],
        )
        ((requests,),) = await self._database.fetch(
            f"""WITH gone AS (
                   DELETE FROM cache_sidecar.requests WHERE (request_id, scope) IN (
                       SELECT request_id, scope FROM cache_sidecar.requests
                       WHERE create_time < now() - make_interval(secs => %s) ORDER BY create_time LIMIT {_ROUND})
                   RETURNING 1)
               SELECT count(*) FROM gone""",
            [requests_after],
        )
        deleted: int = max(changes, requests)
        return deleted < _ROUND
