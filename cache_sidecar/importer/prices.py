"""Parses prices exactly. Pure."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from cache_sidecar.importer.fields import snake_case
from cache_sidecar.importer.parsers import RowRejected, short
from cache_sidecar.importer.spec import TableRow

MAX_UNITS = 2**63 - 1
FRACTION_DIGITS = 9
# Characters of a number; more than any price has.
_MAX_NUMBER = 64
_DECIMAL = re.compile(r"(-?)([0-9]*)(?:\.([0-9]*))?")
_CURRENCY = re.compile("[A-Z]{3}")


def price_columns(value: object, currency: object) -> TableRow:
    """Returns price_units, price_nanos and currency_code of a decimal price, or of a google.type.Money in its JSON form.

    `currency` is the separate currency_code of the row. Raises RowRejected.
    """
    return _money(value, currency) if isinstance(value, dict) else _decimal(value, currency)


def _decimal(value: object, currency: object) -> TableRow:
    """Returns the columns of a decimal price."""
    if value is None or value == "":
        raise RowRejected("missing_field", "has no price")
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise RowRejected("wrong_type", f"price must be a decimal number, not {short(value)}")
    nanos = nano_units(_plain(value) if isinstance(value, Decimal) else value if isinstance(value, str) else str(value))
    if nanos < 0:
        raise RowRejected("price", f"has a negative price: {short(value)}")
    return amount_columns(nanos) | {"currency_code": _currency(currency)}


def _money(price: Mapping[str, Any], currency: object) -> TableRow:
    """Returns the columns of a google.type.Money in its JSON form, where units may be a string."""
    money = {snake_case(key): value for key, value in price.items()}
    if money.keys() - {"currency_code", "units", "nanos"}:
        raise RowRejected("unknown_field", "has a price with fields other than currency_code, units and nanos")
    own = money.get("currency_code")
    if own and currency and own != currency:
        raise RowRejected("currency_code", "has two different currency codes, in its price and separately")
    units = _whole("units", money.get("units"), MAX_UNITS)
    nanos = _whole("nanos", money.get("nanos"), 10**FRACTION_DIGITS - 1)
    return {"price_units": units, "price_nanos": nanos, "currency_code": _currency(own or currency)}


def nano_units(number: str) -> int:
    """Returns a decimal number in billionths. Raises RowRejected if it is invalid or too large for Money."""
    parts = _DECIMAL.fullmatch(number) if len(number) <= _MAX_NUMBER else None
    if parts is None or not (parts[2] or parts[3]):
        raise RowRejected("price", f"price must be a decimal number, not {short(number)}")
    whole, fraction = parts[2].lstrip("0"), (parts[3] or "").rstrip("0")
    if len(fraction) > FRACTION_DIGITS:
        raise RowRejected("price", f"has a price with more than {FRACTION_DIGITS} fraction digits: {short(number)}")
    if len(whole) > len(str(MAX_UNITS)) or int(whole or "0") > MAX_UNITS:
        raise RowRejected("price", f"has a price above {MAX_UNITS:,}: {short(number)}")
    nanos = int(whole + fraction.ljust(FRACTION_DIGITS, "0"))
    return -nanos if parts[1] else nanos


def amount_columns(nanos: int) -> TableRow:
    """Returns the columns of an amount in billionths."""
    units, rest = divmod(nanos, 10**FRACTION_DIGITS)
    return {"price_units": units, "price_nanos": rest}


def _plain(number: Decimal) -> str:
    # 1e999999999 is valid JSON, but its digits would exhaust memory.
    if not -50 < number.adjusted() < 50:
        raise RowRejected("price", f"has an implausible price: {short(number)}")
    return format(number, "f")


def _whole(name: str, value: object, most: int) -> int:
    if value is None:
        return 0
    if isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise RowRejected("price", f"{name} of the price must be an integer from 0 to {most:,}, not {short(value)}")
    return value


def _currency(value: object) -> str:
    if value is None or value == "":
        raise RowRejected("missing_field", "has no currency_code")
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
        raise RowRejected("currency_code", f"currency_code must be three capital letters, not {short(value)}")
    return value
