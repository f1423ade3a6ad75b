"""What users did, in PostgreSQL. SQL only; see migrations/analytics/0001."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from cache_sidecar.store.database import Database
from cache_sidecar.store.leadership import Term
from cache_sidecar.store.recommendation import ERASE_USER
from cache_sidecar.store.user_data import persist
from cache_sidecar.store.writes import Transaction, WriteResult

_ADD = "SELECT added, unreadable FROM cache_sidecar.add_user_events(%s::text[], %s)"
_ERASE = "DELETE FROM cache_sidecar.user_events WHERE user_id = %s"
# In the place of a region, for the copy in MongoDB, which is to be erased, too. No region has a capital letter.
MONGODB = "MongoDB"
# Has a relay confirm a mark, and deletes those that all have confirmed. In one statement: whoever sees that finds no user_id in
# them any more. The time of the copy is another: when it had everything.
_PASS = f"""
    WITH passed AS (
        INSERT INTO cache_sidecar.event_relays (region, mark) VALUES (%s, %s)
        ON CONFLICT (region) DO UPDATE SET mark = greatest(event_relays.mark, excluded.mark), update_time =
            CASE event_relays.region WHEN '{MONGODB}' THEN event_relays.update_time ELSE now() END
        RETURNING mark)
    DELETE FROM cache_sidecar.event_marks WHERE mark <= (SELECT mark FROM passed)
      AND mark <= ALL (SELECT mark FROM cache_sidecar.event_relays WHERE region <> %s)"""
_REGISTER = "INSERT INTO cache_sidecar.event_relays (region, mark) VALUES (%s, 0) ON CONFLICT DO NOTHING"


class Added(NamedTuple):
    """What became of events."""

    new: int
    "Those that were not there before, and are now."
    unreadable: int
    "Those that are no events, and were left out."


class Mark(NamedTuple):
    """Something that each region's relay confirms once everything that was in its Redis before is in PostgreSQL."""

    number: int
    erase_user_id: str | None
    "A user whose events the relay erases first."


class StoredEvent(NamedTuple):
    """An event, as a row."""

    position: int
    event_id: UUID
    event_time: datetime
    event_type: str
    user_id: str
    products: Any
    "A list of JSON objects; see migrations/analytics/0001."
    value_units: int | None
    value_nanos: int | None
    currency_code: str | None
    search_query: str
    attribution_token: str
    experiment_id: str
    variant: str


_COLUMNS = ", ".join(StoredEvent._fields)


class UserEventStore:
    """The reads and writes of sidecars and commands. Methods raise TierFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, events: Sequence[str], *, kept_after: datetime) -> Added:
        """Writes events, JSON objects with the columns of the table, except those that are there or older than `kept_after`."""

        async def write(tx: Transaction) -> WriteResult[Added]:
            cursor = await tx.execute(_ADD, [list(events), kept_after])
            row = await cursor.fetchone()
            assert row is not None
            return WriteResult(b"", value=Added(*row))

        return (await self._database.write(None, write)).value or Added(0, 0)

    async def read(self, user_id: str) -> list[Any]:
        """Returns a user's events as JSON values, in the order of their times."""
        query = """SELECT to_jsonb(row) - 'position' FROM cache_sidecar.user_events AS row
                   WHERE user_id = %s ORDER BY event_time, event_id"""
        return [event for (event,) in await self._database.fetch(query, [user_id])]

    async def erase(self, user_id: str) -> tuple[int, int]:
        """Erases a user's events, and has each relay erase those that it has not moved yet.

        Returns how many were erased, and the mark that relays pass when they have erased the rest. Both in one transaction:
        afterwards an event is erased here, or in a Redis whose relay has not passed the mark.
        """

        async def write(tx: Transaction) -> WriteResult[tuple[int, int]]:
            number = await _set_mark(tx, user_id)
            return WriteResult(b"", value=((await tx.execute(_ERASE, [user_id])).rowcount, number))

        return (await persist(self._database, write)).value or (0, 0)

    async def set_mark(self) -> int:
        """Returns a new mark that erases nothing."""

        async def write(tx: Transaction) -> WriteResult[int]:
            return WriteResult(b"", value=await _set_mark(tx, None))

        return (await self._database.write(None, write)).value or 0

    async def marks_by_region(self) -> dict[str, int]:
        """Returns the last mark that each region's relay has passed."""
        return dict(await self._database.fetch("SELECT region, mark FROM cache_sidecar.event_relays", []))

    async def read_viewed(self, user_id: str, views: int) -> list[tuple[str, float]]:
        """Returns the products of a user's last views, the latest first, each with the time of its last view.

        The times are in seconds since 1970.
        """
        query = """SELECT item ->> 'product_id', extract(epoch FROM max(event_time))::float8 FROM (
                       SELECT event_time, products FROM cache_sidecar.user_events
                       WHERE user_id = %s AND event_type = 'detail-page-view' ORDER BY event_time DESC LIMIT %s) AS viewed,
                       jsonb_array_elements(products) AS item
                   WHERE item ->> 'product_id' <> '' GROUP BY 1 ORDER BY 2 DESC, 1"""
        return [(product_id, time) for product_id, time in await self._database.fetch(query, [user_id, views])]

    async def find_gone(self, event_ids: Sequence[UUID]) -> list[UUID]:
        """Returns those of some events that are not there, or no longer."""
        query = """SELECT id FROM unnest(%s::uuid[]) AS id WHERE NOT EXISTS (
                       SELECT FROM cache_sidecar.user_events
                       WHERE event_id = id AND event_time = cache_sidecar.event_time_of(id))"""
        return [id for (id,) in await self._database.fetch(query, [list(event_ids)])]

    async def copy_lag(self) -> float | None:
        """Returns the seconds since MongoDB had every event; None if no relay has ever copied any."""
        query = """SELECT extract(epoch FROM clock_timestamp() - update_time)::float8 FROM cache_sidecar.event_relays
                   WHERE region = %s"""
        rows = await self._database.fetch(query, [MONGODB])
        return max(0.0, rows[0][0]) if rows else None


class EventRelayStore:
    """The relay's reads and writes. Through its leader's session, so that a former leader writes nothing after its successor.

    Methods raise LeadershipLost.
    """

    def __init__(self, term: Term, region: str) -> None:
        self._term = term
        self._region = region

    async def register(self) -> None:
        """Has erasures wait for this region, even if it never passed a mark."""
        await self._term.execute(_REGISTER, [self._region])

    async def add(self, events: Sequence[str], *, kept_after: datetime) -> Added:
        """As `UserEventStore.add`."""
        ((added, unreadable),) = await self._term.fetch(_ADD, [list(events), kept_after])
        return Added(added, unreadable)

    async def marks(self) -> list[Mark]:
        """Returns the marks that this region has not passed."""
        query = """SELECT mark, erase_user_id FROM cache_sidecar.event_marks
                   WHERE mark > coalesce((SELECT mark FROM cache_sidecar.event_relays WHERE region = %s), 0) ORDER BY mark"""
        return [Mark(*row) for row in await self._term.fetch(query, [self._region])]

    async def pass_marks(self, marks: Sequence[Mark]) -> None:
        """Erases what the marks say, and confirms them; those that all regions have passed are deleted.

        First the events, then what was learned from them: in the other order it could be learned once more in between.
        """
        for mark in marks:
            if mark.erase_user_id is not None:
                await self._term.execute(_ERASE, [mark.erase_user_id])
                await self._term.fetch(ERASE_USER, [mark.erase_user_id])
        await self._term.execute(_PASS, [self._region, marks[-1].number, self._region])

    async def make_partition(self, day: date) -> None:
        """Makes the partition of a day, unless it exists."""
        await self._term.fetch("SELECT cache_sidecar.make_event_partition(%s)", [day])

    async def drop_partitions(self, before: date) -> int:
        """Drops the partitions of all days before one, unless readers keep it waiting; returns how many."""
        ((dropped,),) = await self._term.fetch("SELECT cache_sidecar.drop_event_partitions(%s)", [before])
        return int(dropped)


class EventCopyStore:
    """What is read to copy events elsewhere, through its leader's session. Methods raise LeadershipLost."""

    def __init__(self, term: Term) -> None:
        self._term = term

    async def register(self) -> None:
        """Has erasures wait for the copy."""
        await self._term.execute(_REGISTER, [MONGODB])

    async def read(self, after: int, *, limit: int) -> list[StoredEvent]:
        """Returns the events after a position, in the order of their commits: none is ever added before one that was read."""
        query = f"SELECT {_COLUMNS} FROM cache_sidecar.user_events WHERE position > %s ORDER BY position LIMIT %s"
        return [StoredEvent(*row) for row in await self._term.fetch(query, [after, limit])]

    async def last_position(self) -> int:
        """Returns a position that no event is after."""
        # An event that was erased had one, too.
        ((last,),) = await self._term.fetch("SELECT last_value FROM cache_sidecar.event_position_seq", [])
        return int(last)

    async def read_ids(self, user_id: str) -> list[UUID]:
        """Returns the ids of a user's events."""
        query = "SELECT event_id FROM cache_sidecar.user_events WHERE user_id = %s"
        return [id for (id,) in await self._term.fetch(query, [user_id])]

    async def marks(self) -> list[Mark]:
        """Returns the marks that every region has passed, and the copy has not: no event from before them is added any more."""
        query = """SELECT mark, erase_user_id FROM cache_sidecar.event_marks
                   WHERE mark > coalesce((SELECT mark FROM cache_sidecar.event_relays WHERE region = %s), 0)
                     AND mark <= ALL (SELECT mark FROM cache_sidecar.event_relays WHERE region <> %s) ORDER BY mark"""
        return [Mark(*row) for row in await self._term.fetch(query, [MONGODB, MONGODB])]

    async def pass_marks(self, marks: Sequence[Mark]) -> None:
        """Confirms marks; those that all regions have passed are deleted."""
        await self._term.execute(_PASS, [MONGODB, marks[-1].number, MONGODB])

    async def confirm_complete(self) -> None:
        """Records that the copy has every event that was committed before."""
        await self._term.execute("UPDATE cache_sidecar.event_relays SET update_time = now() WHERE region = %s", [MONGODB])


async def _set_mark(tx: Transaction, user_id: str | None) -> int:
    # One at a time, until the commit: a relay that passes a mark has passed all before it, also those it never saw.
    await tx.execute("SELECT pg_advisory_xact_lock(hashtext('cache_sidecar.event_marks'))", [])
    cursor = await tx.execute(
        """INSERT INTO cache_sidecar.event_marks (mark, erase_user_id)
           VALUES (nextval('cache_sidecar.event_mark_seq'), %s) RETURNING mark""",
        [user_id],
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
