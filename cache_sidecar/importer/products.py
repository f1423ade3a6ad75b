"""Imports products: parses rows into columns of cache_sidecar.products."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from cache_sidecar.importer import online_retail
from cache_sidecar.importer.fields import (
    MAX_ID_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    check_no_error,
    check_printable,
    check_text,
    fields_of,
)
from cache_sidecar.importer.layouts import LAYOUTS, Layout
from cache_sidecar.importer.parsers import RowRejected, short
from cache_sidecar.importer.prices import price_columns
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Header
from cache_sidecar.importer.spec import ImportSpec, ParseRow, TableRow
from cache_sidecar.store.bulk import BulkProducts

# The limits of protos/cache_sidecar/v1/product.proto; tests/unit/test_import_products.py compares the two.
MAX_CHARACTERS = {"product_id": MAX_ID_CHARACTERS, "title": MAX_TITLE_CHARACTERS, "description": 16384, "brand": 128}
MAX_ITEMS = {"categories": 32, "image_uris": 32, "attributes": 64}
MAX_ITEM_CHARACTERS = {"categories": 128, "image_uris": 2048, "attributes": 1024}
MAX_ATTRIBUTE_KEY_CHARACTERS = 64

# Separates the items of a list in a CSV cell.
SEPARATOR = "|"

REQUIRED = ("product_id", "title", "price", "currency_code")
_OPTIONAL = ("description", "categories", "brand", "image_uris", "attributes", "active", "rank")
CSV_HEADER = Header(dict.fromkeys((*REQUIRED, *_OPTIONAL), ()), REQUIRED)
# Output-only fields of the API.
_IGNORED = {"etag", "create_time", "update_time"}

_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,2})?", re.IGNORECASE | re.ASCII)
_BOOLEANS = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def from_csv(cells: Mapping[str, str]) -> TableRow:
    """Returns the columns of a CSV row; a column that the file lacks keeps its value in the table. Raises RowRejected.

    Values are stripped. An empty cell is an empty description, an empty list of categories, and so on; `active` is true
    then, and there is no rank.
    """
    values = {name: cell.strip() for name, cell in cells.items()}
    product = _texts(values) | price_columns(values["price"], values["currency_code"])
    for name in ("categories", "image_uris"):
        if name in values:
            items = [item.strip() for item in values[name].split(SEPARATOR)]
            product[name] = _list(name, [item for item in items if item])
    if "attributes" in values:
        product["attributes"] = _attributes(_object(values["attributes"]) if values["attributes"] else {})
    if "active" in values:
        product["active"] = _boolean(values["active"])
    if "rank" in values:
        product["rank"] = _rank(values["rank"]) if values["rank"] else None
    return product


def from_json(value: Mapping[str, Any]) -> TableRow:
    """Returns the columns of a JSON object, named as in the proto or its JSON mapping. Raises RowRejected."""
    values = fields_of(value, known=CSV_HEADER.names, ignored=_IGNORED)
    product = _texts(values) | price_columns(values.get("price"), values.get("currency_code"))
    for name in ("categories", "image_uris"):
        if name in values:
            product[name] = _list(name, _check_type(name, values[name], list, "a list"))
    if "attributes" in values:
        product["attributes"] = _attributes(_check_type("attributes", values["attributes"], dict, "an object"))
    if "active" in values:
        product["active"] = _check_type("active", values["active"], bool, "true or false")
    if "rank" in values:
        product["rank"] = _rank(str(_check_type("rank", values["rank"], (int, float, Decimal), "a number")))
    return product


def _texts(values: Mapping[str, Any]) -> TableRow:
    product = {}
    for name, limit in MAX_CHARACTERS.items():
        if name in values or name in REQUIRED:
            product[name] = check_text(name, values.get(name), limit, required=name in REQUIRED)
    check_printable("product_id", product["product_id"])
    check_no_error("title", product["title"])
    return product


def _list(name: str, items: Sequence[object]) -> list[str]:
    """Returns the items without duplicates."""
    if len(items) > MAX_ITEMS[name]:
        raise RowRejected("too_many", f"has {len(items):,} {name}; the maximum is {MAX_ITEMS[name]}")
    texts = (check_text(f"{name} entry", item, MAX_ITEM_CHARACTERS[name], required=True) for item in items)
    return list(dict.fromkeys(texts))


def _attributes(value: Mapping[str, object]) -> str:
    """Returns the attributes as JSON text."""
    if len(value) > MAX_ITEMS["attributes"]:
        raise RowRejected("too_many", f"has {len(value):,} attributes; the maximum is {MAX_ITEMS['attributes']}")
    for key, item in value.items():
        check_text("attribute name", key, MAX_ATTRIBUTE_KEY_CHARACTERS, required=True)
        check_text("attribute", item, MAX_ITEM_CHARACTERS["attributes"])
    return json.dumps(value)


def _object(cell: str) -> dict[str, object]:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        raise RowRejected(
            "attributes", f'attributes must be a JSON object such as {{"colour": "red"}}, not {short(cell)}'
        ) from None
    attributes: dict[str, object] = _check_type("attributes", value, dict, "a JSON object")
    return attributes


def _boolean(cell: str) -> bool:
    value = _BOOLEANS.get(cell.lower())
    if value is None:
        raise RowRejected("active", f"active must be true or false, not {short(cell)}")
    return value


def _rank(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise RowRejected("rank", f"rank must be a number, not {short(text)}")
    return float(text)


def _check_type(name: str, value: Any, kind: type | tuple[type, ...], words: str) -> Any:
    if not isinstance(value, kind):
        raise RowRejected("wrong_type", f"{name} must be {words}, not {short(value)}")
    return value


def _parsers() -> dict[str, ParseRow]:
    def of(layout: Layout) -> ParseRow:
        convert = layout.convert()
        return lambda cells: from_csv(convert(cells))

    return {CSV: from_csv, JSON_LINES: from_json} | {name: of(layout) for name, layout in LAYOUTS.items()}


IMPORT = ImportSpec(
    name="products",
    bulk=BulkProducts,
    headers={
        **{name: layout.products for name, layout in LAYOUTS.items()},
        CSV: CSV_HEADER,
        online_retail.FORMAT: online_retail.HEADER,
    },
    parsers=lambda _: _parsers(),
    has_currency=True,
    has_whole_rows=True,
    can_delete=True,
    aggregators={online_retail.FORMAT: online_retail.OrderLines},
)
