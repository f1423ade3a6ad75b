"""`cache-sidecar import inventory`."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.importer.inventory import from_csv, from_json
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.report import ImportReport
from tests.support.imports import import_file
from tests.support.launch import in_process, settings_for
from tests.support.stockroom import Stockroom, query

MAX = 10**15


async def run(dsn: str, file: Path, **options: Any) -> ImportReport:
    return await import_file("inventory", file, dsn, rejects=file.with_suffix(".rejected"), **options)


async def stocks(dsn: str) -> dict[str, int]:
    return dict(await query(dsn, "SELECT product_id, sum(available)::bigint FROM cache_sidecar.inventory GROUP BY product_id"))


async def test_rows_become_stock_and_bad_ones_are_rejected_alone(database: str, tmp_path: Path) -> None:
    file = tmp_path / "stock.csv"
    file.write_text("Product ID;On hand\na;5\nb;-1\n;3\nc;12.0\nd;1.5\ne;\nf;99999999999999999\na;7\n g ; 1 \n")
    report = await run(database, file)
    assert (report.format, report.rows_read, report.written, report.unchanged) == ("csv", 9, 3, 0)
    assert report.rejected == {"available": 3, "missing_field": 2}
    assert report.exit_code == 1
    assert await stocks(database) == {"a": 7, "c": 12, "g": 1}
    kept = report.rejects.read_text().splitlines() if report.rejects else []
    assert [line.split(",")[0] for line in kept] == ["line", "3", "4", "6", "7", "8"]


async def test_running_it_again_changes_nothing_and_says_so(database: str, tmp_path: Path) -> None:
    file = tmp_path / "stock.jsonl.gz"
    rows = [{"product_id": f"p{number}", "available": number} for number in range(6000)]
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    first, second = await run(database, file), await run(database, file)
    assert (first.written, first.unchanged, first.exit_code) == (6000, 0, 0)
    assert (second.written, second.unchanged, second.rejects) == (0, 6000, None)
    changes = await query(database, "SELECT count(*) FROM cache_sidecar.outbox WHERE dataset = 'inventory'")
    assert changes == [(6000,)]


async def test_what_is_reserved_stays_and_buckets_stay(
    valkey_cluster: ValkeyCluster, database: str, namespace: str, tmp_path: Path
) -> None:
    async with in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as sidecar:
        room = Stockroom(sidecar.channel)
        await room.set("a", 10, bucket_count=4)
        await room.reserve({"a": 3})
        file = tmp_path / "stock.csv"
        file.write_text("product_id,available\na,6\n")
        assert (await run(database, file)).written == 1
        stock = await room.get("a", bypass=True)
        assert (stock.available, stock.reserved, stock.bucket_count) == (6, 3, 4)
        rows = await query(database, "SELECT available FROM cache_sidecar.inventory WHERE product_id = 'a' ORDER BY bucket")
        assert rows == [(2,), (2,), (1,), (1,)]


GOOD = [
    ({"productId": "a", "available": "12"}, 12),
    ({"product_id": "a", "available": 0, "reserved": 4, "etag": "x", "updateTime": "now", "bucket_count": 1}, 0),
    ({"product_id": "a", "available": MAX}, MAX),
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"product_id": "a"}, "missing_field"),
    ({"available": 1}, "missing_field"),
    ({"product_id": "a", "available": -1}, "available"),
    ({"product_id": "a", "available": True}, "available"),
    ({"product_id": "a", "available": 1.5}, "available"),
    ({"product_id": "a", "available": "x"}, "available"),
    ({"product_id": "a", "available": MAX + 1}, "available"),
    ({"product_id": 7, "available": 1}, "wrong_type"),
    ({"product_id": "a\x1f1", "available": 1}, "control_character"),
    ({"product_id": "a" * 129, "available": 1}, "too_long"),
    ({"product_id": "a", "available": 1, "warehouse": "x"}, "unknown_field"),
]


@pytest.mark.parametrize(("value", "available"), GOOD)
def test_objects_that_are_stock(value: dict[str, Any], available: int) -> None:
    assert from_json(value) == {"product_id": "a", "available": available}


@pytest.mark.parametrize(("value", "reason"), BAD)
def test_objects_that_are_none(value: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRejected) as refused:
        from_json(value)
    assert refused.value.reason == reason


def test_cells_as_spreadsheets_write_them() -> None:
    assert from_csv({"product_id": " a ", "available": " 12.0 "}) == {"product_id": "a", "available": 12}


async def test_a_file_that_is_no_stock(database: str, tmp_path: Path) -> None:
    file = tmp_path / "stock.csv"
    file.write_text("product_id,price\na,6\n")
    with pytest.raises(InputError, match="there is no column 'price'"):
        await run(database, file)


def test_the_command_line(database: str, tmp_path: Path) -> None:
    (tmp_path / "stock.csv").write_text("sku,stock\na,6\nb,x\n")
    environment = os.environ | {"CACHE_SIDECAR_REDIS_NODES": "127.0.0.1:1", "CACHE_SIDECAR_POSTGRES_CATALOG": database}
    done = subprocess.run(
        [sys.executable, "-m", "cache_sidecar", "import", "inventory", "stock.csv"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "1 inventory written, 0 unchanged" in done.stdout
    assert "1 rejected: 1 available" in done.stdout
    assert (tmp_path / "stock.csv.rejected.csv").exists()
