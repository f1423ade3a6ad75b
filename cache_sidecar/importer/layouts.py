"""The layouts in which Shopify, WooCommerce and Magento export products: their cells in, those of our CSV out. Pure.

None of them has a currency: `--currency` says what it is.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.record_reader import Header

Cells = Mapping[str, str]
Convert = Callable[[Cells], dict[str, str]]

SHOPIFY, WOOCOMMERCE, MAGENTO = "shopify", "woocommerce", "magento"
_SEPARATOR = "|"
_COMMA = re.compile(r"(?<!\\),")


class Layout(NamedTuple):
    """A shop's own layout."""

    products: Header
    inventory: Header
    convert: Callable[[], Convert]
    "Returns a function that remembers what later rows of a product leave out."


def _header(names: Mapping[str, tuple[str, ...]], *required: str) -> Header:
    # What is required first is what our own CSV does not have.
    return Header(names, required, extra=True, is_layout=True)


_SHOPIFY_OF_PRODUCT = ("title", "description", "brand", "category", "published", "status")


def _shopify() -> Convert:
    """Rows of one handle are the variants of a product, and further images; only the first has the title."""
    last: dict[str, str] = {}

    def convert(cells: Cells) -> dict[str, str]:
        row = {name: cell.strip() for name, cell in cells.items()}
        if row["handle"] and row["handle"] == last.get("handle") and not row["title"]:
            row |= {name: last[name] for name in _SHOPIFY_OF_PRODUCT if name in last}
        else:
            last.clear()
            last.update({name: row[name] for name in ("handle", *_SHOPIFY_OF_PRODUCT) if name in row})
        if not row["product_id"] and not row["price"]:
            raise RowRejected("no_product", "has only another image of a product", left_out=True)
        options = [row.get(f"option{number}", "") for number in (1, 2, 3)]
        variant = " / ".join(option for option in options if option and option != "Default Title")
        active = row.get("status", "").lower() in {"", "active"} and row.get("published", "").lower() in {"", "true"}
        return {
            "product_id": row["product_id"],
            "title": f"{row['title']} - {variant}" if variant else row["title"],
            "price": row["price"],
            "currency_code": row["currency_code"],
            "active": "true" if active else "false",
        } | _present(row, description="description", brand="brand", categories="category", image_uris="image")

    return convert


def _woocommerce() -> Convert:
    """The position of a variation is one among those of its product, whose row is before it."""
    positions: dict[str, str] = {}

    def convert(cells: Cells) -> dict[str, str]:
        row = {name: cell.strip() for name, cell in cells.items()}
        if "rank" in row and row["type"] == "variation":
            row["rank"] = positions.get(row.get("parent", ""), "")
        elif "rank" in row and not row["price"]:
            positions.update({row["product_id"]: row["rank"], f"id:{row.get('id', '')}": row["rank"]})
        if not row["price"]:
            raise RowRejected("no_price", "has no price, as a product whose variations have it", left_out=True)
        lists = {name: _items(row[name]) for name in ("categories", "image_uris") if name in row}
        made = {name: row[name] for name in ("product_id", "title", "price", "currency_code")}
        made |= {"active": "true" if row.get("published", "1") == "1" else "false"}
        return made | _present(row, description="description", rank="rank") | lists

    return convert


def _magento() -> Convert:
    def convert(cells: Cells) -> dict[str, str]:
        row = {name: cell.strip() for name, cell in cells.items()}
        if row["store_view"]:
            raise RowRejected("store_view", "has only the texts of another store view", left_out=True)
        if not row["price"]:
            raise RowRejected("no_price", "has no price, as a product whose variants have it", left_out=True)
        made = {name: row[name] for name in ("product_id", "title", "price", "currency_code")}
        made |= {"active": "true" if row.get("online", "1") == "1" else "false"}
        lists = {"categories": _items(row["categories"])} if "categories" in row else {}
        return made | _present(row, description="description") | lists

    return convert


def _items(cell: str) -> str:
    """Returns a list with our separator instead of commas, of which those in a name are escaped."""
    return _SEPARATOR.join(item.strip().replace("\\,", ",") for item in _COMMA.split(cell))


def _present(row: Mapping[str, str], **names: str) -> dict[str, str]:
    return {ours: row[theirs] for ours, theirs in names.items() if theirs in row}


def stock(cells: Cells) -> dict[str, str]:
    """Returns the cells of our CSV with stock."""
    if not cells["available"].strip():
        raise RowRejected("not_stocked", "has no stock, which the shop does not manage", left_out=True)
    if cells.get("store_view", "").strip():
        raise RowRejected("store_view", "has only the texts of another store view", left_out=True)
    return {"product_id": cells["product_id"], "available": cells["available"]}


_SKU = {"product_id": ("sku",), "currency_code": ()}
LAYOUTS = {
    SHOPIFY: Layout(
        _header(
            {
                "handle": ("URL handle",),
                "product_id": ("Variant SKU", "SKU"),
                "title": (),
                "price": ("Variant Price",),
                "currency_code": (),
                "description": ("Body (HTML)",),
                "brand": ("Vendor",),
                "category": ("Type",),
                "published": ("Published on online store",),
                "status": (),
                "image": ("Image Src", "Product image URL"),
                "option1": ("Option1 Value",),
                "option2": ("Option2 Value",),
                "option3": ("Option3 Value",),
            },
            *("handle", "product_id", "title", "price", "currency_code"),
        ),
        _header(
            {
                "handle": ("URL handle",),
                "product_id": ("Variant SKU", "SKU"),
                "available": ("Variant Inventory Qty", "Inventory quantity"),
            },
            *("handle", "product_id", "available"),
        ),
        _shopify,
    ),
    WOOCOMMERCE: Layout(
        _header(
            _SKU
            | {
                "type": (),
                "title": ("Name",),
                "price": ("Regular price",),
                "published": (),
                "description": (),
                "categories": (),
                "image_uris": ("Images",),
                "rank": ("Position",),
                "parent": (),
                "id": (),
            },
            *("type", "product_id", "title", "price", "currency_code"),
        ),
        _header({"type": (), "product_id": ("sku",), "available": ("Stock",)}, "type", "product_id", "available"),
        _woocommerce,
    ),
    MAGENTO: Layout(
        _header(
            _SKU
            | {
                "store_view": ("store_view_code",),
                "title": ("name",),
                "price": (),
                "online": ("product_online",),
                "description": (),
                "categories": (),
            },
            *("store_view", "product_id", "title", "price", "currency_code"),
        ),
        _header(
            {"store_view": ("store_view_code",), "product_id": ("sku",), "available": ("qty",)},
            *("store_view", "product_id", "available"),
        ),
        _magento,
    ),
}
