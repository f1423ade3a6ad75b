"""What a row has to be to become a product. Pure: values in, columns of cache_sidecar.products out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cache_sidecar.importer.fields import MAX_ID_CHARACTERS, check_printable, check_text, named
from cache_sidecar.importer.parsers import RowRejected, short
from cache_sidecar.importer.prices import price_columns
from cache_sidecar.importer.record_reader import Columns

# The limits of protos/cache_sidecar/v1/product.proto; tests/unit/test_import_products.py compares the two.
MAX_CHARACTERS = {"product_id": MAX_ID_CHARACTERS, "title": 512, "description": 16384, "brand": 128}
MAX_ITEMS = {"categories": 32, "image_uris": 32, "attributes": 64}
MAX_ITEM_CHARACTERS = {"categories": 128, "image_uris": 2048, "attributes": 1024}
MAX_ATTRIBUTE_KEY_CHARACTERS = 64

# Splits the lists of a CSV cell.
SEPARATOR = "|"

REQUIRED = ("product_id", "title", "price", "currency_code")
_OPTIONAL = ("description", "categories", "brand", "image_uris", "attributes", "active")
CSV_COLUMNS = Columns(dict.fromkeys((*REQUIRED, *_OPTIONAL), ()), REQUIRED)
# What a server says of a product in its replies, and nobody else decides.
_IGNORED = {"etag", "create_time", "update_time"}

_BOOLEANS = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

Product = dict[str, Any]


def from_csv(cells: Mapping[str, str]) -> Product:
    """Returns the columns that a CSV row gives; those it has no cell for are left as they are. Raises RowRejected.

    Blanks around a value are not part of it. Empty means: no description, no categories, ..., active.
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
    return product


def from_json(value: Mapping[str, Any]) -> Product:
    """Returns the columns that a JSON object gives, named as in the proto or its JSON mapping; null is as if absent.

    Raises RowRejected.
    """
    values = named(value, known=CSV_COLUMNS.names, ignored=_IGNORED)
    product = _texts(values) | price_columns(values.get("price"), values.get("currency_code"))
    for name in ("categories", "image_uris"):
        if name in values:
            product[name] = _list(name, _typed(name, values[name], list, "a list"))
    if "attributes" in values:
        product["attributes"] = _attributes(_typed("attributes", values["attributes"], dict, "an object"))
    if "active" in values:
        product["active"] = _typed("active", values["active"], bool, "true or false")
    return product


def _texts(values: Mapping[str, Any]) -> Product:
    product = {}
    for name, limit in MAX_CHARACTERS.items():
        if name in values or name in REQUIRED:
            product[name] = check_text(name, values.get(name), limit, required=name in REQUIRED)
    check_printable("product_id", product["product_id"])
    return product


def _list(name: str, items: Sequence[object]) -> list[str]:
    """Returns the items, each once."""
    if len(items) > MAX_ITEMS[name]:
        raise RowRejected("too_many", f"has {len(items):,} {name}; at most {MAX_ITEMS[name]} are allowed")
    texts = (check_text(f"{name} entry", item, MAX_ITEM_CHARACTERS[name], required=True) for item in items)
    return list(dict.fromkeys(texts))


def _attributes(value: Mapping[str, object]) -> str:
    """Returns the attributes as the JSON text that PostgreSQL takes."""
    if len(value) > MAX_ITEMS["attributes"]:
        raise RowRejected("too_many", f"has {len(value):,} attributes; at most {MAX_ITEMS['attributes']} are allowed")
    for key, item in value.items():
        check_text("attribute name", key, MAX_ATTRIBUTE_KEY_CHARACTERS, required=True)
        check_text("attribute", item, MAX_ITEM_CHARACTERS["attributes"])
    return json.dumps(value)


def _object(cell: str) -> dict[str, object]:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        raise RowRejected(
            "attributes", f'has attributes that are no JSON object such as {{"colour": "red"}}: {short(cell)}'
        ) from None
    attributes: dict[str, object] = _typed("attributes", value, dict, "a JSON object")
    return attributes


def _boolean(cell: str) -> bool:
    value = _BOOLEANS.get(cell.lower())
    if value is None:
        raise RowRejected("active", f"is active neither true nor false, but {short(cell)}")
    return value


def _typed(name: str, value: Any, kind: type, words: str) -> Any:
    if not isinstance(value, kind):
        raise RowRejected("wrong_type", f"needs {words} as {name}, not {short(value)}")
    return value
