"""The outbox: every committed change, in one order for all readers. SQL only; see migrations/shared/0001."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from cache_sidecar.core.errors import ChangesExpired
from cache_sidecar.store.database import Database
from cache_sidecar.store.leadership import Term
from cache_sidecar.store.versions import Table, versions

_LAST = 2**63 - 1
# Changes that get positions in one statement, at least if there are more (see migrations/catalog/0011).
_ROUND = 2000
# Rows that are deleted in one statement.
_PRUNED = 10_000
# Up to how many changes of a backlog are counted.
COUNTED = 100_000


class Change(NamedTuple):
    """A committed change of one row."""

    position: int
    version: int
    dataset: str
    id: str
    kind: str
    "`created`, `updated` or `deleted`."
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

    async def sequence(self) -> None:
        """Gives every committed change its position, with the effects that this has: see migrations/catalog/0011."""
        await self._sequence(_LAST)

    async def sequence_some(self) -> bool:
        """As `sequence`, for some 2,000 changes, the oldest; returns whether that was all."""
        return await self._sequence_round() < _ROUND

    async def _sequence(self, wanted: int) -> None:
        """Gives committed changes their positions: all of them, or at least `wanted`."""
        done = _ROUND
        while done >= _ROUND and wanted > 0:
            done = await self._sequence_round()
            wanted -= done

    async def _sequence_round(self) -> int:
        ((done,),) = await self._database.fetch("SELECT cache_sidecar.sequence_changes()", [])
        return int(done)

    async def position(self, after_version: int) -> int:
        """Returns the position of the change with a version, or the last position for version 0.

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

    async def end(self) -> int:
        """Returns the position of the last committed change that is kept; 0 if none is.

        Not `position(0)`, which is the last number drawn: a transaction that was rolled back may have drawn it.
        """
        await self._sequence(_LAST)
        rows = await self._database.fetch("SELECT coalesce(max(position), 0) FROM cache_sidecar.outbox", [])
        return int(rows[0][0])

    async def regions(self) -> dict[str, int]:
        """Returns the position up to which each region's relay has published everything."""
        return dict(await self._database.fetch("SELECT region, position FROM cache_sidecar.relays", []))

    async def version(self, position: int) -> int:
        """Returns the version of the change at a position, to resume after it; 0 when none is kept there, or none came yet."""
        rows = await self._database.fetch("SELECT version FROM cache_sidecar.outbox WHERE position = %s", [position])
        return int(rows[0][0]) if rows else 0

    async def is_kept(self, position: int) -> bool:
        """Returns whether the change at a position, and so every later one, is still kept."""
        return bool(await self._database.fetch("SELECT 1 FROM cache_sidecar.outbox WHERE position = %s", [position]))


class Progress(NamedTuple):
    """How far the changes of a database were published to a region's Redis, as positions in the outbox."""

    told: int
    "Everything up to here was published."
    settled: int
    "Everything up to here was published so long ago that a failover of Redis cannot undo it."


class Backlog(NamedTuple):
    """The committed changes that were not published to a region yet."""

    changes: int
    "At most COUNTED."
    age: float
    "Of the oldest one, in seconds, by PostgreSQL's clock; 0 without any."


class RelayStore:
    """The relay's reads and writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._outbox = Outbox(database)

    async def after(self, position: int, *, limit: int) -> list[Change]:
        """Returns the changes after a position, in order, at most `limit`."""
        return await self._outbox.after(position, limit=limit)

    async def versions(self, table: Table, ids: Sequence[str]) -> Mapping[str, int]:
        """Returns the versions of the ids that have a row."""
        return await versions(self._database, table, ids)

    async def progress(self, region: str) -> Progress:
        """Returns how far a region is. A new region starts with the oldest change: its Redis may hold anything."""
        rows = await self._database.fetch("SELECT position, settled FROM cache_sidecar.relays WHERE region = %s", [region])
        return Progress(*rows[0]) if rows else Progress(0, 0)

    async def backlog(self, region: str) -> Backlog:
        """Returns what a region lacks."""
        rows = await self._database.fetch(
            f"""WITH waiting AS (
                   (SELECT change_time FROM cache_sidecar.outbox
                    WHERE position > coalesce((SELECT position FROM cache_sidecar.relays WHERE region = %s), 0)
                    ORDER BY position LIMIT {COUNTED})
                   UNION ALL
                   (SELECT change_time FROM cache_sidecar.outbox WHERE position IS NULL ORDER BY version LIMIT {COUNTED}))
               SELECT least(count(*), {COUNTED}), coalesce(extract(epoch FROM clock_timestamp() - min(change_time)), 0)::float8
               FROM waiting""",
            [region],
        )
        changes, age = rows[0]
        return Backlog(changes, max(0.0, age))

    async def remember(self, term: Term, region: str, progress: Progress) -> None:
        """Saves how far a region is. Raises LeadershipLost when another relay leads."""
        await term.fetch(
            """INSERT INTO cache_sidecar.relays (region, position, settled) VALUES (%s, %s, %s)
               ON CONFLICT (region) DO UPDATE
               SET position = greatest(relays.position, excluded.position),
                   settled = greatest(relays.settled, excluded.settled), update_time = now()
               RETURNING position""",
            [region, *progress],
        )

    async def prune(self, *, changes_after: float, requests_after: float) -> bool:
        """Deletes what is older than so many seconds: changes that are settled in every region, and first replies.

        At most _PRUNED of each; returns whether that was all.
        """
        ((changes,),) = await self._database.fetch(
            f"""WITH gone AS (
                   DELETE FROM cache_sidecar.outbox WHERE version IN (
                       SELECT version FROM cache_sidecar.outbox
                       WHERE position <= (SELECT min(settled) FROM cache_sidecar.relays)
                         -- Nothing after a change that is kept: a watch that resumes there must find all that followed.
                         AND position < coalesce((SELECT min(position) FROM cache_sidecar.outbox
                                                  WHERE change_time >= now() - make_interval(secs => %s)), %s)
                       ORDER BY position LIMIT {_PRUNED})
                   RETURNING 1)
               SELECT count(*) FROM gone""",
            [changes_after, _LAST],
        )
        ((requests,),) = await self._database.fetch(
            f"""WITH gone AS (
                   DELETE FROM cache_sidecar.requests WHERE (request_id, scope) IN (
                       SELECT request_id, scope FROM cache_sidecar.requests
                       WHERE create_time < now() - make_interval(secs => %s) ORDER BY create_time LIMIT {_PRUNED})
                   RETURNING 1)
               SELECT count(*) FROM gone""",
            [requests_after],
        )
        deleted: int = max(changes, requests)
        return deleted < _PRUNED
