"""One user's rows in every table that has any: how they are found, exported and erased. SQL only."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from cache_sidecar.core.errors import Failure, TierFailed
from cache_sidecar.store.database import Database
from cache_sidecar.store.reservation import RELEASED, ReservationStore
from cache_sidecar.store.writes import Transaction, Write, WriteResult

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class UserRows:
    """A table with rows that belong to users. All statements have one parameter, the user_id."""

    name: str
    "As the export and reports call the rows."
    read: str
    "Returns each row's id and the row as jsonb."
    lock: str = "SELECT %s::text"
    "Locks out transactions that would add a row while `erase` runs."
    erase: str
    "Erases the rows, and returns their ids."
    scope: str
    "The ledger's scope of requests about a row is this, a space and the row's id; see `services/shared/writes.py`."
    methods: Sequence[str]
    "The methods about these rows whose requests have the user's own scope."
    remains: str
    "A condition on a row of the ledger with the user's own scope: whether what it made is still there. Has one parameter, too."
    named_by: Sequence[str] = ()
    "Other methods whose ledger rows may list a row's id, whatever their scope."
    release: Callable[[Database, str], Awaitable[int]] | None = None
    "Called before `erase` to end what must not simply disappear; returns how many rows that were."
    remaining: str = ""
    "Counts the rows that `erase` has to leave, if there can be any."


class Erased(NamedTuple):
    """How many rows were erased."""

    rows: int
    released: int
    "Those among them that had to be ended first."
    requests: int
    "Rows of the ledger."
    remaining: int
    "Rows that could not be erased yet."


# Conflicts of one write in a row, and the most seconds between two attempts.
_MAX_CONFLICTS = 30
_LONGEST_PAUSE = 0.1
_LEDGER = "FROM cache_sidecar.requests WHERE scope = ANY(%s) OR (method = ANY(%s) AND ids && %s)"


def _ledger(remains: str) -> str:
    """Returns the clauses that select the ledger's rows about rows of a user; `_about` returns their parameters.

    Of the user's own scope, the requests about other rows go with those, and one whose effect `remains` stays with it.
    """
    return f"""FROM cache_sidecar.requests WHERE scope = ANY(%s) OR (method = ANY(%s) AND ids && %s)
               OR (scope = %s AND method <> ALL(%s) AND NOT {remains})"""


async def read(database: Database, rows: UserRows, user_id: str) -> Mapping[str, Any]:
    """Returns a user's rows as JSON values, by their ids."""
    return dict(await database.fetch(rows.read, [user_id]))


async def read_requests(
    database: Database, rows: UserRows, user_id: str, ids: Sequence[str], *, others: Sequence[str]
) -> list[Sequence[Any]]:
    """Returns scope, request_id, method, ids, first reply and time of the requests in the ledger that are about these rows.

    `others` are the methods about other rows of users.
    """
    query = f"SELECT scope, request_id::text, method, ids, reply, create_time::text {_ledger('false')} ORDER BY create_time"
    return list(await database.fetch(query, _about(rows, user_id, ids, others)))


async def read_changes(database: Database, dataset: str, ids: Sequence[str]) -> list[Any]:
    """Returns the rows of the outbox about ids, as JSON values."""
    query = """SELECT to_jsonb(change) - 'position' FROM cache_sidecar.outbox AS change
               WHERE dataset = %s AND id = ANY(%s) ORDER BY version"""
    return [change for (change,) in await database.fetch(query, [dataset, list(ids)])]


async def erase(database: Database, rows: UserRows, user_id: str, *, others: Sequence[str]) -> Erased:
    """Erases a user's rows and the ledger's rows about them, in one transaction. Raises TierFailed.

    `others` are the methods about other rows of users.

    The rows first. A request that was executed before either has both in this transaction's view, or waits for the lock and
    comes after it as a new one:

        the ledger's rows are deleted -> a request commits its row and its reply -> its row is deleted, and its reply stays

    A request that commits a new row between the two statements keeps both. Otherwise its repeat would be a new request:

        the rows are deleted -> a hold is committed -> its reply is deleted -> its repeat holds the pieces twice

    The repeat of a RotateSession locks in the other order. PostgreSQL then ends one of the two, and it is attempted again.
    """
    released = await rows.release(database, user_id) if rows.release else 0

    async def delete(tx: Transaction) -> WriteResult[tuple[int, int]]:
        await tx.execute(rows.lock, [user_id])
        cursor = await tx.execute(rows.erase, [user_id])
        ids = [str(id) for (id,) in await cursor.fetchall()]
        cursor = await tx.execute(f"DELETE {_ledger(rows.remains)}", [*_about(rows, user_id, ids, others), user_id])
        return WriteResult(b"", value=(len(ids), cursor.rowcount))

    erased, requests = (await persist(database, delete)).value or (0, 0)
    remaining = (await database.fetch(rows.remaining, [user_id]))[0][0] if rows.remaining else 0
    return Erased(erased, released, requests, remaining)


def _about(rows: UserRows, user_id: str, ids: Sequence[str], others: Sequence[str]) -> list[Any]:
    """Returns the parameters of `_ledger`. The user's own scope counts even without rows: a request may have left none."""
    own = f"user {user_id}"
    scopes = [scope for id in ids if (scope := f"{rows.scope} {id}") != own]
    return [scopes, list(rows.named_by), list(ids), own, list(others)]


async def _release_holds(database: Database, user_id: str) -> int:
    """Releases a user's holds, each in a transaction of its own: several at once would lock inventory in another order.

    A hold that PostgreSQL refuses to end, such as one whose stock another program changed, stays as it is.
    """
    store, released = ReservationStore(database), 0
    held = await database.fetch(
        "SELECT reservation_id::text FROM cache_sidecar.reservations WHERE user_id = %s AND state = 'held'", [user_id]
    )
    for (reservation_id,) in held:

        async def end(tx: Transaction, which: str = reservation_id) -> WriteResult[bool]:
            ended = await store.end(tx, which, RELEASED, datetime.now(UTC))
            return WriteResult(b"", value=bool(ended))

        try:
            released += bool((await persist(database, end)).value)
        except TierFailed as error:
            if error.failure is not Failure.REFUSED:
                raise
    return released


async def persist(database: Database, write: Write[T]) -> WriteResult[T]:
    """Runs a write, and again when it conflicts with others more often than a caller would wait for. Raises TierFailed.

    Two erasures of a user with many holds follow each other through the same rows: one of them would fail half-way.
    """
    for _ in range(_MAX_CONFLICTS):
        try:
            return await database.write(None, write)
        except TierFailed as error:
            if error.failure is not Failure.CONFLICT:
                raise
        await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # so that the two do not meet again
    return await database.write(None, write)


SESSIONS = UserRows(
    name="sessions",
    read="""SELECT session_hash, to_jsonb(row) FROM cache_sidecar.sessions AS row
            WHERE user_id = %s AND user_id <> '' ORDER BY create_time""",
    lock="SELECT cache_sidecar.lock_user_sessions(%s, exclusive => true)",
    erase="DELETE FROM cache_sidecar.sessions WHERE user_id = %s AND user_id <> '' RETURNING session_hash",
    scope="session",
    methods=["CreateSessionRequest", "DeleteUserSessionsRequest"],
    remains="""EXISTS (SELECT FROM cache_sidecar.sessions AS row
                       WHERE row.session_hash = ANY(requests.ids) AND row.user_id = %s)""",
    # A session that was created before the login has the scope of its client.
    named_by=["CreateSessionRequest"],
)
CARTS = UserRows(
    name="carts",
    read="SELECT user_id, to_jsonb(row) FROM cache_sidecar.carts AS row WHERE user_id = %s",
    erase="DELETE FROM cache_sidecar.carts WHERE user_id = %s RETURNING user_id",
    scope="user",
    methods=[
        "AddCartItemRequest",
        "ApplyCartChangesRequest",
        "ClearCartRequest",
        "MergeCartsRequest",
        "RemoveCartItemRequest",
        "ReplaceCartRequest",
        "SetCartItemQuantityRequest",
    ],
    # Only a cart that was made after the deletion found none: another would have been deleted, or waits for the deletion.
    remains="EXISTS (SELECT FROM cache_sidecar.carts AS row WHERE row.user_id = %s)",
    # Into another user's cart; the reply has the lines of both.
    named_by=["MergeCartsRequest"],
)
RESERVATIONS = UserRows(
    name="reservations",
    read="""SELECT reservation_id::text, to_jsonb(row) || jsonb_build_object('items', (
                SELECT jsonb_object_agg(product_id, quantity) FROM (
                    SELECT product_id, sum(quantity) AS quantity FROM cache_sidecar.reservation_items AS item
                    WHERE item.reservation_id = row.reservation_id GROUP BY product_id) AS items))
            FROM cache_sidecar.reservations AS row WHERE user_id = %s AND user_id <> '' ORDER BY reservation_id""",
    release=_release_holds,
    # The rest of the row accounts for the stock, and a repeated request is recognized by its request_id while a product is
    # sold out.
    erase="""UPDATE cache_sidecar.reservations SET user_id = ''
             WHERE user_id = %s AND user_id <> '' AND state <> 'held' RETURNING reservation_id""",
    scope="reservation",
    methods=["ReserveInventoryRequest"],
    remains="""EXISTS (SELECT FROM cache_sidecar.reservations AS row
                       WHERE row.request_id = requests.request_id AND row.user_id = %s)""",
    remaining="SELECT count(*) FROM cache_sidecar.reservations WHERE user_id = %s AND user_id <> ''",
)
