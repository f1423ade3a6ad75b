"""The effect of order lines in the UCI Online Retail format on the stock, invoice by invoice."""

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
    """The effect of one invoice on the stock: pieces by product."""

    number: str
    sold: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    "By a cancellation."
    lost: Counter[str] = field(default_factory=Counter)
    "Negative lines outside of cancellations, which the warehouse wrote off."


def invoices(file: Path, limit: int | None = None) -> list[Invoice]:
    """Returns the invoices of a file, plain or gzip, in its order, or the first ones.

    Lines without a product are left out. The lines of an invoice are contiguous.
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
    """Returns the initial stock: enough for all sales, in any order."""
    start: Counter[str] = Counter()
    for invoice in replayed:
        # Not `+=`, which drops zeros.
        for quantities in (invoice.sold, invoice.lost, dict.fromkeys(invoice.returned, 0)):
            start.update(quantities)
    return start


def end_of(replayed: Iterable[Invoice]) -> dict[str, int]:
    """Returns the expected final stock: returned pieces only."""
    replayed = list(replayed)
    end = dict.fromkeys(start_of(replayed), 0)
    for invoice in replayed:
        for product_id, quantity in invoice.returned.items():
            end[product_id] += quantity
    return end
