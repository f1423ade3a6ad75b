"""Imports how many pieces of products are available."""

import re
from collections.abc import Mapping
from typing import Any

from cache_sidecar.importer import layouts
from cache_sidecar.importer.fields import check_id, fields_of
from cache_sidecar.importer.layouts import LAYOUTS
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Header
from cache_sidecar.importer.spec import ImportSpec, TableRow
from cache_sidecar.store.bulk import BulkInventory
from cache_sidecar.store.inventory import MAX_AVAILABLE

REQUIRED = ("product_id", "available")
# With the names that warehouses use.
CSV_HEADER = Header({"product_id": ("sku",), "available": ("stock", "quantity", "qty", "on_hand")}, REQUIRED)
# Output-only fields of the API.
_IGNORED = {"reserved", "bucket_count", "etag", "update_time"}
_WHOLE = re.compile("[0-9]{1,16}")


def from_csv(cells: Mapping[str, str]) -> TableRow:
    """Returns the columns of a CSV row, stripped. Raises RowRejected."""
    product_id, available = cells["product_id"].strip(), cells["available"].strip()
    if available == "":
        raise RowRejected("missing_field", "has no available")
    # A spreadsheet may write 12 as 12.0, and Magento as 12.0000.
    whole = re.sub(r"\.0*$", "", available)
    if not _WHOLE.fullmatch(whole):
        raise RowRejected("available", f"available must be an integer from 0, not {available[:60]!r}")
    return _stock(product_id, int(whole))


def from_json(value: Mapping[str, Any]) -> TableRow:
    """Returns the columns of a JSON object, named as in the proto or its JSON mapping. Raises RowRejected."""
    values = fields_of(value, known=REQUIRED, ignored=_IGNORED)
    available = values.get("available")
    if available is None:
        raise RowRejected("missing_field", "has no available")
    # The JSON mapping of protos writes 64-bit numbers as strings.
    if isinstance(available, str) and _WHOLE.fullmatch(available):
        available = int(available)
    if isinstance(available, bool) or not isinstance(available, int) or available < 0:
        raise RowRejected("available", f"available must be an integer from 0, not {str(available)[:60]!r}")
    return _stock(values.get("product_id"), available)


def _stock(product_id: Any, available: int) -> TableRow:
    check_id("product_id", product_id)
    if available > MAX_AVAILABLE:
        raise RowRejected("available", f"available must be at most {MAX_AVAILABLE:,}, not {available}")
    return {"product_id": product_id, "available": available}


IMPORT = ImportSpec(
    name="inventory",
    description="the available quantity of products",
    bulk=BulkInventory,
    headers={**{name: layout.inventory for name, layout in LAYOUTS.items()}, CSV: CSV_HEADER},
    parsers=lambda _: {
        CSV: from_csv,
        JSON_LINES: from_json,
        **dict.fromkeys(LAYOUTS, lambda cells: from_csv(layouts.stock(cells))),
    },
    has_whole_rows=True,
)
