"""`import carts` and `import sessions` against a real PostgreSQL, and what customers then find."""

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.importer.report import ImportReport
from cache_sidecar.v1 import session_service_pb2 as pb
from tests.support.customers import Customer, amounts, item, lines
from tests.support.imports import import_file
from tests.support.launch import in_process, settings_for


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def customer(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> AsyncIterator[Customer]:
    settings = settings_for(",".join(valkey_cluster.addresses), database, namespace)
    async with in_process(settings) as sidecar:
        yield Customer(sidecar)


async def carts(dsn: str, source: str, **options: Any) -> ImportReport:
    return await import_file("carts", source, dsn, **options)


async def sessions(dsn: str, source: str, **options: Any) -> ImportReport:
    return await import_file("sessions", source, dsn, **options)


async def query(dsn: str, text: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        cursor = await connection.execute(sql.SQL(text))  # type: ignore[arg-type]
        return await cursor.fetchall() if cursor.description else []


LINES = """user_id,product_id,quantity,unit_price,currency_code,options,update_time
ann,prod456,2,29.99,EUR,,2026-01-02T00:00:00Z
ann,prod789,1,59.99,EUR,"{""size"": ""L""}",2026-01-02T00:00:00Z
bob,prod456,x,29.99,EUR,,
bob,prod456,3,29.99,EUR,,
ann,late,1,1.00,EUR,,
"""


async def test_carts_from_lines(database: str, customer: Customer) -> None:
    Path("lines.csv").write_text(LINES)
    report = await carts(database, "lines.csv")
    assert (report.rows_read, report.written, report.exit_code) == (5, 2, 1)
    assert dict(report.rejected) == {"quantity": 1, "not_adjacent": 1}
    cart = await customer.cart("ann")
    assert (lines(cart), amounts(cart)) == ({"prod456": 2, "prod789": 1}, ["119.97 EUR"])
    assert cart.update_time.ToDatetime() == datetime(2026, 1, 2)  # noqa: DTZ001  # protobuf gives naive ones
    assert lines(await customer.cart("bob")) == {"prod456": 3}
    rejected = csv.DictReader(Path("lines.csv.rejected.csv").read_text().splitlines())
    assert [int(row["line"]) for row in rejected] == [4, 6]


async def test_carts_from_objects_in_gzip(database: str, customer: Customer) -> None:
    line = {"product_id": "a", "quantity": 2, "unit_price": {"currency_code": "EUR", "units": "1", "nanos": 5}}
    given = [{"user_id": f"user-{number}", "items": [line]} for number in range(20)]
    Path("carts.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, given)).encode()))
    report = await carts(database, "carts.jsonl.gz")
    assert (report.written, report.unchanged, report.exit_code) == (20, 0, 0)
    again = await carts(database, "carts.jsonl.gz")
    assert (again.written, again.unchanged) == (0, 20), "a second run changes nothing"
    assert lines(await customer.cart("user-19")) == {"a": 2}


async def test_a_cart_changed_since_stays_as_it_is(database: str, customer: Customer) -> None:
    mine = await customer.add("ann", item("mine"))
    Path("lines.csv").write_text(LINES)
    report = await carts(database, "lines.csv")
    assert (report.written, report.unchanged) == (1, 1)
    assert await customer.cart("ann", bypass=True) == mine


async def test_a_time_in_the_future_wins_over_no_change(database: str, customer: Customer) -> None:
    """A cart that claims to be changed next year would replace whatever its customer does until then."""
    head = "user_id,product_id,quantity,unit_price,currency_code,update_time"
    future = (datetime.now(UTC) + timedelta(days=365)).isoformat()
    mine = await customer.add("ann", item("mine"))
    Path("lines.csv").write_text(f"{head}\nann,theirs,1,1,EUR,{future}\n")
    report = await carts(database, "lines.csv")
    assert (report.written, dict(report.rejected)) == (0, {"future": 1})
    assert await customer.cart("ann", bypass=True) == mine


async def test_what_postgresql_refuses_of_one_row_costs_none_of_the_others(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await query(database, "ALTER TABLE cache_sidecar.carts ADD CHECK (user_id NOT LIKE 'bad%')")
    rows = [f"{'bad' if number % 40 == 7 else 'u'}-{number},p,1,1,EUR" for number in range(100)]
    Path("lines.csv").write_text("\n".join(["user_id,product_id,quantity,unit_price,currency_code", *rows]))
    report = await carts(database, "lines.csv")
    assert (report.rows_read, report.written, dict(report.rejected)) == (100, 97, {"refused": 3})
    rejected = list(csv.DictReader(Path("lines.csv.rejected.csv").read_text().splitlines()))
    assert [(int(row["line"]), row["raw"]) for row in rejected] == [(n + 2, rows[n]) for n in (7, 47, 87)]
    assert "violates check constraint" in rejected[0]["message"]


async def test_of_sessions_too_and_without_a_word_of_them(database: str) -> None:
    await query(database, "ALTER TABLE cache_sidecar.sessions ADD CHECK (user_id <> 'bad')")
    given = [{"session_id": f"s3cret-{user}", "user_id": user} for user in ("ann", "bad", "bob")]
    Path("sessions.jsonl").write_text("\n".join(map(json.dumps, given)))
    report = await sessions(database, "sessions.jsonl")
    assert (report.written, dict(report.rejected)) == (2, {"refused": 1})
    assert "s3cret" not in Path("sessions.jsonl.rejected.csv").read_text()


async def test_what_postgresql_refuses_of_all_rows_ends_the_import_in_a_line(database: str) -> None:
    await query(database, "ALTER TABLE cache_sidecar.carts DROP COLUMN items")
    Path("lines.csv").write_text(LINES)
    with pytest.raises(InputError, match="items"):
        await carts(database, "lines.csv")


async def test_an_imported_change_is_an_event(database: str) -> None:
    Path("lines.csv").write_text(LINES)
    await carts(database, "lines.csv")
    found = await query(database, "SELECT dataset, id, kind FROM cache_sidecar.outbox ORDER BY id")
    assert found == [("cart", "ann", "created"), ("cart", "bob", "created")]


async def test_more_carts_than_fit_into_a_batch_are_whole(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.importer.run.BATCH_ROWS", 3)
    rows = [f"u{user},p{product},1,1,EUR,2026-01-02T00:00:00Z" for user in range(10) for product in range(5)]
    Path("lines.csv").write_text("\n".join(["user_id,product_id,quantity,unit_price,currency_code,update_time", *rows]))
    report = await carts(database, "lines.csv")
    assert report.rows_read == 50
    assert await query(database, "SELECT count(*), min(jsonb_array_length(items)) FROM cache_sidecar.carts") == [(10, 5)]


async def test_a_header_of_something_else_is_an_error(database: str) -> None:
    Path("x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError):
        await carts(database, "x.csv")


async def test_sessions_go_on_with_the_ids_that_browsers_hold(database: str, customer: Customer) -> None:
    now = datetime.now(UTC)
    given = [
        {"session_id": "old-id-1", "user_id": "ann", "attributes": {"theme": "dark"}},
        {"session_id": "old-id-2", "user_id": "bob", "expire_time": (now + timedelta(minutes=9)).isoformat()},
        {"session_id": "old-id-3", "expire_time": (now - timedelta(minutes=9)).isoformat()},
        {"session_id": "old-id-4", "user_id": 7},
    ]
    Path("sessions.jsonl").write_text("\n".join(map(json.dumps, given)))
    report = await sessions(database, "sessions.jsonl")
    assert (report.rows_read, report.written, report.exit_code) == (4, 2, 1)
    assert (dict(report.rejected), dict(report.left_out)) == ({"wrong_type": 1}, {"expired": 1})
    reply = await customer.session("old-id-1")
    assert (reply.session.user_id, dict(reply.session.attributes)) == ("ann", {"theme": "dark"})
    assert (await customer.session("old-id-2")).session.user_id == "bob"
    kept = Path("sessions.jsonl.rejected.csv").read_text()
    assert [line.split(",")[:2] for line in kept.splitlines()[1:]] == [["3", "expired"], ["4", "wrong_type"]]
    assert "old-id" not in kept
    assert "old-id" not in str(await query(database, "SELECT * FROM cache_sidecar.sessions"))


async def test_sessions_from_csv_are_not_brought_back_by_a_second_run(database: str, customer: Customer) -> None:
    Path("sessions.csv").write_text('session_id,user_id,attributes\nold-1,ann,"{""a"": ""1""}"\nold-2,ann,\n')
    assert (await sessions(database, "sessions.csv")).written == 2
    await customer.sessions.DeleteSession(pb.DeleteSessionRequest(session_id="old-1"))
    await customer.session("old-2")
    again = await sessions(database, "sessions.csv")
    assert (again.written, again.unchanged) == (0, 2)
    found = await query(database, "SELECT count(*) FROM cache_sidecar.sessions WHERE delete_time IS NULL")
    assert found == [(1,)]


@pytest.mark.parametrize(
    ("noun", "lines_", "told"),
    [
        ("carts", LINES, ["2 carts written, 0 unchanged", "2 rejected: 1 quantity, 1 not_adjacent"]),
        (
            "sessions",
            "session_id,user_id\nold-1,ann\n,bob\n",
            ["1 sessions written, 0 unchanged", "1 rejected: 1 missing_field"],
        ),
    ],
)
def test_the_command_line(database: str, tmp_path: Path, noun: str, lines_: str, told: list[str]) -> None:
    (tmp_path / "file.csv").write_text(lines_)
    environment = os.environ | {"CACHE_SIDECAR_REDIS_NODES": "127.0.0.1:1", "CACHE_SIDECAR_POSTGRES_USER": database}
    done = subprocess.run(
        [sys.executable, "-m", "cache_sidecar", "import", noun, "file.csv"],
        cwd=tmp_path,
        env=environment | {"CACHE_SIDECAR_POSTGRES_CATALOG": "postgresql://127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    for line in told:
        assert line in done.stdout
    assert (tmp_path / "file.csv.rejected.csv").exists()
