"""Reads the purchases of a file of order lines in the format of the UCI data sets Online Retail and Online Retail II."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC
from typing import NamedTuple

from cache_sidecar.importer.online_retail import FORMAT, HEADER, Sale, sale
from cache_sidecar.importer.parsers import Rejection, Row, RowRejected
from cache_sidecar.importer.record_reader import RecordReader
from cache_sidecar.importer.source import Source
from cache_sidecar.recommendations.model import PURCHASE, Event

_HEADER = HEADER._replace(required=tuple(HEADER.names.keys() - {"country", "description"}))


class Purchases(NamedTuple):
    """What a file contains."""

    events: list[Event]
    "One for each invoice, by time, with the products in the order of their lines, each once."
    lines: int
    left_out: Counter[str]
    "Lines that are in no event, by reason."


class Sales(NamedTuple):
    """The order lines of a file by which something was sold."""

    sales: list[Sale]
    lines: int
    left_out: Counter[str]
    "Lines that are not of a sale, by reason."


async def read_purchases(source: str) -> Purchases:
    """Reads a file, or standard input for `-`. Raises InputError for a file that is in another format."""
    found = await read_sales(source)
    return Purchases(_events(found.sales), found.lines, found.left_out)


async def read_sales(source: str) -> Sales:
    """Reads a file as `read_purchases` does, with each line's quantity and price."""
    with Source(source) as opened:
        reader = RecordReader(opened, {FORMAT: _HEADER}, format=FORMAT)
        await reader.start()
        sales: list[Sale] = []
        lines, left_out = 0, Counter[str]()
        async for records in reader.batches():
            for record in records:
                lines += 1
                try:
                    sales.append(_sale(record))
                except RowRejected as error:
                    left_out[error.reason] += 1
    return Sales(sales, lines, left_out)


def _sale(record: Row | Rejection) -> Sale:
    if isinstance(record, Rejection):
        raise RowRejected(record.reason, record.message)
    return sale(record.values)


def _events(sales: Iterable[Sale]) -> list[Event]:
    invoices: dict[str, tuple[Sale, dict[str, None]]] = {}
    for one in sales:
        invoices.setdefault(one.invoice, (one, {}))[1][one.product_id] = None
    # The data has no time zones; which one is taken makes no difference.
    ordered = sorted((first.time.replace(tzinfo=UTC).timestamp(), id, first, ids) for id, (first, ids) in invoices.items())
    return [
        Event(position, id, time, first.customer_id, PURCHASE, tuple(product_ids))
        for position, (time, id, first, product_ids) in enumerate(ordered, 1)
    ]
