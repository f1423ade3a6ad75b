"""Reservations in PostgreSQL. SQL only; see migrations/catalog/0003, 0008 and 0010."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from cache_sidecar.core.errors import NotFound
from cache_sidecar.store import pages
from cache_sidecar.store.database import Database
from cache_sidecar.store.inventory import MAX_BUCKETS, InventoryRow, columns, is_every_row, split_id
from cache_sidecar.store.pages import Page
from cache_sidecar.store.writes import Transaction

HELD, COMMITTED, RELEASED, EXPIRED = "held", "committed", "released", "expired"
# Granted requests of a product that a sidecar reads before it refuses one; if there are more, it refuses none.
MAX_GRANTS = 50_000
# How long the end of a hold waits for a row of the inventory that another transaction has locked; less than `postgres_timeout`.
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
    """The result of an attempt to reserve."""

    short_of: str
    "The product with too little available; empty if the reservation is granted. If not, the transaction must be rolled back."
    rows: Sequence[InventoryRow]
    "The changed rows, or all rows of the product with too little; locked in either case."


class Grant(NamedTuple):
    """Pieces that a reservation took from a row of the inventory."""

    id: str
    "The row's id."
    grant_version: int
    request_id: UUID


_RESERVE = f"SELECT granted, {columns('(stock)')} FROM cache_sidecar.reserve(%s, %s, %s, %s, %s, %s, %s, %s)"
_ROW = """SELECT r.reservation_id, r.request_id, r.user_id, r.state, r.create_time, r.expire_time, r.end_time,
    (SELECT array_agg(product_id ORDER BY product_id, bucket) FROM cache_sidecar.reservation_items AS i
     WHERE i.reservation_id = r.reservation_id),
    (SELECT array_agg(quantity ORDER BY product_id, bucket) FROM cache_sidecar.reservation_items AS i
     WHERE i.reservation_id = r.reservation_id)
    FROM cache_sidecar.reservations AS r"""


class ReservationStore:
    """Makes, ends and reads reservations. Methods that take a Transaction are one step of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reserve(self, tx: Transaction, row: ReservationRow, preferred: Mapping[str, int]) -> Reserved:
        """Takes the pieces of a new reservation, each product's from the preferred bucket if that has enough.

        Raises NotFound for a product without inventory.
        """
        products = list(row.items)
        cursor = await tx.execute(
            _RESERVE,
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

    async def end(self, tx: Transaction, reservation_id: str, state: str, at: datetime) -> list[InventoryRow]:
        """Ends a reservation that is held, and returns the changed rows; none when it ended before."""
        cursor = await tx.execute(
            f"SELECT {columns()} FROM cache_sidecar.end_reservation(%s, %s, %s)", [reservation_id, state, at]
        )
        return [InventoryRow(*row) for row in await cursor.fetchall()]

    async def read_rows(self, tx: Transaction, reservation_id: str) -> list[InventoryRow]:
        """Returns the rows of the inventory that a reservation took from, as they are now."""
        cursor = await tx.execute(
            f"""SELECT {columns("present")} FROM cache_sidecar.inventory AS present
                JOIN cache_sidecar.reservation_items AS i USING (product_id, bucket) WHERE i.reservation_id = %s""",
            [reservation_id],
        )
        return [InventoryRow(*row) for row in await cursor.fetchall()]

    async def extend(self, tx: Transaction, reservation_id: str, expire_time: datetime) -> None:
        """Extends a reservation that is held to expire no earlier than `expire_time`."""
        await tx.execute(
            """UPDATE cache_sidecar.reservations SET expire_time = greatest(expire_time, %s)
               WHERE reservation_id = %s AND state = 'held'""",
            [expire_time, reservation_id],
        )

    async def read(self, tx: Transaction, reservation_id: str) -> ReservationRow:
        """Returns a reservation as this transaction sees it. Raises NotFound."""
        cursor = await tx.execute(f"{_ROW} WHERE r.reservation_id = %s", [reservation_id])
        return _one(await cursor.fetchall(), reservation_id)

    async def get(self, reservation_id: str) -> ReservationRow:
        """Returns a reservation. Raises NotFound."""
        return _one(await self._database.fetch(f"{_ROW} WHERE r.reservation_id = %s", [reservation_id]), reservation_id)

    async def page(self, *, before: UUID | None, user_id: str, state: str, limit: int, max_bytes: int) -> Page[ReservationRow]:
        """Returns reservations, the newest first, of one user and in one state, or, where these are empty, of all.

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
        """Returns the grants of rows of the inventory, after a grant_version of each row and since a time.

        For `every_row` of a product, only those before its present epoch: these are complete. Among later ones, a smaller
        number may still be committed in another bucket.

        At most MAX_GRANTS + 1, in no particular order; that many means that there are more.
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
    """The result of ending a hold that was due."""

    reservation_id: UUID
    refused: str
    "Why PostgreSQL refused to end it: an SQLSTATE, and a constraint if there is one; empty if it was ended."


class HoldStore:
    """Ends reservations that have expired."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire_one(self, now: datetime) -> Ended | None:
        """Ends one reservation that is due, in a transaction of its own; returns None when none is due.

        Reservations that another transaction has locked are skipped. One that cannot be ended is due again later.
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
    """Returns pieces by product; a product taken from several buckets is listed several times."""
    items: dict[str, int] = {}
    for product_id, quantity in zip(products, quantities, strict=True):
        items[product_id] = items.get(product_id, 0) + quantity
    return items
