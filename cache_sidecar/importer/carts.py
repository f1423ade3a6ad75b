"""Imports carts: a JSON object is a whole cart, a CSV row one line of it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cache_sidecar.core.clock import SystemClock
from cache_sidecar.core.errors import InvalidRequest, LimitReached
from cache_sidecar.importer.fields import check_id, check_text, fields_of
from cache_sidecar.importer.parsers import RowRejected, short
from cache_sidecar.importer.prices import price_columns
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Header
from cache_sidecar.importer.spec import ImportSpec, ParseRow, Parts, TableRow
from cache_sidecar.importer.timestamps import past_timestamp
from cache_sidecar.services import cart_items
from cache_sidecar.services.cart_items import Items, Limits
from cache_sidecar.store.bulk import BulkCarts
from cache_sidecar.store.cart import Item

REQUIRED = ("user_id", "product_id", "quantity", "unit_price", "currency_code")
CSV_HEADER = Header(dict.fromkeys((*REQUIRED, "options", "create_time", "update_time"), ()), REQUIRED)
# The limits of protos/cache_sidecar/v1/cart.proto; tests/unit/test_cart_import.py compares the two.
MAX_OPTIONS, MAX_OPTION_NAME, MAX_OPTION = 8, 64, 256
MAX_QUANTITY = 2**31 - 1
_CART_FIELDS = ("user_id", "items", "create_time", "update_time")
_ITEM_FIELDS = ("product_id", "quantity", "unit_price", "currency_code", "options")
# Output-only fields of the API.
_IGNORED = {"etag", "totals"}
_WHOLE = re.compile("[0-9]{1,10}")

Now = Callable[[], float]


class CartLines:
    """Collects the lines of carts, where those of one cart are adjacent.

    Keeps a hash of every user, to reject the second part of a cart whose lines are not adjacent: it would replace the first.
    """

    def __init__(self, limits: Limits, now: Now = SystemClock.now) -> None:
        self._limits = limits
        self._now = now
        self._user_id: str | None = None
        self._items: Items = ()
        self._seen: set[int] = set()

    def add(self, cells: Mapping[str, str]) -> TableRow:
        """Returns the columns of the row's cart, with all its lines up to this one. Raises RowRejected."""
        values = {name: cell.strip() for name, cell in cells.items()}
        user_id = check_id("user_id", values["user_id"])
        if user_id != self._user_id and hash(user_id) in self._seen:
            raise RowRejected("not_adjacent", "is of a cart whose other lines are not adjacent: order the file by user_id")
        quantity, price = values["quantity"], price_columns(values["unit_price"], values["currency_code"])
        item = _item(values["product_id"], int(quantity) if _WHOLE.fullmatch(quantity) else quantity, price, _options(values))
        times = _times(values, self._now)
        items = _add(self._items if user_id == self._user_id else (), [item], self._limits)
        self._user_id, self._items = user_id, items
        self._seen.add(hash(user_id))
        return {"user_id": user_id, "items": _column(items)} | times


def from_json(value: Mapping[str, Any], limits: Limits, now: Now = SystemClock.now) -> TableRow:
    """Returns the columns of a cart in a JSON object, named as in the proto or its JSON mapping. Raises RowRejected."""
    value = fields_of(value, known=_CART_FIELDS, ignored=_IGNORED)
    lines = value.get("items")
    if not isinstance(lines, list):
        raise RowRejected("wrong_type", "items must be a list")
    items = _add((), [_json_item(line) for line in lines], limits)
    return {"user_id": check_id("user_id", value.get("user_id")), "items": _column(items)} | _times(value, now)


def _json_item(line: Any) -> Item:
    if not isinstance(line, dict):
        raise RowRejected("wrong_type", "items must be objects")
    line = fields_of(line, known=_ITEM_FIELDS)
    price = price_columns(line.get("unit_price"), line.get("currency_code"))
    return _item(line.get("product_id"), line.get("quantity"), price, line.get("options", {}))


def _item(product_id: Any, quantity: Any, price: Mapping[str, Any], options: Any) -> Item:
    if isinstance(quantity, bool) or not isinstance(quantity, int) or not 0 < quantity <= MAX_QUANTITY:
        raise RowRejected("quantity", f"quantity must be an integer from 1, not {short(quantity)}")
    if not isinstance(options, dict) or len(options) > MAX_OPTIONS:
        raise RowRejected("options", f"options must be an object of at most {MAX_OPTIONS} strings")
    for name, option in options.items():
        check_text("option name", name, MAX_OPTION_NAME, required=True)
        check_text("option", option, MAX_OPTION)
    return Item(product_id=check_id("product_id", product_id), quantity=quantity, options=options, **price)


def _add(items: Items, more: Sequence[Item], limits: Limits) -> Items:
    try:
        for item in more:
            items = cart_items.add(items, item, limits)
        cart_items.totals(items)
    except LimitReached as error:
        raise RowRejected("too_many", f"makes the cart too large: {error}") from None
    except InvalidRequest:
        raise RowRejected("price", "makes the total of the cart too large") from None
    return items


def _column(items: Items) -> str:
    return json.dumps([item._asdict() for item in items])


def _options(values: Mapping[str, str]) -> Any:
    cell = values.get("options", "")
    try:
        return json.loads(cell) if cell else {}
    except (ValueError, RecursionError):
        raise RowRejected("options", f'options must be a JSON object such as {{"size": "M"}}, not {short(cell)}') from None


def _times(value: Mapping[str, Any], now: Now) -> dict[str, datetime]:
    """Returns create_time and update_time, never in the future: a later import would win over customers' changes until then."""
    latest = datetime.fromtimestamp(now(), UTC)
    given = {name: value[name] for name in ("create_time", "update_time") if value.get(name) not in (None, "")}
    return {name: past_timestamp(name, text, latest) for name, text in given.items()}


def _parsers(parts: Parts) -> Mapping[str, ParseRow]:
    settings, now = parts.settings(), parts.clock.now
    limits = Limits(items=settings.cart_max_items, quantity=settings.cart_max_quantity)
    return {CSV: CartLines(limits, now).add, JSON_LINES: lambda value: from_json(value, limits, now)}


# A cart that was changed since its update_time in the file is left unchanged.
IMPORT = ImportSpec(name="carts", bulk=BulkCarts, headers={CSV: CSV_HEADER}, parsers=_parsers)
