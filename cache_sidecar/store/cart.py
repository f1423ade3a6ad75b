"""Carts in PostgreSQL. SQL only."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.types.json import Jsonb

from cache_sidecar.store import pages
from cache_sidecar.store.pages import Page
from cache_sidecar.store.pool import Connection, Database
from cache_sidecar.store.requests import RequestKey, remembered
from cache_sidecar.store.values import Micros, Unreadable, checked, micros


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


Change = Callable[[CartRow], Sequence[Item]]
_TYPES = (str, int, int, int, str, dict)
"Of an item's fields."

_COLUMNS = ", ".join(CartRow._fields)
_SELECT = f"SELECT {_COLUMNS} FROM cache_sidecar.carts"
_LOCK = f"{_SELECT} WHERE user_id = %s FOR UPDATE"
_LOCK_SEVERAL = "SELECT FROM cache_sidecar.carts WHERE user_id = ANY(%s) ORDER BY user_id FOR UPDATE"
# Few keys, as each takes memory of the server.
_MEET = """SELECT pg_advisory_xact_lock(hashtext('cache_sidecar.carts'), part)
    FROM (SELECT DISTINCT hashtext(user_id) & 1023 AS part FROM unnest(%s::text[]) AS user_id ORDER BY part) AS parts"""
_INSERT = f"INSERT INTO cache_sidecar.carts (user_id, items) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}"
_UPDATE = f"UPDATE cache_sidecar.carts SET items = %s, update_time = now() WHERE user_id = %s RETURNING {_COLUMNS}"

# What `change_at_once` does.
_NOW = f"SELECT now(), {_COLUMNS} FROM (SELECT) AS always LEFT JOIN cache_sidecar.carts ON user_id = %s"
_CREATED = remembered("""INSERT INTO cache_sidecar.carts (user_id, items, create_time, update_time) VALUES (%s, %s, %s, %s)
    ON CONFLICT DO NOTHING RETURNING user_id AS id, version""")
_CHANGED = remembered("""UPDATE cache_sidecar.carts SET items = %s, update_time = %s WHERE user_id = %s AND version = %s
    RETURNING user_id AS id, version""")
# Bytes of a row, see `pages.fetch`.
_SIZE = "200 + pg_column_size(items || '[]'::jsonb)"


class CartStore:
    """Reads and writes carts. Methods that take a connection are one step of a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_ids: Sequence[str]) -> list[CartRow]:
        """Returns those of the carts that were ever written, in no order, by one statement."""
        return list(map(_row, await self._database.fetch(f"{_SELECT} WHERE user_id = ANY(%s)", [list(user_ids)])))

    async def idle(
        self, seconds: float, *, before: Micros | None, after: tuple[Micros, str] | None, limit: int, max_bytes: int
    ) -> tuple[Micros, Page[CartRow]]:
        """Returns the next carts with lines that were last changed so long ago, the longest unchanged first; see `pages.fetch`.

        `before` is the moment that the first page returned, and `after` what the last cart of the page before says.
        """
        if before is None:
            ((moment,),) = await self._database.fetch("SELECT now() - make_interval(secs => %s)", [seconds])
            before = micros(moment)
        further = "AND (update_time, user_id) > (%s, %s)" if after else ""
        query = f"{_SELECT} WHERE items <> '[]' AND update_time <= %s {further} ORDER BY update_time, user_id LIMIT %s"
        parameters = [before, *(after or ()), limit]
        rows, there = await pages.fetch(self._database, query, parameters, size=_SIZE, max_bytes=max_bytes)
        return before, Page(list(map(_row, rows)), there)

    async def change_at_once(
        self, connection: Connection, key: RequestKey, user_id: str, change: Change, reply: Callable[[CartRow], bytes]
    ) -> tuple[int, bytes] | None:
        """Changes the lines of a cart as it is now, and remembers the request, outside of a transaction: half the statements.

        Returns the version and the reply, of which `reply` gives all but the version at its end, see `requests.remembered`.
        Returns None, and nothing is changed, when somebody else changed the cart meanwhile, or the lines stay as they are.
        Raises whatever `change` raises.
        """
        cursor = await connection.execute(_NOW, [user_id])
        now, *found = await cursor.fetchone() or ()
        current = checked(_row(found), "cart", user_id) if found[0] is not None else CartRow(user_id)
        items = change(current)
        if items == current.items:
            return None
        lines = Jsonb([item._asdict() for item in items])
        beginning = reply(CartRow(user_id, items, current.create_time or now, now))
        if current.version:
            query, values = _CHANGED, [lines, now, user_id, current.version]
        else:
            query, values = _CREATED, [user_id, lines, now, now]
        cursor = await connection.execute(query, [*values, *key, beginning])
        written = await cursor.fetchone()
        return (written[0], beginning + b"%016x" % written[0]) if written else None

    async def change(self, connection: Connection, user_id: str, change: Change) -> CartRow:
        """Locks a cart, changes its lines, and returns it as changed. Raises whatever `change` raises.

        When the lines stay as they are, nothing is written.
        """
        while True:
            cursor = await connection.execute(_LOCK, [user_id])
            found = await cursor.fetchone()
            current = checked(_row(found), "cart", user_id) if found else CartRow(user_id)
            items = change(current)
            if items == current.items:
                return current
            lines = Jsonb([item._asdict() for item in items])
            query, values = (_UPDATE, [lines, user_id]) if found else (_INSERT, [user_id, lines])
            cursor = await connection.execute(query, values)
            # None when somebody else wrote the cart for the first time meanwhile: then that one is locked, and changed.
            if written := await cursor.fetchone():
                return _row(written)

    async def lock(self, connection: Connection, user_ids: Sequence[str]) -> None:
        """Locks several carts, in the order that everybody locks them in; another merge of one of them comes after.

        The rows alone are not enough. Of two merges of the same carts, in opposite directions, the first locks the one that is
        there; somebody writes the other one for the first time; the second locks that, and waits for the first; and the first,
        which comes to it now, waits for the second.
        """
        await connection.execute(_MEET, [list(user_ids)])
        await connection.execute(_LOCK_SEVERAL, [list(user_ids)])


def _row(found: Sequence[Any]) -> CartRow:
    user_id, items, *rest = found
    return CartRow(user_id, _items(items), *rest)


def _items(lines: Any) -> Any:
    """Returns the lines, or Unreadable when somebody wrote something else into the column."""
    if isinstance(lines, Unreadable):
        return lines
    try:
        items = tuple(Item(**line) for line in lines)
    except TypeError:
        return Unreadable("lines of a cart that lack a field, or have others")
    return items if all(map(_is_item, items)) else Unreadable("lines of a cart with values of another type or size")


def _is_item(item: Item) -> bool:
    return (
        tuple(map(type, item)) == _TYPES
        and abs(item.quantity) < 2**31
        and abs(item.price_units) < 2**63
        and abs(item.price_nanos) < 2**31
        and all(type(value) is str for value in item.options.values())
    )
