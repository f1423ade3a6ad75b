"""What a row has to be to become the stock of a product, and the import of such rows."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache_sidecar.importer.fields import check_id, named
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.progress import Progress
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Columns
from cache_sidecar.importer.report import ImportReport
from cache_sidecar.importer.run import ImportSpec, import_rows
from cache_sidecar.store.bulk import BulkInventory
from cache_sidecar.store.inventory import MAX_AVAILABLE

REQUIRED = ("product_id", "available")
# What warehouses call it.
CSV_COLUMNS = Columns({"product_id": ("sku",), "available": ("stock", "quantity", "on_hand")}, REQUIRED)
FORMATS = (CSV, JSON_LINES)
# What a server says of stock in its replies, and nobody else decides.
_IGNORED = {"reserved", "bucket_count", "etag", "update_time"}
_WHOLE = re.compile("[0-9]{1,16}")

Stock = dict[str, Any]


async def import_inventory(
    *, source: str, dsn: str, format: str | None, rejects: Path | None, progress: Progress | None
) -> ImportReport:
    """Imports how many pieces of products are available; see `importer.run.import_rows`."""
    return await import_rows(INVENTORY, source=source, dsn=dsn, format=format, rejects=rejects, progress=progress)


def from_csv(cells: Mapping[str, str]) -> Stock:
    """Returns the columns that a CSV row gives; blanks around a value are not part of it. Raises RowRejected."""
    product_id, available = cells["product_id"].strip(), cells["available"].strip()
    if available == "":
        raise RowRejected("missing_field", "has no available")
    # A spreadsheet may write 12 as 12.0.
    whole = available.removesuffix(".0")
    if not _WHOLE.fullmatch(whole):
        raise RowRejected("available", f"has an available that is no whole number from 0: {available[:60]!r}")
    return _stock(product_id, int(whole))


def from_json(value: Mapping[str, Any]) -> Stock:
    """Returns the columns that a JSON object gives, named as in the proto or its JSON mapping. Raises RowRejected."""
    values = named(value, known=REQUIRED, ignored=_IGNORED)
    available = values.get("available")
    if available is None:
        raise RowRejected("missing_field", "has no available")
    # The JSON mapping of protos writes 64-bit numbers as strings.
    if isinstance(available, str) and _WHOLE.fullmatch(available):
        available = int(available)
    if isinstance(available, bool) or not isinstance(available, int) or available < 0:
        raise RowRejected("available", f"has an available that is no whole number from 0: {str(available)[:60]!r}")
    return _stock(values.get("product_id"), available)


def _stock(product_id: Any, available: int) -> Stock:
    check_id("product_id", product_id)
    if available > MAX_AVAILABLE:
        raise RowRejected("available", f"has an available above {MAX_AVAILABLE:,}: {available}")
    return {"product_id": product_id, "available": available}


INVENTORY = ImportSpec(
    name="inventory",
    bulk=BulkInventory,
    dialects={CSV: CSV_COLUMNS},
    rules={CSV: from_csv, JSON_LINES: from_json},
)
