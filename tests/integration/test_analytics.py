"""`cache-sidecar analytics`: the answers from events that were worked out by hand."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from cache_sidecar.store.user_event import UserEventStore
from tests.integration.test_cli import run as command
from tests.support.databases import open_database
from tests.support.recorder import new_event_id

HOUR = 3600.0


def line(hours_ago: float, user: str, kind: str, *lines: tuple[str, int, str]) -> str:
    """Returns an event as sidecars write it; a line is a product, a quantity and a price, which may be empty."""
    products = []
    for product_id, quantity, price in lines:
        products.append({"product_id": product_id, "quantity": quantity})
        if price:
            amount, currency_code = price.split()
            units, _, cents = amount.partition(".")
            nanos = int(cents.ljust(9, "0"))
            products[-1] |= {"price_units": int(units), "price_nanos": nanos, "currency_code": currency_code}
    event_id = new_event_id(time.time() - hours_ago * HOUR)
    return json.dumps({"event_id": event_id, "user_id": user, "event_type": kind, "products": products})


@pytest.fixture
async def events(database: str) -> str:
    """A database with the events of four users."""
    sofa, lamp = ("sofa", 1, "499.50 EUR"), ("lamp", 2, "19.99 EUR")
    lines = [
        # Ann views both, adds both, and buys the sofa.
        line(9, "ann", "detail-page-view", sofa),
        line(8, "ann", "detail-page-view", ("lamp", 1, "")),
        line(7, "ann", "add-to-cart", sofa, lamp),
        line(6, "ann", "purchase-complete", sofa),
        # Ben buys without a view, in another currency, twice.
        line(6, "ben", "purchase-complete", ("lamp", 3, "21.00 USD"), ("mug", 1, "")),
        line(5, "ben", "purchase-complete", ("lamp", 1, "19.99 EUR")),
        # Cyd's cart: a lamp of two is taken out again, and the mug's last price counts.
        line(5, "cyd", "detail-page-view", lamp),
        line(4, "cyd", "add-to-cart", lamp, ("mug", 1, "5.00 EUR")),
        line(3, "cyd", "remove-from-cart", ("lamp", 1, "")),
        line(2, "cyd", "add-to-cart", ("mug", 2, "4.00 EUR"), ("pen", 4, "")),
        # Dan is still shopping.
        line(0.1, "dan", "detail-page-view", sofa),
        line(0.05, "dan", "add-to-cart", sofa),
        # Long ago.
        line(24 * 20, "eve", "purchase-complete", ("sofa", 50, "1.00 EUR")),
    ]
    async with open_database(database) as opened:
        await UserEventStore(opened).add(lines, kept_after=datetime.fromtimestamp(0, UTC))
    return database


async def ask(database: str, *arguments: str) -> Any:
    code, out, err = await command("analytics", *arguments, "--json", CACHE_SIDECAR_POSTGRES_CATALOG=database)
    assert (code, err) == (0, "")
    return json.loads(out)


async def test_best_sellers(events: str) -> None:
    assert await ask(events, "top") == [
        {"product_id": "lamp", "pieces": 4, "orders": 2, "revenue": {"EUR": "19.99", "USD": "63"}},
        {"product_id": "mug", "pieces": 1, "orders": 1, "revenue": {}},
        {"product_id": "sofa", "pieces": 1, "orders": 1, "revenue": {"EUR": "499.5"}},
    ]
    assert [row["product_id"] for row in await ask(events, "top", "--days", "30", "--limit", "1")] == ["sofa"]


async def test_the_way_from_a_view_to_a_purchase(events: str) -> None:
    assert await ask(events, "funnel") == [
        {"step": "viewed", "products": 4, "users": 3, "share": None},
        {"step": "added to cart", "products": 4, "users": 3, "share": 1.0},
        {"step": "bought", "products": 1, "users": 1, "share": 0.25},
    ]


async def test_what_is_left_in_carts(events: str) -> None:
    # Cyd's: one lamp, three mugs at the last price, and four pens without one. Ann's was bought, Dan's is in use.
    assert await ask(events, "abandoned") == [
        {"currency": "EUR", "carts": 1, "pieces": 4, "value": "31.99"},
        {"currency": None, "carts": 1, "pieces": 4, "value": None},
    ]
    assert (await ask(events, "abandoned", "--idle", "0"))[0]["value"] == "531.49"


async def test_the_answers_as_tables(events: str) -> None:
    code, out, _ = await command("analytics", "funnel", CACHE_SIDECAR_POSTGRES_CATALOG=events)
    assert (code, out.splitlines()) == (
        0,
        [
            "step           products  users  share",
            "viewed         4         3      -",
            "added to cart  4         3      100.0%",
            "bought         1         1      25.0%",
        ],
    )


async def test_without_events_or_a_database_it_says_so(database: str) -> None:
    assert await ask(database, "top") == await ask(database, "abandoned") == []
    assert [row["products"] for row in await ask(database, "funnel")] == [0, 0, 0]
    nobody = "postgresql://nobody@127.0.0.1:1/none"
    code, _, err = await command("analytics", "top", CACHE_SIDECAR_POSTGRES_CATALOG=nobody)
    assert (code, len(err.splitlines())) == (69, 1)
