"""What order lines in the UCI Online Retail format do to the stock, invoice by invoice."""

import csv
import gzip
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cache_sidecar.importer import online_retail
from cache_sidecar.importer.parsers import RowRejected


@dataclass
class Invoice:
    """What one invoice does to the stock; pieces by product."""

    number: str
    sold: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    "By a cancellation."
    lost: Counter[str] = field(default_factory=Counter)
    "Negative lines of what is no cancellation: the warehouse wrote them off."


def invoices(file: Path, limit: int | None = None) -> list[Invoice]:
    """Returns the invoices of a file, plain or gzip, in its order, or the first so many of them.

    Lines without a product behind them are left out. The lines of an invoice stand together.
    """
    found: dict[str, Invoice] = {}
    for row in _rows(file):
        try:
            product_id = online_retail.stock_code(row["StockCode"])
        except RowRejected:
            continue
        number, quantity = row["InvoiceNo"], int(row["Quantity"])
        if len(found) == limit and number not in found:
            break
        invoice = found.setdefault(number, Invoice(number))
        kind = invoice.returned if number.startswith("C") else invoice.sold if quantity > 0 else invoice.lost
        kind[product_id] += abs(quantity)
    return list(found.values())


def _rows(file: Path) -> Iterator[dict[str, str]]:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)


def start_of(replayed: Iterable[Invoice]) -> Counter[str]:
    """Returns the stock to begin with: enough for every sale, whatever order they come in."""
    start: Counter[str] = Counter()
    for invoice in replayed:
        # Not `+=`, which drops what is 0.
        for quantities in (invoice.sold, invoice.lost, dict.fromkeys(invoice.returned, 0)):
            start.update(quantities)
    return start


def end_of(replayed: Iterable[Invoice]) -> dict[str, int]:
    """Returns the stock there has to be at the end: of what was there only what came back."""
    replayed = list(replayed)
    end = dict.fromkeys(start_of(replayed), 0)
    for invoice in replayed:
        for product_id, quantity in invoice.returned.items():
            end[product_id] += quantity
    return end
