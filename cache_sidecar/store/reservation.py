"""Reservations in PostgreSQL. SQL only; see migrations/catalog/0003, 0008 and 0010."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from cache_sidecar.core.errors import NotFound
from cache_sidecar.store import pages
from cache_sidecar.store.inventory import MAX_BUCKETS, InventoryRow, columns, is_every_row, split_id
from cache_sidecar.store.pages import Page
from cache_sidecar.store.pool import Connection, Database

HELD, COMMITTED, RELEASED, EXPIRED = "held", "committed", "released", "expired"
# A sidecar has to know a product's granted requests before it may refuse one without asking; of more it knows none.
MAX_GRANTS = 50_000
# How long the end of a hold waits for a row of stock that another transaction has locked; less than `postgres_timeout`.
PATIENCE = "500ms"


class ReservationRow(NamedTuple):
    """A row of cache_sidecar.reservations with its items."""

    reservation_id: UUID
    request_id: UUID
    user_id: str
    state: str
    create_time: datetime
    expire_time: datetime
    end_time: datetime | None
    items: Mapping[str, int]
    "Pieces by product_id, in that order."


class Reserved(NamedTuple):
    """What an attempt to reserve came to."""

    short_of: str
    "The product there is too little of, empty when it is granted; then the transaction has to be rolled back."
    rows: Sequence[InventoryRow]
    "The stock as changed, or all of the product there is too little of; locked, in either case."


class Grant(NamedTuple):
    """A reservation took something out of a row of the inventory."""

    id: str
    "Of the row."
    grant_version: int
    request_id: UUID


_ROW = """SELECT r.reservation_id, r.request_id, r.user_id, r.state, r.create_time, r.expire_time, r.end_time,
    (SELECT array_agg(product_id ORDER BY product_id, bucket) FROM cache_sidecar.reservation_items AS i
     WHERE i.reservation_id = r.reservation_id),
    (SELECT array_agg(quantity ORDER BY product_id, bucket) FROM cache_sidecar.reservation_items AS i
     WHERE i.reservation_id = r.reservation_id)
    FROM cache_sidecar.reservations AS r"""


class ReservationStore:
    """Makes, ends and reads reservations. Methods that take a connection are one step of a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reserve(self, connection: Connection, row: ReservationRow, preferred: Mapping[str, int]) -> Reserved:
        """Takes the pieces of a new reservation, each product's from the preferred bucket if that has enough.

        Raises NotFound for a product without stock.
        """
        products = list(row.items)
        cursor = await connection.execute(
            f"SELECT granted, {columns('(stock)')} FROM cache_sidecar.reserve(%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                row.reservation_id,
                row.request_id,
                row.user_id,
                row.create_time,
                row.expire_time,
                products,
                list(row.items.values()),
                [preferred.get(product_id, 0) for product_id in products],
            ],
        )
        found = await cursor.fetchall()
        granted = [InventoryRow(*stock) for is_granted, *stock in found if is_granted]
        if len(granted) == len(found):
            return Reserved("", granted)
        done = {stock.product_id for stock in granted}
        short_of = next(product_id for product_id in products if product_id not in done)
        rows = [InventoryRow(*stock) for is_granted, *stock in found if not is_granted]
        if rows[0].product_id is None:
            raise NotFound("inventory", short_of)
        return Reserved(short_of, rows)

    async def end(self, connection: Connection, reservation_id: str, state: str, at: datetime) -> list[InventoryRow]:
        """Ends a reservation that is held, and returns the stock as changed; nothing when it ended before."""
        cursor = await connection.execute(
            f"SELECT {columns()} FROM cache_sidecar.end_reservation(%s, %s, %s)", [reservation_id, state, at]
        )
        return [InventoryRow(*row) for row in await cursor.fetchall()]

    async def stock(self, connection: Connection, reservation_id: str) -> list[InventoryRow]:
        """Returns the rows that a reservation took from, as they are now."""
        cursor = await connection.execute(
            f"""SELECT {columns("present")} FROM cache_sidecar.inventory AS present
                JOIN cache_sidecar.reservation_items AS i USING (product_id, bucket) WHERE i.reservation_id = %s""",
            [reservation_id],
        )
        return [InventoryRow(*row) for row in await cursor.fetchall()]

    async def extend(self, connection: Connection, reservation_id: str, expire_time: datetime) -> None:
        """Lets a reservation that is held expire no earlier than that."""
        await connection.execute(
            """UPDATE cache_sidecar.reservations SET expire_time = greatest(expire_time, %s)
               WHERE reservation_id = %s AND state = 'held'""",
            [expire_time, reservation_id],
        )

    async def current(self, connection: Connection, reservation_id: str) -> ReservationRow:
        """Returns a reservation as this transaction sees it. Raises NotFound."""
        cursor = await connection.execute(f"{_ROW} WHERE r.reservation_id = %s", [reservation_id])
        return _one(await cursor.fetchall(), reservation_id)

    async def get(self, reservation_id: str) -> ReservationRow:
        """Returns a reservation. Raises NotFound."""
        return _one(await self._database.fetch(f"{_ROW} WHERE r.reservation_id = %s", [reservation_id]), reservation_id)

    async def page(self, *, before: str, user_id: str, state: str, limit: int, max_bytes: int) -> Page[ReservationRow]:
        """Returns the next reservations, the newest first, of one user and in one state, or, where empty, of all.

        See `pages.fetch`.
        """
        wanted = {"r.reservation_id < %s": before, "r.user_id = %s": user_id, "r.state = %s": state}
        given = {condition: value for condition, value in wanted.items() if value}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        query = f"{_ROW} {where} ORDER BY r.reservation_id DESC LIMIT %s"
        rows, there = await pages.fetch(
            self._database, query, [*given.values(), limit], size="pg_column_size(page)", max_bytes=max_bytes
        )
        return Page(list(map(_row, rows)), there)

    async def grants(self, after: Mapping[str, int], since: datetime) -> list[Grant]:
        """Returns who took something from rows of the inventory, after a grant_version of each row and since a time.

        Of `every_row` of a product, only what was granted before its present epoch: of that, nothing is missing. Of what
        came after, a smaller number may still be committed in another bucket.

        At most MAX_GRANTS + 1, in no order: then there are more.
        """
        keys = [
            (id, product_id, bucket, version, is_every_row(id))
            for id, version in after.items()
            for product_id, bucket in (_buckets(id) if is_every_row(id) else [split_id(id)])
        ]
        rows = await self._database.fetch(
            """SELECT known.id, i.grant_version, r.request_id
               FROM unnest(%s::text[], %s::text[], %s::integer[], %s::bigint[], %s::boolean[])
                   AS known (id, product_id, bucket, version, is_before)
               LEFT JOIN cache_sidecar.inventory AS first
                   ON known.is_before AND first.product_id = known.product_id AND first.bucket = 0
               JOIN cache_sidecar.reservation_items AS i
                   ON i.product_id = known.product_id AND i.bucket = known.bucket AND i.grant_version > known.version
                   AND (first.epoch IS NULL OR i.grant_version < first.epoch)
               JOIN cache_sidecar.reservations AS r USING (reservation_id)
               WHERE r.create_time >= %s LIMIT %s""",
            [*map(list, zip(*keys, strict=True)), since, MAX_GRANTS + 1],
        )
        return [Grant(*row) for row in rows]


class Ended(NamedTuple):
    """What became of a hold that was due."""

    reservation_id: UUID
    refused: str
    "Why PostgreSQL did not end it, an SQLSTATE and a constraint if there is one; empty when it was ended."


class HoldStore:
    """What ends reservations whose time is over."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire_one(self, now: datetime) -> Ended | None:
        """Ends one reservation that is due, in a transaction of its own; returns None when none is due.

        Those that somebody else works on at this moment are left to him. One that cannot be ended is due again later.
        """
        rows = await self._database.fetch("SELECT * FROM cache_sidecar.expire_hold(%s, %s)", [now, PATIENCE])
        if not rows:
            return None
        ((reservation_id, *refused),) = rows
        return Ended(reservation_id, " ".join(filter(None, refused)))


def _buckets(every_row: str) -> list[tuple[str, int]]:
    product_id, _ = split_id(every_row)
    return [(product_id, bucket) for bucket in range(MAX_BUCKETS)]


def _one(rows: Sequence[Sequence[Any]], reservation_id: str) -> ReservationRow:
    if not rows:
        raise NotFound("reservation", reservation_id)
    return _row(rows[0])


def _row(found: Sequence[Any]) -> ReservationRow:
    *fields, products, quantities = found
    return ReservationRow._make([*fields, _items(products, quantities)])


def _items(products: Iterable[str], quantities: Iterable[int]) -> dict[str, int]:
    """Returns pieces by product; one taken from several buckets is there several times."""
    items: dict[str, int] = {}
    for product_id, quantity in zip(products, quantities, strict=True):
        items[product_id] = items.get(product_id, 0) + quantity
    return items
