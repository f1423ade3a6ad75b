"""The shop's questions about user events, each about those since a time. SQL only."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from cache_sidecar.store.database import Database

# The lines of events since a time, one for each product, with their prices as numbers.
_LINES = """
    SELECT event.event_id, event.event_time, event.event_type, event.user_id, item ->> 'product_id' AS product_id,
           (item ->> 'quantity')::bigint AS quantity, item ->> 'currency_code' AS currency_code,
           (item ->> 'price_units')::numeric + (item ->> 'price_nanos')::numeric / 1000000000 AS price
    FROM cache_sidecar.user_events AS event, jsonb_array_elements(event.products) AS item
    WHERE event.event_time >= %s AND event.event_type = ANY(%s)"""
_TOP = f"""
    WITH lines AS MATERIALIZED ({_LINES}),
    sold AS (
        SELECT product_id, sum(quantity)::bigint AS pieces, count(DISTINCT event_id) AS orders
        FROM lines GROUP BY product_id ORDER BY pieces DESC, orders DESC, product_id LIMIT %s),
    revenue AS (
        SELECT product_id, currency_code, trim_scale(sum(price * quantity))::text AS amount
        FROM lines JOIN sold USING (product_id) WHERE price IS NOT NULL GROUP BY product_id, currency_code)
    SELECT product_id, pieces, orders, coalesce((
        SELECT jsonb_object_agg(currency_code, amount) FROM revenue WHERE revenue.product_id = sold.product_id), '{{}}')
    FROM sold ORDER BY pieces DESC, orders DESC, product_id"""
# Each step after the one before, by the same user with the same product.
_FUNNEL = f"""
    WITH lines AS MATERIALIZED ({_LINES}),
    viewed AS (
        SELECT user_id, product_id, min(event_time) AS first_time FROM lines
        WHERE event_type = 'detail-page-view' GROUP BY user_id, product_id),
    added AS (
        SELECT user_id, product_id, min(event_time) AS first_time FROM lines JOIN viewed USING (user_id, product_id)
        WHERE event_type = 'add-to-cart' AND event_time >= viewed.first_time GROUP BY user_id, product_id),
    bought AS (
        SELECT user_id, product_id FROM lines JOIN added USING (user_id, product_id)
        WHERE event_type = 'purchase-complete' AND event_time >= added.first_time GROUP BY user_id, product_id)
    SELECT 'viewed', count(*), count(DISTINCT user_id) FROM viewed
    UNION ALL SELECT 'added to cart', count(*), count(DISTINCT user_id) FROM added
    UNION ALL SELECT 'bought', count(*), count(DISTINCT user_id) FROM bought
    ORDER BY 2 DESC, 3 DESC, 1 DESC"""
# What a user put into the cart and did not take out or buy; the last price given of a product counts.
_ABANDONED = f"""
    WITH lines AS MATERIALIZED ({_LINES}),
    users AS (
        SELECT user_id, max(event_time) FILTER (WHERE event_type = 'purchase-complete') AS bought_time
        FROM lines GROUP BY user_id HAVING max(event_time) < %s),
    kept AS (
        SELECT user_id, product_id, sum(CASE event_type WHEN 'add-to-cart' THEN quantity ELSE -quantity END) AS pieces,
               (array_agg(currency_code ORDER BY event_time DESC) FILTER (WHERE price IS NOT NULL))[1] AS currency_code,
               (array_agg(price ORDER BY event_time DESC) FILTER (WHERE price IS NOT NULL))[1] AS price
        FROM lines JOIN users USING (user_id)
        WHERE event_type <> 'purchase-complete' AND event_time > coalesce(bought_time, '-infinity')
        GROUP BY user_id, product_id)
    SELECT currency_code, count(DISTINCT user_id), sum(pieces)::bigint, trim_scale(sum(price * pieces))::text
    FROM kept WHERE pieces > 0 GROUP BY currency_code ORDER BY currency_code NULLS LAST"""


class Seller(NamedTuple):
    """A product that was bought."""

    product_id: str
    pieces: int
    orders: int
    revenue: Mapping[str, str]
    "By currency, decimal numbers; pieces without a price do not count."


class Step(NamedTuple):
    """How many got to a step of the way from a product's page to a purchase, after the steps before it."""

    step: str
    pairs: int
    "Pairs of a user and a product."
    users: int


class AbandonedCarts(NamedTuple):
    """What is left in the carts of users who have not done anything with them for a while."""

    currency_code: str | None
    "None for products of which no price was given."
    carts: int
    pieces: int
    value: str | None
    "A decimal number; None without a price."


class Analytics:
    """Answers. Methods raise TierFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def top(self, since: datetime, *, limit: int) -> Sequence[Seller]:
        """Returns the products that were bought most, by pieces."""
        return [Seller(*row) for row in await self._database.fetch(_TOP, [since, ["purchase-complete"], limit])]

    async def funnel(self, since: datetime) -> Sequence[Step]:
        """Returns the steps from a view to a purchase, the first one first."""
        types = ["detail-page-view", "add-to-cart", "purchase-complete"]
        return [Step(*row) for row in await self._database.fetch(_FUNNEL, [since, types])]

    async def idle_carts(self, since: datetime, *, idle_since: datetime) -> Sequence[AbandonedCarts]:
        """Returns the carts that were last changed before `idle_since`, by currency."""
        types = ["add-to-cart", "remove-from-cart", "purchase-complete"]
        return [AbandonedCarts(*row) for row in await self._database.fetch(_ABANDONED, [since, types, idle_since])]
