"""What a row has to be to become a product. Pure: values in, columns of cache_sidecar.products out."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from cache_sidecar.importer.reading import Columns
from cache_sidecar.importer.records import Refused

# The limits of protos/cache_sidecar/v1/product.proto; tests/unit/test_import_products.py compares the two.
MAX_CHARACTERS = {"product_id": 128, "title": 512, "description": 16384, "brand": 128}
MAX_ITEMS = {"categories": 32, "image_uris": 32, "attributes": 64}
MAX_ITEM_CHARACTERS = {"categories": 128, "image_uris": 2048, "attributes": 1024}
MAX_ATTRIBUTE_KEY_CHARACTERS = 64
MAX_UNITS = 2**63 - 1
FRACTION_DIGITS = 9
# Longer than any price needs to be written.
_MAX_NUMBER = 64

# Splits the lists of a CSV cell.
SEPARATOR = "|"

REQUIRED = ("product_id", "title", "price", "currency_code")
_OPTIONAL = ("description", "categories", "brand", "image_uris", "attributes", "active")
CSV_COLUMNS = Columns(dict.fromkeys((*REQUIRED, *_OPTIONAL), ()), REQUIRED)
# What a server says of a product in its replies, and nobody else decides.
_IGNORED = {"etag", "create_time", "update_time"}

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_DECIMAL = re.compile(r"(-?)([0-9]*)(?:\.([0-9]*))?")
_CURRENCY = re.compile("[A-Z]{3}")
_CAMEL = re.compile("[A-Z]")
_BOOLEANS = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

Product = dict[str, Any]


def from_csv(cells: Mapping[str, str]) -> Product:
    """Returns the columns that a CSV row gives; those it has no cell for are left as they are. Raises Refused.

    Blanks around a value are not part of it. Empty means: no description, no categories, ..., active.
    """
    values = {name: cell.strip() for name, cell in cells.items()}
    product = _texts(values) | _price(values["price"], values["currency_code"])
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

    Raises Refused.
    """
    values = _named(value)
    price = values.get("price")
    if isinstance(price, dict):
        product = _texts(values) | _money(price, values.get("currency_code"))
    else:
        product = _texts(values) | _price(price, values.get("currency_code"))
    for name in ("categories", "image_uris"):
        if name in values:
            product[name] = _list(name, _typed(name, values[name], list, "a list"))
    if "attributes" in values:
        product["attributes"] = _attributes(_typed("attributes", values["attributes"], dict, "an object"))
    if "active" in values:
        product["active"] = _typed("active", values["active"], bool, "true or false")
    return product


def _named(value: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, item in value.items():
        name = _CAMEL.sub(lambda capital: "_" + capital[0].lower(), key)
        if name in _IGNORED or item is None:
            continue
        if name not in CSV_COLUMNS.names:
            raise Refused("unknown_field", f"has a field {_short(key)}; there are {', '.join(CSV_COLUMNS.names)}")
        if name in values:
            raise Refused("unknown_field", f"has {name} twice, in two spellings")
        values[name] = item
    return values


def _texts(values: Mapping[str, Any]) -> Product:
    product = {}
    for name, limit in MAX_CHARACTERS.items():
        if name in values or name in REQUIRED:
            product[name] = check_text(name, values.get(name), limit, required=name in REQUIRED)
    _check_printable(product["product_id"])
    return product


def check_id(product_id: str) -> None:
    """Raises Refused for what no product_id can be."""
    _check_printable(check_text("product_id", product_id, MAX_CHARACTERS["product_id"], required=True))


def _check_printable(product_id: str) -> None:
    if _CONTROL.search(product_id):
        raise Refused("control_character", "has a control character in its product_id")


def check_text(name: str, value: object, limit: int, *, required: bool = False) -> str:
    """Returns the value if it is text that PostgreSQL can hold, of at most `limit` characters. Raises Refused."""
    if required and (value is None or value == ""):
        raise Refused("missing_field", f"has no {name}")
    if not isinstance(value, str):
        raise Refused("wrong_type", f"has a {name} that is no text: {_short(value)}")
    if len(value) > limit:
        raise Refused("too_long", f"has a {name} of {len(value):,} characters; at most {limit:,} are allowed")
    if not value.isascii() and _SURROGATE.search(value):
        raise Refused("not_unicode", f"has half a character in its {name}")
    if "\0" in value:
        raise Refused("control_character", f"has a NUL character in its {name}")
    return value


def _price(value: object, currency: object) -> Product:
    """Returns the columns of a decimal price, exact."""
    if value is None or value == "":
        raise Refused("missing_field", "has no price")
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise Refused("wrong_type", f"has a price that is no decimal number: {_short(value)}")
    nanos = nano_units(_plain(value) if isinstance(value, Decimal) else value if isinstance(value, str) else str(value))
    if nanos < 0:
        raise Refused("price", f"has a negative price: {_short(value)}")
    return price_columns(nanos) | {"currency_code": _currency(currency)}


def _money(price: Mapping[str, Any], currency: object) -> Product:
    """Returns the columns of a google.type.Money in its JSON form, where units may be a string."""
    money = {_CAMEL.sub(lambda capital: "_" + capital[0].lower(), key): value for key, value in price.items()}
    if money.keys() - {"currency_code", "units", "nanos"}:
        raise Refused("unknown_field", "has a price with other fields than currency_code, units and nanos")
    own = money.get("currency_code")
    if own and currency and own != currency:
        raise Refused("currency_code", "has one currency_code in its price and another beside it")
    units = _whole("units", money.get("units"), MAX_UNITS)
    nanos = _whole("nanos", money.get("nanos"), 10**FRACTION_DIGITS - 1)
    return {"price_units": units, "price_nanos": nanos, "currency_code": _currency(own or currency)}


def nano_units(number: str) -> int:
    """Returns a decimal number in billionths, exact. Raises Refused for what is none, and for more than Money can hold."""
    parts = _DECIMAL.fullmatch(number) if len(number) <= _MAX_NUMBER else None
    if parts is None or not (parts[2] or parts[3]):
        raise Refused("price", f"has a price that is no decimal number: {_short(number)}")
    whole, fraction = parts[2].lstrip("0"), (parts[3] or "").rstrip("0")
    if len(fraction) > FRACTION_DIGITS:
        raise Refused("price", f"has a price with more than {FRACTION_DIGITS} fraction digits: {_short(number)}")
    if len(whole) > len(str(MAX_UNITS)) or int(whole or "0") > MAX_UNITS:
        raise Refused("price", f"has a price above {MAX_UNITS:,}: {_short(number)}")
    nanos = int(whole + fraction.ljust(FRACTION_DIGITS, "0"))
    return -nanos if parts[1] else nanos


def price_columns(nanos: int) -> Product:
    """Returns the columns of an amount in billionths."""
    units, rest = divmod(nanos, 10**FRACTION_DIGITS)
    return {"price_units": units, "price_nanos": rest}


def _plain(number: Decimal) -> str:
    # JSON may write 1e999999999, whose digits would fill the memory.
    if not -50 < number.adjusted() < 50:
        raise Refused("price", f"has a price that no shop asks: {_short(number)}")
    return format(number, "f")


def _whole(name: str, value: object, most: int) -> int:
    if value is None:
        return 0
    if isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Refused("price", f"has a price whose {name} are no whole number from 0 to {most:,}: {_short(value)}")
    return value


def _currency(value: object) -> str:
    if value is None or value == "":
        raise Refused("missing_field", "has no currency_code")
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
        raise Refused("currency_code", f"has a currency_code that is not three capital letters: {_short(value)}")
    return value


def _list(name: str, items: Sequence[object]) -> list[str]:
    """Returns the items, each once."""
    if len(items) > MAX_ITEMS[name]:
        raise Refused("too_many", f"has {len(items):,} {name}; at most {MAX_ITEMS[name]} are allowed")
    texts = (check_text(f"{name} entry", item, MAX_ITEM_CHARACTERS[name], required=True) for item in items)
    return list(dict.fromkeys(texts))


def _attributes(value: Mapping[str, object]) -> str:
    """Returns the attributes as the JSON text that PostgreSQL takes."""
    if len(value) > MAX_ITEMS["attributes"]:
        raise Refused("too_many", f"has {len(value):,} attributes; at most {MAX_ITEMS['attributes']} are allowed")
    for key, item in value.items():
        check_text("attribute name", key, MAX_ATTRIBUTE_KEY_CHARACTERS, required=True)
        check_text("attribute", item, MAX_ITEM_CHARACTERS["attributes"])
    return json.dumps(value)


def _object(cell: str) -> dict[str, object]:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        raise Refused(
            "attributes", f'has attributes that are no JSON object such as {{"colour": "red"}}: {_short(cell)}'
        ) from None
    attributes: dict[str, object] = _typed("attributes", value, dict, "a JSON object")
    return attributes


def _boolean(cell: str) -> bool:
    value = _BOOLEANS.get(cell.lower())
    if value is None:
        raise Refused("active", f"is active neither true nor false, but {_short(cell)}")
    return value


def _typed(name: str, value: Any, kind: type, words: str) -> Any:
    if not isinstance(value, kind):
        raise Refused("wrong_type", f"needs {words} as {name}, not {_short(value)}")
    return value


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
