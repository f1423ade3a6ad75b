"""Lists of the active products in PostgreSQL, and their versions. SQL only; see migrations/catalog/0011 and decision 7."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.store.database import Database
from cache_sidecar.store.outbox import Outbox

CATEGORIES = "categories:"
"The list of all categories."


class Order(StrEnum):
    """What a list is ordered by; products of which that is equal, by their ids."""

    PRODUCT_ID = "product_id"
    TITLE = "title"
    PRICE = "price"
    NEWEST = "newest"
    RANK = "rank"

    @property
    def changes(self) -> Sequence[str]:
        """The kinds of changes that affect lists in this order, as in `product_lists`."""
        return ("members",) if self in {Order.PRODUCT_ID, Order.NEWEST} else ("members", self.value)


class _Key(NamedTuple):
    """What an order compares: its type in SQL, how it is written as text, and what it must look like to be read again."""

    type: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]
    pattern: re.Pattern[str]


_NUMBER = r"-?[0-9]{1,19}"
_KEYS = {
    Order.TITLE: _Key("text", str, str, re.compile(r"[^\x00]{0,100}", re.DOTALL)),
    Order.PRICE: _Key("numeric", "{:f}".format, Decimal, re.compile(rf"{_NUMBER}(\.[0-9]{{1,20}})?")),
    Order.NEWEST: _Key("bigint", str, int, re.compile(_NUMBER)),
    Order.RANK: _Key("float8", repr, float, re.compile(r"-?(inf|[0-9]{1,20}(\.[0-9]{1,20})?(e[+-][0-9]{1,3})?)")),
}


class Place(NamedTuple):
    """Where in a list a product stands: a page begins after one."""

    key: str
    "The value that the list is ordered by, as text; empty for a list by product_id."
    product_id: str


START = Place("", "")


class Listed(NamedTuple):
    """A product on a page."""

    product_id: str
    version: int
    "The version with which it got its place. The product may have changed since in what affects no list."
    key: str
    "See Place."


class CategoryCount(NamedTuple):
    """A category that has products, or of which a subcategory has."""

    category: str
    products: int
    "Active products in exactly this category."
    all_products: int
    "Active products in it or below it, each counted once."


class ProductListStore:
    """Reads lists."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._outbox = Outbox(database)

    async def versions(self, list_ids: Sequence[str]) -> Mapping[str, int]:
        """Returns the versions of lists, without those that never changed.

        Everything that was committed before has its effect on the lists by then. Raises TierFailed, also while PostgreSQL
        cannot keep the lists up to date.
        """
        await self._outbox.sequence()
        return await self._versions(list_ids)

    async def versions_soon(self, list_ids: Sequence[str]) -> Mapping[str, int] | None:
        """As `versions`; None if that takes long, as many changes wait for their positions."""
        return await self._versions(list_ids) if await self._outbox.sequence_some() else None

    async def is_kept(self) -> bool:
        """Returns whether lists are kept up to date: the last attempt to do so did not fail."""
        rows = await self._database.fetch("SELECT FROM cache_sidecar.product_list_state WHERE failure <> ''", [])
        return not rows

    async def _versions(self, list_ids: Sequence[str]) -> Mapping[str, int]:
        rows = await self._database.fetch(
            """SELECT list_id, version, failure FROM cache_sidecar.product_list_state
               LEFT JOIN cache_sidecar.product_lists ON list_id = ANY(%s)""",
            [list(list_ids)],
        )
        if rows and rows[0][2]:
            raise TierFailed(Tier.STORE, Failure.REFUSED, f"lists of products are not up to date: {rows[0][2]}")
        return {list_id: version for list_id, version, _ in rows if list_id is not None}

    async def page(self, order: Order, category: str, after: Place, limit: int) -> list[Listed]:
        """Returns products of a category, or of all if it is empty, after a place, in order."""
        key = _KEYS.get(order)
        by, of_category = (f"{order.value}, " if key else ""), "categories @> ARRAY[%s] AND" if category else ""
        parameters: list[Any] = [category] if category else []
        if key is None:
            begin, parameters = "product_id > %s", [*parameters, after.product_id]
        elif after == START:
            begin = "true"
        else:
            begin = f"({order.value}, product_id) > (%s::{key.type}, %s)"
            parameters += [key.read(after.key), after.product_id]
        rows = await self._database.fetch(
            f"""SELECT product_id, version, {order.value} FROM cache_sidecar.product_entries
                WHERE {of_category} {begin} ORDER BY {by}product_id LIMIT %s""",
            [*parameters, limit],
        )
        return [Listed(id, version, key.write(value) if key else "") for id, version, value in rows]

    async def categories(self) -> list[CategoryCount]:
        """Returns every category, and every one above it: those before each slash in its name."""
        rows = await self._database.fetch(
            r"""WITH named AS (
                    SELECT DISTINCT product_id, category
                    FROM cache_sidecar.product_entries, unnest(categories) AS category WHERE category <> ''
                ), below AS (
                    SELECT DISTINCT product_id, array_to_string(parts[:depth], '/') AS category
                    FROM named, string_to_array(category, '/') AS parts, generate_series(1, cardinality(parts)) AS depth
                )
                SELECT category, count(named.product_id), count(*)
                FROM below LEFT JOIN named USING (product_id, category) WHERE category <> ''
                GROUP BY category ORDER BY category COLLATE "C" """,
            [],
        )
        return [CategoryCount(*row) for row in rows]


def is_key(order: Order, text: str) -> bool:
    """Whether a text can be the key of a place in a list of this order."""
    key = _KEYS.get(order)
    if key is None:
        return not text
    return bool(key.pattern.fullmatch(text)) and (key.type != "bigint" or -(2**63) <= int(text) < 2**63)
