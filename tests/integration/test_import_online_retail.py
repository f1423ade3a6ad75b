"""Products out of order lines: invented ones, and the real data where it is at hand."""

import csv
import gzip
import io
import os
import statistics
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cache_sidecar.importer.report import ImportReport
from tests.support.imports import import_file

TOP = Path(__file__).parent.parent.parent
FIXTURES = TOP / "tests" / "fixtures"
REAL = TOP.parent / "shared" / "data" / "online-retail"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the Online Retail data is not in ../shared/data/online-retail")


async def run(dsn: str, source: Path, folder: Path) -> ImportReport:
    return await import_file("products", source, dsn, rejects=folder / "rejected.csv")


def titles_and_prices(dsn: str) -> dict[str, tuple[str, Decimal, str]]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT product_id, title, price_units + price_nanos / 1e9::numeric, currency_code FROM cache_sidecar.products"
        )
        return {id: (title, price, currency) for id, title, price, currency in rows}


def rejected(folder: Path) -> list[dict[str, str]]:
    with (folder / "rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


async def test_order_lines(database: str, tmp_path: Path) -> None:
    report = await run(database, FIXTURES / "orders.csv", tmp_path)
    assert titles_and_prices(database) == {
        "90001A": ("BLUE TIN KITE LARGE", Decimal("2.5"), "GBP"),
        "90002": ("SET OF 3 PAPER BOATS", Decimal("4.25"), "GBP"),
        "90003": ("GARDEN GNOME, HENRY", Decimal("12.88"), "GBP"),
        "90006": ("FREE CATALOGUE", Decimal(1), "GBP"),
        "DCGSXKITE": ("KITE PARTY BAG", Decimal("3.29"), "GBP"),
    }
    assert (report.format, report.rows_read, report.written, report.exit_code) == ("online-retail", 19, 5, 0)
    assert report.left_out == {"pseudo_code": 6, "no_price": 1, "no_description": 1}
    assert report.rejects == tmp_path / "rejected.csv"
    assert [(int(row["line"]), row["reason"]) for row in rejected(tmp_path)] == [
        *((line, "pseudo_code") for line in (4, 14, 15, 16, 17, 18)),
        (12, "no_price"),
        (13, "no_description"),
    ]


async def test_dirty_order_lines(database: str, tmp_path: Path) -> None:
    report = await run(database, FIXTURES / "orders_dirty.csv", tmp_path)
    assert titles_and_prices(database) == {
        "91001": ("RED LANTERN", Decimal("2.5"), "GBP"),
        "91002": ("GREEN LANTERN", Decimal("3.5"), "GBP"),
    }
    assert report.rejected == {"price": 1, "invoice_date": 2, "missing_field": 2, "column_count": 1, "not_csv": 1}
    assert report.left_out == {"pseudo_code": 1}
    assert report.exit_code == 1


async def test_a_copy_out_of_a_spreadsheet(database: str, tmp_path: Path) -> None:
    report = await run(database, FIXTURES / "orders_excel.csv", tmp_path)
    assert titles_and_prices(database) == {"92001": ("SILVER STAR, SMALL", Decimal("2.55"), "GBP")}
    assert (report.format, report.rows_read, report.exit_code) == ("online-retail", 3, 0)


async def test_a_copy_in_latin_1(database: str, tmp_path: Path) -> None:
    await run(database, FIXTURES / "orders_latin1.csv", tmp_path)
    assert {id: title for id, (title, _, _) in titles_and_prices(database).items()} == {
        "92002": "CRÈME BRÛLÉE SET £20",
        "92003": "CAFÉ TRAY",
    }


def expected(text: str) -> dict[str, tuple[str, Decimal]]:
    """The same deduction, as plainly as it can be written down."""
    lines: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for line in csv.DictReader(io.StringIO(text, newline="")):
        lines[line["StockCode"].strip().upper()].append(line)
    found = {}
    for code, sold in lines.items():
        prices = [Decimal(line["UnitPrice"]) for line in sold if Decimal(line["UnitPrice"]) > 0]
        described = [
            line for line in sold if line["Description"].strip() and (Decimal(line["UnitPrice"]) > 0 or line["CustomerID"])
        ]
        stock = any(character.isdigit() for character in code) or code.startswith("DCGS")
        if prices and described and stock and code != "C2" and not code.startswith("GIFT_"):
            newest = max(described, key=lambda line: line["InvoiceDate"])["InvoiceDate"]
            last = [line for line in described if line["InvoiceDate"] == newest][-1]
            found[code] = (last["Description"].strip(), statistics.median(prices))
    return found


@real_data
async def test_the_real_orders(database: str, tmp_path: Path) -> None:
    (path,) = REAL.glob("*.csv.gz")
    report = await run(database, path, tmp_path)
    found: dict[str, Any] = titles_and_prices(database)
    assert found["85123A"][0] == "WHITE HANGING HEART T-LIGHT HOLDER"
    wanted = expected(gzip.decompress(path.read_bytes()).decode())
    assert {id: title for id, (title, _, _) in found.items()} == {id: title for id, (title, _) in wanted.items()}
    assert all(abs(found[id][1] - price) <= Decimal("0.005") for id, (_, price) in wanted.items())
    assert (report.rows_read, report.written, report.exit_code) == (105_335, len(wanted), 0)
    assert len(wanted) > 3000
    reasons = {row["reason"] for row in rejected(tmp_path)}
    assert reasons == {"pseudo_code", "no_price"} == set(report.left_out)


@real_data
async def test_the_real_orders_again_change_nothing(database: str, tmp_path: Path) -> None:
    (path,) = REAL.glob("*.csv.gz")
    first = await run(database, path, tmp_path)
    before = titles_and_prices(database)
    again = await run(database, path, tmp_path)
    assert (again.written, again.unchanged) == (0, first.written)
    assert titles_and_prices(database) == before
    assert not os.access(tmp_path / "rejected.csv.partial", os.F_OK)
