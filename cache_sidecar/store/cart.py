"""Carts in PostgreSQL. SQL only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.types.json import Jsonb

from cache_sidecar.store import pages
from cache_sidecar.store.database import Database
from cache_sidecar.store.pages import Page
from cache_sidecar.store.requests import VersionedReply
from cache_sidecar.store.values import Micros, Unreadable, check_readable, micros
from cache_sidecar.store.writes import Transaction


class Item(NamedTuple):
    """A line of a cart, its fields named as in the column `items`."""

    product_id: str
    quantity: int
    price_units: int
    price_nanos: int
    currency_code: str
    options: dict[str, str]


class CartRow(NamedTuple):
    """A row of cache_sidecar.carts; version 0 when there is none."""

    user_id: str
    items: Sequence[Item] = ()
    create_time: datetime | None = None
    update_time: datetime | None = None
    version: int = 0

    def with_items(self, items: Sequence[Item], now: datetime) -> "CartRow":
        """Returns the cart with other lines, changed, or created, now; its version is PostgreSQL's to draw."""
        return CartRow(self.user_id, items, self.create_time or now, now)


_ITEM_TYPES = (str, int, int, int, str, dict)

_COLUMNS = ", ".join(CartRow._fields)
_SELECT = f"SELECT {_COLUMNS} FROM cache_sidecar.carts"
# The time also where there is no row. `locking` is empty or FOR UPDATE, which PostgreSQL refuses outside of the subquery.
_READ = f"""SELECT now(), {_COLUMNS} FROM (SELECT) AS always
    LEFT JOIN LATERAL ({_SELECT} WHERE user_id = %s {{locking}}) AS cart ON true"""
_READ_ONLY = _READ.format(locking="")
_READ_LOCKED = _READ.format(locking="FOR UPDATE")
_LOCK_SEVERAL = "SELECT FROM cache_sidecar.carts WHERE user_id = ANY(%s) ORDER BY user_id FOR UPDATE"
# Only 1,024 keys, as each lock uses memory of the server.
_LOCK_USERS = """SELECT pg_advisory_xact_lock(hashtext('cache_sidecar.carts'), part)
    FROM (SELECT DISTINCT hashtext(user_id) & 1023 AS part FROM unnest(%s::text[]) AS user_id ORDER BY part) AS parts"""
_INSERT = """INSERT INTO cache_sidecar.carts (user_id, items, create_time, update_time) VALUES (%s, %s, %s, %s)
    ON CONFLICT DO NOTHING RETURNING user_id AS id, version"""
_UPDATE = """UPDATE cache_sidecar.carts SET items = %s, update_time = %s WHERE user_id = %s AND version = %s
    RETURNING user_id AS id, version"""
# Bytes of a row, see `pages.fetch`.
_SIZE = "200 + pg_column_size(items || '[]'::jsonb)"


class CartStore:
    """Reads and writes carts. Methods that take a Transaction are one step of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_ids: Sequence[str]) -> list[CartRow]:
        """Returns the carts that were ever written, in no particular order, by one statement."""
        return list(map(_row, await self._database.fetch(f"{_SELECT} WHERE user_id = ANY(%s)", [list(user_ids)])))

    async def list_idle(
        self, seconds: float, *, before: Micros | None, after: Sequence[Any], limit: int, max_bytes: int
    ) -> tuple[Micros, Page[CartRow]]:
        """Returns carts with lines that have not changed for `seconds`, the longest unchanged first; see `pages.fetch`.

        Also returns the moment that all pages look back from: `before` is the one that the first page returned, and `after` the
        update time and user_id of the last cart of the previous page.
        """
        if before is None:
            ((moment,),) = await self._database.fetch("SELECT now() - make_interval(secs => %s)", [seconds])
            before = micros(moment)
        further = "AND (update_time, user_id) > (%s, %s)" if after else ""
        query = f"{_SELECT} WHERE items <> '[]' AND update_time <= %s {further} ORDER BY update_time, user_id LIMIT %s"
        parameters = [before, *after, limit]
        rows, there = await pages.fetch(self._database, query, parameters, size=_SIZE, max_bytes=max_bytes)
        return before, Page(list(map(_row, rows)), there)

    async def read(self, tx: Transaction, user_id: str) -> tuple[CartRow, datetime]:
        """Returns a cart that is about to be changed, locked unless the transaction is optimistic, and the time of the change.

        Raises DataLoss for one that cannot be read.
        """
        cursor = await tx.execute(_READ_ONLY if tx.is_optimistic else _READ_LOCKED, [user_id])
        now, *found = await cursor.fetchone() or ()
        return check_readable(_row(found), "cart", user_id) if found[0] is not None else CartRow(user_id), now

    async def save(self, tx: Transaction, read: CartRow, cart: CartRow, reply: VersionedReply | None = None) -> int:
        """Saves a cart as it is to be, given how it was read, and returns its version; see `Transaction.save`.

        Raises RowMoved when it is no longer as it was read, or, if it was not there, when it is there now.
        """
        items = Jsonb([item._asdict() for item in cart.items])
        if read.version:
            return await tx.save(_UPDATE, [items, cart.update_time, cart.user_id, read.version], reply)
        return await tx.save(_INSERT, [cart.user_id, items, cart.create_time, cart.update_time], reply)

    async def lock(self, tx: Transaction, user_ids: Sequence[str]) -> None:
        """Locks several carts, in the order in which every transaction locks them; other merges of one of them come after.

        Locking the rows that exist is not enough. Two merges of the same carts, b before a in that order, and b has no row yet:

            first merge locks a -> another call inserts b -> second merge locks b, waits for a -> first merge waits for b

        So merges first lock the users, whether or not these have a row.
        """
        await tx.execute(_LOCK_USERS, [list(user_ids)])
        await tx.execute(_LOCK_SEVERAL, [list(user_ids)])


def _row(found: Sequence[Any]) -> CartRow:
    user_id, items, *rest = found
    return CartRow(user_id, _items(items), *rest)


def _items(lines: Any) -> Any:
    """Returns the lines, or Unreadable when another program wrote something else into the column."""
    if isinstance(lines, Unreadable):
        return lines
    try:
        items = tuple(Item(**line) for line in lines)
    except TypeError:
        return Unreadable("lines of a cart with missing or unknown fields")
    for item in items:
        if (
            tuple(map(type, item)) != _ITEM_TYPES
            or abs(item.quantity) >= 2**31
            or abs(item.price_units) >= 2**63
            or abs(item.price_nanos) >= 2**31
            or set(map(type, item.options.values())) - {str}
        ):
            return Unreadable("lines of a cart with values of another type or size")
    return items
