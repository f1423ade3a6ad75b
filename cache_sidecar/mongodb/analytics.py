"""The shop's questions about user events, answered from the copy; the same answers as those of `store/analytics.py`."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from bson.decimal128 import Decimal128

from cache_sidecar.mongodb.database import EVENTS, Database, Document, map_errors
from cache_sidecar.store.analytics import AbandonedCarts, Seller, Step

Pipeline = list[Document]

_PRICE = "$products.price"
_IS_PURCHASE = {"$eq": ["$event_type", "purchase-complete"]}


class MongoAnalytics:
    """Answers. Methods raise MongoDbFailed."""

    def __init__(self, database: Database) -> None:
        self._events = database[EVENTS]

    async def top(self, since: datetime, *, limit: int) -> Sequence[Seller]:
        """Returns the products that were bought most, by pieces."""
        lines = _lines(since, ["purchase-complete"])
        sold = await self._ask(lines + _best_sellers(limit))
        revenue: dict[str, dict[str, str]] = {row["_id"]: {} for row in sold}
        for row in await self._ask(lines + _revenue(list(revenue))):
            revenue[row["_id"]["product_id"]][row["_id"]["currency_code"]] = _text(row["amount"]) or "0"
        return [Seller(row["_id"], row["pieces"], row["orders"], revenue[row["_id"]]) for row in sold]

    async def funnel(self, since: datetime) -> Sequence[Step]:
        """Returns the steps from a view to a purchase, the first one first."""
        types = ["detail-page-view", "add-to-cart", "purchase-complete"]
        found = await self._ask(_lines(since, types) + _steps())
        counts = found[0] if found else {}
        return [
            Step(name, counts.get(f"{field}_pairs", 0), counts.get(f"{field}_users", 0))
            for name, field in (("viewed", "viewed"), ("added to cart", "added"), ("bought", "bought"))
        ]

    async def idle_carts(self, since: datetime, *, idle_since: datetime) -> Sequence[AbandonedCarts]:
        """Returns the carts that were last changed before `idle_since`, by currency."""
        types = ["add-to-cart", "remove-from-cart", "purchase-complete"]
        found = [
            AbandonedCarts(row["_id"], row["carts"], row["pieces"], _text(row["value"]) if row["_id"] else None)
            for row in await self._ask(_lines(since, types) + _carts(idle_since))
        ]
        return sorted(found, key=lambda carts: (carts.currency_code is None, carts.currency_code or ""))

    async def _ask(self, pipeline: Pipeline) -> list[Document]:
        with map_errors():
            return await (await self._events.aggregate(pipeline, allowDiskUse=True)).to_list()


def _lines(since: datetime, types: Sequence[str]) -> Pipeline:
    """The lines of events since a time, one document for each product."""
    return [{"$match": {"event_type": {"$in": list(types)}, "event_time": {"$gte": since}}}, {"$unwind": "$products"}]


def _best_sellers(limit: int) -> Pipeline:
    # In two steps: an array of a product's events could outgrow a document.
    by_event = {"product_id": "$products.product_id", "event_id": "$_id"}
    return [
        {"$group": {"_id": by_event, "pieces": {"$sum": "$products.quantity"}}},
        {"$group": {"_id": "$_id.product_id", "pieces": {"$sum": "$pieces"}, "orders": {"$sum": 1}}},
        {"$sort": {"pieces": -1, "orders": -1, "_id": 1}},
        {"$limit": limit},
    ]


def _revenue(product_ids: Sequence[str]) -> Pipeline:
    by_currency = {"product_id": "$products.product_id", "currency_code": "$products.currency_code"}
    return [
        {"$match": {"products.product_id": {"$in": list(product_ids)}, "products.price": {"$exists": True}}},
        {"$group": {"_id": by_currency, "amount": {"$sum": {"$multiply": [_PRICE, "$products.quantity"]}}}},
    ]


def _steps() -> Pipeline:
    """Each step after the one before, by the same user with the same product."""
    pair = {"user_id": "$user_id", "product_id": "$products.product_id"}
    view, add = ({"$eq": ["$event_type", kind]} for kind in ("detail-page-view", "add-to-cart"))
    after_view = {"$filter": {"input": "$adds", "as": "time", "cond": {"$gte": ["$$time", "$view_time"]}}}
    was_added = {"$gt": ["$add_time", None]}
    steps = ("viewed", "added", "bought")
    return [
        {
            "$group": {
                "_id": pair,
                "view_time": {"$min": {"$cond": [view, "$event_time", None]}},
                "adds": {"$addToSet": {"$cond": [add, "$event_time", None]}},
                "last_purchase": {"$max": {"$cond": [_IS_PURCHASE, "$event_time", None]}},
            }
        },
        {"$match": {"view_time": {"$ne": None}}},
        # None is less than any time.
        {"$project": {"last_purchase": 1, "add_time": {"$min": after_view}}},
        {
            "$project": {
                "viewed": {"$literal": 1},
                "added": {"$cond": [was_added, 1, 0]},
                "bought": {"$cond": [{"$and": [was_added, {"$gte": ["$last_purchase", "$add_time"]}]}, 1, 0]},
            }
        },
        {"$group": {"_id": "$_id.user_id"} | {step: {"$sum": f"${step}"} for step in steps}},
        {
            "$group": {"_id": None}
            | {f"{step}_pairs": {"$sum": f"${step}"} for step in steps}
            | {f"{step}_users": {"$sum": {"$cond": [{"$gt": [f"${step}", 0]}, 1, 0]}} for step in steps}
        },
    ]


def _carts(idle_since: datetime) -> Pipeline:
    """What a user put into the cart and did not take out or buy; the last price given of a product counts."""
    line = {
        "time": "$event_time",
        "type": "$event_type",
        "product_id": "$products.product_id",
        "quantity": "$products.quantity",
        "price": _PRICE,
        "currency_code": "$products.currency_code",
    }
    pieces = {"$cond": [{"$eq": ["$lines.type", "add-to-cart"]}, "$lines.quantity", {"$multiply": ["$lines.quantity", -1]}]}
    return [
        {
            "$group": {
                "_id": "$user_id",
                "last_time": {"$max": "$event_time"},
                "bought_time": {"$max": {"$cond": [_IS_PURCHASE, "$event_time", None]}},
                "lines": {"$push": line},
            }
        },
        {"$match": {"last_time": {"$lt": idle_since}}},
        {"$unwind": "$lines"},
        {"$project": {"lines": 1, "counts": {"$gt": ["$lines.time", "$bought_time"]}}},
        {"$match": {"counts": True}},
        {"$sort": {"lines.time": 1}},
        {
            "$group": {
                "_id": {"user_id": "$_id", "product_id": "$lines.product_id"},
                "pieces": {"$sum": pieces},
                "prices": {"$push": {"price": "$lines.price", "currency_code": "$lines.currency_code"}},
            }
        },
        {"$match": {"pieces": {"$gt": 0}}},
        {"$project": {"pieces": 1, "last": _last_with_price()}},
        {
            "$group": {
                "_id": {"currency_code": {"$ifNull": ["$last.currency_code", None]}, "user_id": "$_id.user_id"},
                "pieces": {"$sum": "$pieces"},
                "value": {"$sum": {"$multiply": ["$last.price", "$pieces"]}},
            }
        },
        {
            "$group": {
                "_id": "$_id.currency_code",
                "carts": {"$sum": 1},
                "pieces": {"$sum": "$pieces"},
                "value": {"$sum": "$value"},
            }
        },
    ]


def _last_with_price() -> Document:
    with_price = {"$filter": {"input": "$prices", "as": "one", "cond": {"$gt": ["$$one.price", None]}}}
    return {"$arrayElemAt": [with_price, -1]}


def _text(amount: Any) -> str | None:
    """Returns an amount as a decimal number without trailing zeros."""
    if amount is None:
        return None
    value = amount.to_decimal() if isinstance(amount, Decimal128) else Decimal(amount)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
