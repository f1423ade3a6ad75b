"""Orders, replayed: the stock ends as the file says, also when the run was killed in between."""

import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.replay.killed import replay
from tests.replay.orders import Invoice, end_of, invoices, start_of
from tests.replay.run import PAGE
from tests.support.launch import Sidecar, in_process, settings_for
from tests.support.stockroom import query

INVOICES, FEW = 70, 3


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Invented orders, with what real ones have: cancellations, write-offs, postage, codes in both cases, repeated lines."""
    chance = random.Random(11)
    lines = ["InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"]
    for number in range(INVOICES):
        kind = "returned" if number % 7 == 6 else "lost" if number % 11 == 10 else "sold"
        invoice, sign = f"{'C' if kind == 'returned' else ''}{700_000 + number}", "" if kind == "sold" else "-"
        for _ in range(chance.randint(1, 9)):
            code = f"{90_000 + chance.randrange(25)}{chance.choice(['', 'A', 'a'])}"
            lines.append(f"{invoice},{code},KITE,{sign}{chance.choice([1, 1, 2, 6, 12, 144])},2011-03-01 09:00:00,2.50,,Eire")
        lines.append(f"{invoice},POST,POSTAGE,1,2011-03-01 09:00:00,18.00,,Eire")
    file = tmp_path / "orders.csv"
    file.write_text("\n".join(lines))
    return file


@pytest.fixture
async def sidecar(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> AsyncIterator[Sidecar]:
    async with in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as running:
        yield running


async def replayed_by(sidecar: Sidecar, orders: Path, **how: Any) -> tuple[int, list[str]]:
    """Returns the exit code, and what was said."""
    lines: list[str] = []
    with (orders.parent / "errors.log").open("ab") as errors:
        return await replay(orders, addresses=[sidecar.address], tell=lines.append, errors=errors, **how), lines


async def test_a_replay_killed_and_run_again_ends_as_the_file_says(orders: Path, sidecar: Sidecar, database: str) -> None:
    replayed = invoices(orders)
    assert all(any(getattr(one, kind) for one in replayed) for kind in ("sold", "returned", "lost"))
    # Somewhere; the same place each time.
    killed_after = PAGE * random.Random(7).randint(1, 2)
    code, _ = await replayed_by(sidecar, orders, kill_at=f"booked {killed_after}")
    assert code == -signal.SIGKILL
    ((before,),) = await query(database, "SELECT count(*) FROM cache_sidecar.reservations")
    assert 0 < before < sum(bool(one.sold) for one in replayed)

    code, said = await replayed_by(sidecar, orders)
    wanted = end_of(replayed)
    assert (code, said[-1]) == (0, f"{len(wanted)} stocks as the file says, 0 not")

    # Once more by plain SQL, and each invoice exactly once.
    found = await query(database, "SELECT product_id, available, reserved FROM cache_sidecar.inventory")
    assert {product_id: (available, reserved) for product_id, available, reserved in found} == {
        product_id: (available, 0) for product_id, available in wanted.items()
    }
    states = await query(database, "SELECT state, count(*) FROM cache_sidecar.reservations GROUP BY state")
    assert states == [("committed", sum(bool(one.sold) for one in replayed))]
    sold = await query(database, "SELECT sum(quantity) FROM cache_sidecar.reservation_items")
    assert sold == [(sum(one.sold.total() for one in replayed),)]


async def test_a_difference_is_told(orders: Path, sidecar: Sidecar, database: str) -> None:
    code, said = await replayed_by(sidecar, orders, invoices=FEW)
    assert (code, said[-1].endswith(" 0 not")) == (0, True)
    await query(
        database,
        """UPDATE cache_sidecar.inventory SET available = available + 1
           WHERE product_id = (SELECT min(product_id) FROM cache_sidecar.inventory)""",
    )
    code, said = await replayed_by(sidecar, orders, invoices=FEW)
    assert (code, said[-1].endswith(" 1 not")) == (1, True)


def test_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    file.write_text(
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        "1,85123a,x,6,,1,,\n1,85123A,x,2,,1,,\n1,POST,x,1,,1,,\n2,71053,x,-3,,0,,\nC3,85123A,x,-4,,1,,\nC3,22633,x,-1,,1,,\n"
    )
    first, second, third = invoices(file)
    assert (first.number, first.sold, first.returned, first.lost) == ("1", {"85123A": 8}, {}, {})
    assert (second.sold, second.lost) == ({}, {"71053": 3})
    assert third.returned == {"85123A": 4, "22633": 1}
    replayed = [first, second, third]
    assert dict(start_of(replayed)) == {"85123A": 8, "71053": 3, "22633": 0}
    assert end_of(replayed) == {"85123A": 4, "71053": 0, "22633": 1}
    assert end_of([Invoice("4")]) == {}
