"""Derives products from order lines in the format of the UCI data sets Online Retail and Online Retail II.

Such a file has no catalogue, only sales. A product's title is the description of its newest order line, its price the median of
the prices it was sold for.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from cache_sidecar.importer.fields import MAX_TITLE_CHARACTERS, check_id, check_text
from cache_sidecar.importer.parsers import Rejection, Row, RowRejected
from cache_sidecar.importer.prices import FRACTION_DIGITS, amount_columns, nano_units
from cache_sidecar.importer.record_reader import Header
from cache_sidecar.importer.spec import TableRow

FORMAT = "online-retail"
CURRENCY = "GBP"
HEADER = Header(
    {
        "stock_code": (),
        "invoice_date": (),
        "description": (),
        "price": ("UnitPrice",),
        "invoice": ("InvoiceNo",),
        "quantity": (),
        "customer_id": (),
        "country": (),
    },
    required=("stock_code", "invoice_date", "description", "price"),
    # Copies of the data set have the pound sign in either.
    encodings=("utf-8", "cp1252"),
    # Copies made with pandas begin with a column without a name.
    extra=True,
)

# Stock codes of bookings that are not products.
PSEUDO_CODES = {
    "ADJUST": "an adjustment",
    "ADJUST2": "an adjustment",
    "AMAZONFEE": "a fee of Amazon's",
    "B": "a bad debt",
    "BANK CHARGES": "bank charges",
    "C2": "carriage",
    "C3": "carriage",
    "CRUK": "a commission of Cancer Research UK's",
    "D": "a discount",
    "DOT": "postage of dotcom orders",
    "GIFT": "a gift voucher",
    "M": "a manual booking",
    "PADS": "pads that match other products",
    "POST": "postage",
    "S": "samples",
    "TEST001": "a test",
    "TEST002": "a test",
}
_VOUCHER = re.compile(r"GIFT_\d+_\d+")
# The prefix of products without digits, such as DCGSSBOY, a party bag.
_STOCK_WITHOUT_DIGITS = "DCGS"

_DATE = re.compile(
    r"(\d{1,4})([-/.])(\d{1,2})\2(\d{1,4})(?:[ T](\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?(?: ?([AP]M))?)?Z?",
    re.IGNORECASE,
)
# 2,55 occurs in copies delimited by semicolons; 1,234.50 does not occur.
_DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")
_BINARY_FRACTION = re.compile(r"-?[0-9]{1,12}\.[0-9]{10,40}")
_PENNY = 10**7
_MOST_PIECES = 10**9
_NANO = Decimal(1).scaleb(-FRACTION_DIGITS)


@dataclass(slots=True)
class _Seen:
    """What is known of a product. Its size grows with the distinct prices, not with the order lines."""

    line: int
    prices: Counter[int] = field(default_factory=Counter)
    title: str = ""
    newest: datetime = datetime.min  # noqa: DTZ901  # the data has no time zones


class OrderLines:
    """Aggregates order lines to products."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def add(self, row: Row) -> None:
        """Adds an order line. Raises RowRejected, also for a line that is not of a product."""
        cells = row.values
        code = stock_code(cells["stock_code"])
        price = _nanos(cells["price"].strip())
        time = _time(cells["invoice_date"].strip())
        title = check_text("description", cells["description"].strip(), MAX_TITLE_CHARACTERS)
        seen = self._seen.get(code)
        if seen is None:
            seen = self._seen[code] = _Seen(row.number)
        if price > 0:
            seen.prices[price] += 1
        # A line without price and customer is a note of the warehouse: "damages", "thrown away", "?".
        if title and time >= seen.newest and (price > 0 or cells.get("customer_id", "").strip()):
            seen.title, seen.newest = title, time

    def rows(self) -> Iterator[TableRow | Rejection]:
        """Yields each product, or why it is skipped, in the order of their first lines."""
        for code, seen in self._seen.items():
            if not seen.prices:
                yield Rejection(seen.line, "no_price", f"{code} was never sold for a price", code.encode(), left_out=True)
            elif not seen.title:
                yield Rejection(seen.line, "no_description", f"{code} has no description", code.encode(), left_out=True)
            else:
                yield {"product_id": code, "title": seen.title, "currency_code": CURRENCY} | amount_columns(median(seen.prices))


class Sale(NamedTuple):
    """An order line by which a product was sold."""

    invoice: str
    time: datetime
    customer_id: str
    "Empty if unknown."
    product_id: str
    quantity: int
    price: int
    "Of a piece, in billionths."
    title: str
    "The line's description, as it is; empty if it has none."


def sale(cells: Mapping[str, str]) -> Sale:
    """Returns what was sold by an order line; `cells` has invoice, quantity and customer_id, too.

    Raises RowRejected for an invalid line, for one of a cancelled invoice, for one whose quantity or price is not above zero,
    and for one that is not of a product.
    """
    invoice = cells["invoice"].strip()
    if invoice.upper().startswith("C"):
        raise RowRejected("cancelled", f"is of the cancelled invoice {invoice[:60]}", left_out=True)
    code = stock_code(cells["stock_code"])
    try:
        quantity = Decimal(cells["quantity"].strip())
    except InvalidOperation:
        raise RowRejected("quantity", f"has an invalid quantity: {cells['quantity'][:60]!r}") from None
    price = _nanos(cells["price"].strip())
    if not quantity > 0 or not price > 0:
        raise RowRejected("not_sold", "has a quantity or a price that is not above zero", left_out=True)
    return Sale(
        invoice,
        _time(cells["invoice_date"].strip()),
        cells["customer_id"].strip().removesuffix(".0"),
        code,
        # A share of a piece is one, and infinity is what a file may say, too.
        max(1, int(quantity)) if quantity < _MOST_PIECES else _MOST_PIECES,
        price,
        cells.get("description", "").strip(),
    )


def stock_code(cell: str) -> str:
    """Returns the product id of a stock code: stripped, and in capitals, as 85123a and 85123A are the same product.

    Raises RowRejected for an invalid id, and for a code that is not a product's.
    """
    code = cell.strip().upper()
    what = PSEUDO_CODES.get(code) or ("a gift voucher" if _VOUCHER.fullmatch(code) else None)
    if code and not what and not any(map(str.isdigit, code)) and not code.startswith(_STOCK_WITHOUT_DIGITS):
        what = "a booking: stock codes have digits"
    if what:
        raise RowRejected("pseudo_code", f"is not a product: {code} is {what}", left_out=True)
    check_id("product_id", code)
    return code


def median(prices: Counter[int]) -> int:
    """Returns the median of counted prices, in billionths.

    The mean of two middle prices is rounded half up to a penny, unless they are finer themselves.
    """
    ordered = sorted(prices)
    up_to = list(accumulate(prices[price] for price in ordered))
    low, high = (ordered[bisect_right(up_to, middle)] for middle in ((up_to[-1] - 1) // 2, up_to[-1] // 2))
    if low == high:
        return low
    step = _PENNY if low % _PENNY == high % _PENNY == 0 else 1
    return (low + high + step) // (2 * step) * step


@lru_cache(maxsize=4096)
def _nanos(cell: str) -> int:
    if cell == "":
        raise RowRejected("missing_field", "has no price")
    number = cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell
    # A spreadsheet may write 2.55 as 2.5499999999999998.
    if _BINARY_FRACTION.fullmatch(number):
        number = format(Decimal(number).quantize(_NANO), "f")
    return nano_units(number)


@lru_cache(maxsize=1024)
def _time(cell: str) -> datetime:
    """Parses times such as `2010-12-01 08:26:00`, `12/1/2010 8:26` and `01-12-2010 08:26`.

    With slashes the month comes first, as in the original, unless it is above 12; with dashes and dots the day does.
    """
    parts = _DATE.fullmatch(cell)
    if parts is None:
        raise RowRejected("invoice_date", f"has an invalid invoice date: {cell[:60]!r}")
    first, last = int(parts[1]), int(parts[4])
    if len(parts[1]) == 4:
        year, month, day = first, int(parts[3]), last
    else:
        year, month, day = last, first, int(parts[3])
        if parts[2] != "/" or month > 12:
            month, day = day, month
    hour = int(parts[5] or 0)
    if parts[8]:
        hour = hour % 12 + (12 if parts[8].upper() == "PM" else 0)
    try:
        return datetime(year + 2000 if year < 100 else year, month, day, hour, int(parts[6] or 0), int(parts[7] or 0))  # noqa: DTZ001
    except ValueError:
        raise RowRejected("invoice_date", f"has an invalid invoice date: {cell[:60]!r}") from None
