"""`import products` against a real PostgreSQL: what ends up in the table, the outbox, the report and the rejects file."""

import asyncio
import csv
import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError
from cache_sidecar.importer.report import ImportReport
from cache_sidecar.importer.run import BATCH_ROWS, ImportOptions
from cache_sidecar.store import bulk
from tests.support.imports import import_file
from tests.support.until import until

FIXTURES = Path(__file__).parent.parent / "fixtures"
DRY, DELETE = ImportOptions(is_dry_run=True), ImportOptions(deletes_missing=True)
MAPPED = ImportOptions(names={"nr": "product_id", "name": "title", "cost": "price"}, currency="EUR")
SHOWN = (
    "product_id, title, description, price_units, price_nanos, currency_code, categories, brand, image_uris, attributes, active"
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def query(dsn: str, text: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(sql.SQL(text), parameters)
        return cursor.fetchall() if cursor.description else []


async def run(dsn: str, source: Path | str, **options: Any) -> ImportReport:
    return await import_file("products", source, dsn, **options)


def write(name: str, data: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def rejected(path: Path) -> list[tuple[int, str]]:
    with path.open(newline="") as file:
        return [(int(row["line"]), row["reason"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["products.csv", "products.jsonl"])
async def test_products_from_a_file(database: str, name: str) -> None:
    report = await run(database, FIXTURES / name)
    assert query(database, f"SELECT {SHOWN} FROM cache_sidecar.products ORDER BY product_id") == [
        ("BOAT-3", "Set of 3 Paper Boats", "", 4, 500_000_000, "EUR", ["Toys"], "", [], {}, True),
        ("GNOME-7", 'Garden Gnome "Henry"', "Keeps watch.", 0, 999_999_999, "GBP", ["Garden"], "", [], {}, False),
        (
            "KITE-1",
            "Blue Tin Kite",
            "Flies in any wind.\nComes with 30 m of line.",
            24,
            990_000_000,
            "EUR",
            ["Toys", "Outdoor"],
            "Aerial & Sons",
            ["https://images.example.com/kite-1.jpg", "https://images.example.com/kite-1b.jpg"],
            {"colour": "blue", "weight": "320 g"},
            True,
        ),
        ("TEA-100", "Thé vert 抹茶", "", 1_000_000, 0, "JPY", [], "Thés d'ailleurs", [], {"poids": "100 g"}, True),
    ]
    assert (report.rows_read, report.written, report.unchanged, report.exit_code) == (4, 4, 0, 0)
    assert report.rejects is None
    assert list(Path.cwd().iterdir()) == []


async def test_a_second_import_changes_nothing_and_tells_nobody(database: str) -> None:
    await run(database, FIXTURES / "products.csv")
    before = query(database, "SELECT * FROM cache_sidecar.products ORDER BY 1"), query(database, "TABLE cache_sidecar.outbox")
    report = await run(database, FIXTURES / "products.csv")
    assert (report.written, report.unchanged) == (0, 4)
    assert before == (
        query(database, "SELECT * FROM cache_sidecar.products ORDER BY 1"),
        query(database, "TABLE cache_sidecar.outbox"),
    )


async def test_changes_go_through_the_outbox_like_any_write(database: str) -> None:
    head = "product_id,title,price,currency_code\n"
    await run(database, write("first.csv", head + "A,One,1,EUR\nB,Two,2,EUR\n"))
    await run(database, write("second.csv", head + "A,One,1,EUR\nB,Two,2.5,EUR\nC,Three,3,EUR\n"))
    changes = query(database, "SELECT id, kind, version FROM cache_sidecar.outbox ORDER BY version")
    assert [change[:2] for change in changes] == [("A", "created"), ("B", "created"), ("B", "updated"), ("C", "created")]
    versions = dict(query(database, "SELECT product_id, version FROM cache_sidecar.products"))
    assert versions == {id: version for id, _, version in changes}
    ((created, updated),) = query(
        database, "SELECT create_time, update_time FROM cache_sidecar.products WHERE product_id = 'B'"
    )
    assert updated > created


async def test_columns_that_are_not_in_the_file_keep_what_they_have(database: str) -> None:
    await run(database, FIXTURES / "products.csv")
    before = query(database, "SELECT description, brand, attributes, active FROM cache_sidecar.products ORDER BY product_id")
    ids = ("BOAT-3", "GNOME-7", "KITE-1", "TEA-100")
    await run(database, write("p.csv", "product_id,title,price,currency_code\n" + "".join(f"{id},New,7,USD\n" for id in ids)))
    assert query(database, "SELECT DISTINCT title, price_units, currency_code FROM cache_sidecar.products") == [
        ("New", 7, "USD")
    ]
    assert before == query(
        database, "SELECT description, brand, attributes, active FROM cache_sidecar.products ORDER BY product_id"
    )


async def test_of_several_rows_for_a_product_the_last_one_counts_in_what_it_says(database: str) -> None:
    rows = [
        {"product_id": "A", "title": "One", "price": "1", "currency_code": "EUR", "brand": "Kept"},
        {"product_id": "B", "title": "Other", "price": "1", "currency_code": "EUR"},
        {"product_id": "A", "title": "Two", "price": "2", "currency_code": "EUR", "active": False},
    ]
    report = await run(database, write("p.jsonl", "\n".join(map(json.dumps, rows))))
    assert query(database, "SELECT title, price_units, brand, active FROM cache_sidecar.products ORDER BY product_id") == [
        ("Two", 2, "Kept", False),
        ("Other", 1, "", True),
    ]
    assert (report.rows_read, report.written) == (3, 2)
    assert query(database, "SELECT count(*) FROM cache_sidecar.outbox") == [(2,)]


async def test_dirty_csv_is_rejected_row_by_row(database: str) -> None:
    report = await run(database, FIXTURES / "products_dirty.csv")
    assert query(database, "SELECT product_id, active FROM cache_sidecar.products ORDER BY 1") == [
        ("GOOD-1", True),
        ("GOOD-2", True),
        ("GOOD-3", False),
    ]
    assert report.rejects == Path("products_dirty.csv.rejected.csv")
    lines = (FIXTURES / "products_dirty.csv").read_text().splitlines()
    assert {number for number, _ in rejected(report.rejects)} == {
        number for number, line in enumerate(lines, start=1) if number > 1 and "GOOD" not in line
    }
    assert report.rejected == {
        "missing_field": 3,
        "price": 5,
        "currency_code": 1,
        "active": 1,
        "wrong_type": 2,
        "attributes": 1,
        "column_count": 2,
        "not_csv": 2,
    }
    assert (report.rows_read, report.written, report.exit_code) == (20, 3, 1)


async def test_dirty_json_is_rejected_row_by_row(database: str) -> None:
    report = await run(database, FIXTURES / "products_dirty.jsonl", rejects=Path("here.csv"))
    assert query(database, "SELECT product_id FROM cache_sidecar.products ORDER BY 1") == [("GOOD-1",), ("GOOD-2",)]
    assert report.rejects == Path("here.csv")
    assert [number for number, _ in rejected(report.rejects)] == list(range(2, 21))
    assert report.rejected.total() == 19
    assert report.exit_code == 1


async def test_bytes_that_are_no_text_are_rejected_alone(database: str) -> None:
    good = b"%s,Thing,1,EUR\n"
    path = write(
        "p.csv",
        b"\xef\xbb\xbfproduct_id,title,price,currency_code\r\n"
        + good % b"A"
        + good % b"\xff"
        + good % b"nul\0"
        + good % (b"x" * 2_000_000)
        + good % b"B",
    )
    report = await run(database, path)
    assert query(database, "SELECT product_id FROM cache_sidecar.products ORDER BY 1") == [("A",), ("B",)]
    assert rejected(Path("p.csv.rejected.csv")) == [(3, "not_utf8"), (4, "nul_byte"), (5, "line_too_long")]
    assert report.rows_read == 5


async def test_a_cut_off_gzip_file_is_imported_as_far_as_it_goes(database: str) -> None:
    rows = "".join(f"A{number},Thing {number * 7919 % 10007},{number},EUR\n" for number in range(20_000))
    packed = gzip.compress(b"product_id,title,price,currency_code\n" + rows.encode())
    report = await run(database, write("p.csv.gz", packed[: len(packed) // 2]))
    assert report.rejected == {"incomplete": 1}
    assert report.exit_code == 1
    assert 1000 < report.written == report.rows_read - 1
    ((line, _),) = rejected(Path("p.csv.gz.rejected.csv"))
    assert line == report.written + 2
    assert query(database, "SELECT max(price_units)::int, count(*) FROM cache_sidecar.products") == [
        (report.written - 1, report.written)
    ]


async def test_more_rows_than_a_batch(database: str) -> None:
    count = 2 * BATCH_ROWS + 1
    rows = "".join(f"A{number},Thing,{number},EUR\n" for number in range(count))
    report = await run(database, write("p.csv", "product_id,title,price,currency_code\n" + rows))
    assert report.written == count
    # now() is the same within a transaction.
    per_batch = query(database, "SELECT count(*) FROM cache_sidecar.products GROUP BY update_time ORDER BY 1")
    assert per_batch == [(1,), (BATCH_ROWS,), (BATCH_ROWS,)]


async def test_progress_is_told_the_bytes_of_the_file(database: str) -> None:
    told: list[Any] = []

    class Told:
        def start(self, name: str, total_bytes: int | None) -> None:
            told.append((name, total_bytes))

        def advance(self, *, bytes_read: int, rows_read: int) -> None:
            told.append((bytes_read, rows_read))

        def stop(self) -> None:
            told.append("stop")

    size = (FIXTURES / "products.csv").stat().st_size
    await run(database, FIXTURES / "products.csv", progress=Told())
    assert (told[0], told[-2], told[-1]) == (("products.csv", size), (size, 4), "stop")


async def test_two_imports_of_the_same_products_at_once(database: str) -> None:
    lines = [f"A{number},Thing,{number},EUR\n" for number in range(4000)]
    head = "product_id,title,price,currency_code\n"
    there = write("there.csv", head + "".join(lines))
    back = write("back.csv", head + "".join(reversed(lines)))
    reports = await asyncio.gather(run(database, there), run(database, back))
    assert sum(report.written for report in reports) == 4000
    assert query(database, "SELECT count(*) FROM cache_sidecar.outbox") == [(4000,)]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("product_id,title,price,currency_code,colour\n", "there is no column 'colour'; the columns are product_id,"),
        ("product_id,titel,price,currency_code\n", "there is no column 'titel', did you mean title?"),
        ("product_id,title,price\n", "lacks the column currency_code"),
    ],
)
async def test_a_wrong_header_is_said_before_anything_is_read(database: str, header: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        await run(database, write("p.csv", header + "A,Thing,1,EUR,red\n"))
    assert query(database, "SELECT count(*) FROM cache_sidecar.products") == [(0,)]


async def test_an_unknown_format_is_said_with_those_that_there_are(database: str) -> None:
    with pytest.raises(InputError, match="there is no format 'xml' for products: use csv, jsonl, online-retail"):
        await run(database, FIXTURES / "products.csv", format="xml")


async def test_the_rejects_never_overwrite_the_input(database: str) -> None:
    path = write("p.csv", "product_id,title,price,currency_code\n,,,\n")
    with pytest.raises(InputError, match=r"would overwrite p\.csv: name another file for --rejects"):
        await run(database, path, rejects=path)
    assert path.read_text().startswith("product_id")


async def test_a_database_that_is_not_migrated(database: str) -> None:
    query(database, "DROP SCHEMA cache_sidecar CASCADE")
    with pytest.raises(SettingsError, match="run `cache-sidecar migrate` first"):
        await run(database, FIXTURES / "products.csv")


async def test_a_database_that_does_not_answer() -> None:
    with pytest.raises(ServerUnreachable, match="PostgreSQL cannot be used: ") as caught:
        await run("postgresql://nobody:secret@127.0.0.1:1/none", FIXTURES / "products.csv")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_row_that_postgresql_refuses_is_rejected_in_one_line(database: str) -> None:
    query(database, "ALTER TABLE cache_sidecar.products ADD CHECK (product_id <> 'KITE-1')")
    rejects = Path("refused.csv")
    report = await run(database, FIXTURES / "products.csv", rejects=rejects)
    assert (report.written, dict(report.rejected)) == (report.rows_read - 1, {"refused": 1})
    (row,) = csv.DictReader(rejects.read_text().splitlines())
    assert row["message"].startswith('PostgreSQL refused the rows: new row for relation "products"')
    assert "KITE-1" in row["raw"]
    assert query(database, "SELECT count(*) FROM cache_sidecar.products") == [(report.written,)]


async def test_what_postgresql_refuses_of_all_rows_is_said_in_one_line(database: str) -> None:
    query(database, "ALTER TABLE cache_sidecar.products RENAME COLUMN title TO name")
    with pytest.raises(InputError, match='PostgreSQL refused the rows: column "title"') as caught:
        await run(database, FIXTURES / "products.csv")
    assert "\n" not in str(caught.value)


@contextmanager
def fifo() -> Iterator[int]:
    """The writing end of a pipe that is a file called `fifo`."""
    os.mkfifo("fifo")
    # For reading too, so that opening does not wait for the other side.
    writing = os.open("fifo", os.O_RDWR)
    try:
        yield writing
    finally:
        os.close(writing)


def feed(pipe: int, text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(pipe, data[:4096]) :]


async def until_rows(dsn: str, count: int) -> None:
    await until(lambda: query(dsn, "SELECT count(*) FROM cache_sidecar.products") == [(count,)])


ROWS = "".join(f"A{number:05},Thing,{number},EUR\n" for number in range(BATCH_ROWS + 500))


async def test_an_import_that_is_interrupted_leaves_whole_batches_and_no_rejects(database: str) -> None:
    with fifo() as pipe:
        importing = asyncio.create_task(run(database, "fifo"))
        await asyncio.to_thread(feed, pipe, "product_id,title,price,currency_code\nbad\n" + ROWS)
        await until_rows(database, BATCH_ROWS)
        importing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await importing
    assert query(database, "SELECT count(*) FROM cache_sidecar.products") == [(BATCH_ROWS,)]
    assert [path.name for path in Path.cwd().iterdir()] == ["fifo"]


async def test_a_connection_that_breaks_says_how_far_it_came(database: str) -> None:
    with fifo() as pipe:
        importing = asyncio.create_task(run(database, "fifo"))
        await asyncio.to_thread(feed, pipe, "product_id,title,price,currency_code\n" + ROWS)
        await until_rows(database, BATCH_ROWS)
        query(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cache_sidecar import'"
            " AND datname = current_database()",
        )
        await asyncio.to_thread(feed, pipe, ROWS)
        with pytest.raises(
            ServerUnreachable, match=r"\(5,000 products were written before; run the import again for the rest\)"
        ):
            await importing


HEADER = "product_id,title,price,currency_code\n"


def listing(names: str) -> Path:
    return write("list.csv", HEADER + "".join(f"{name},{name},1,EUR\n" for name in names))


def present(dsn: str) -> str:
    return "".join(name for (name,) in query(dsn, "SELECT product_id FROM cache_sidecar.products ORDER BY product_id"))


async def test_a_dry_run_checks_every_row_and_writes_none(database: str) -> None:
    report = await run("postgresql://nobody@localhost:1/none", write("p.csv", HEADER + "A,a,1,EUR\nB,b,x,EUR\n"), options=DRY)
    assert (report.written, report.exit_code, rejected(Path("p.csv.rejected.csv"))) == (1, 1, [(3, "price")])
    assert "1 products can be imported; nothing was written (--dry-run)" in list(report.lines())
    await run(database, listing("AB"))
    report = await run(database, listing("BC"), options=DRY._replace(deletes_missing=True, max_deleted=0.5))
    assert "1 products that are not in it would be deleted" in list(report.lines())
    assert present(database) == "AB"


async def test_products_that_the_file_does_not_have_are_deleted(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PAGE", 2)
    await run(database, listing("ABCDEFGHIJ"))
    query(database, "DELETE FROM cache_sidecar.outbox")
    report = await run(database, listing("ACEFGHIJ"), options=DELETE._replace(max_deleted=0.2))
    assert (report.deleted, report.exit_code, present(database)) == (2, 0, "ACEFGHIJ")
    assert query(database, "SELECT id FROM cache_sidecar.outbox ORDER BY id") == [("B",), ("D",)]


async def test_more_than_the_limit_are_not_deleted(database: str) -> None:
    await run(database, listing("ABCDEFGHIJ"))
    report = await run(database, listing("ABCDEFGHK"), options=DELETE)
    assert (report.deleted, report.exit_code, present(database)) == (None, 1, "ABCDEFGHIJK")
    line = "nothing was deleted: 2 of 10 products are not in list.csv, which is 20.0%; --max-deleted is 10.0%"
    assert line in list(report.lines())


async def test_nothing_is_deleted_if_a_row_was_rejected(database: str) -> None:
    await run(database, listing("AB"))
    report = await run(database, write("p.csv", HEADER + "A,a,1,EUR\nB,b,x,EUR\n"), options=DELETE._replace(max_deleted=1.0))
    assert (report.deleted, report.exit_code, present(database)) == (None, 1, "AB")
    assert report.problem == "1 rows were rejected, which may have the missing ids"


async def test_ids_that_come_twice_are_reported(database: str) -> None:
    report = await run(database, listing("ABA"))
    assert "1 rows repeat an id, of which the last one counts: A 2 times" in list(report.lines())
    assert present(database) == "AB"


async def test_a_shops_own_export(database: str) -> None:
    text = "ID,Type,SKU,Name,Published,Regular price\n1,simple,K-1,Kite,1,9.99\n2,variable,K,Kites,1,\n"
    report = await run(database, write("woo.csv", text), options=ImportOptions(currency="EUR"))
    assert (report.format, report.written, dict(report.left_out)) == ("woocommerce", 1, {"no_price": 1})
    report = await run(database, write("own.csv", "nr,name,cost\nX,Boat,2\n"), options=MAPPED)
    assert (report.format, report.written) == ("csv", 1)
    assert query(database, "SELECT title, currency_code FROM cache_sidecar.products WHERE product_id = 'X'") == [
        ("Boat", "EUR")
    ]
