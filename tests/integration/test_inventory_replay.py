"""Real orders, replayed: the stock ends as the file says, also when the run was killed in between."""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from tests.integration.replay import Invoice, end_of, invoices, start_of
from tests.sidecars import Sidecar, in_process, settings_for
from tests.stockroom import query

FOLDER = Path(__file__).parents[3] / "shared/data/online-retail"
# Of 4,894; cancellations are among them.
INVOICES, FEW = 60, 3


@pytest.fixture
def orders() -> Path:
    files = sorted(FOLDER.glob("*.csv.gz"))
    if not files:
        pytest.skip(f"the orders are not there: {FOLDER}")
    return files[0]


@pytest.fixture
async def sidecar(valkey_cluster: ValkeyCluster, database: str, namespace: str) -> AsyncIterator[Sidecar]:
    async with in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace)) as running:
        yield running


async def replaying(orders: Path, address: str, folder: Path, *, invoices: int = INVOICES) -> asyncio.subprocess.Process:
    with (folder / "replay.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.replay", str(orders)),
            *("--address", address, "--invoices", str(invoices)),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )


async def test_a_replay_killed_and_run_again_ends_as_the_file_says(
    orders: Path, sidecar: Sidecar, database: str, tmp_path: Path
) -> None:
    replayed = invoices(orders, INVOICES)
    assert any(one.returned for one in replayed)
    # Somewhere; the same place each time.
    lines = random.Random(7).randint(2, 4)
    killed = await replaying(orders, sidecar.address, tmp_path)
    assert killed.stdout is not None
    for _ in range(lines):
        assert await killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    (before,) = (await query(database, "SELECT count(*) FROM cache_sidecar.reservations"))[0]
    assert before < sum(bool(one.sold) for one in replayed)

    again = await replaying(orders, sidecar.address, tmp_path)
    output, _ = await again.communicate()
    assert again.returncode == 0, (tmp_path / "replay.log").read_text()
    wanted = end_of(replayed)
    assert f"{len(wanted)} stocks as the file says, 0 not" in output.decode()

    # Once more by plain SQL, and each invoice exactly once.
    found = await query(database, "SELECT product_id, available, reserved FROM cache_sidecar.inventory")
    assert {product_id: (available, reserved) for product_id, available, reserved in found} == {
        product_id: (available, 0) for product_id, available in wanted.items()
    }
    states = await query(database, "SELECT state, count(*) FROM cache_sidecar.reservations GROUP BY state")
    assert states == [("committed", sum(bool(one.sold) for one in replayed))]
    sold = await query(database, "SELECT sum(quantity) FROM cache_sidecar.reservation_items")
    assert sold == [(sum(one.sold.total() for one in replayed),)]


async def test_a_difference_is_told(orders: Path, sidecar: Sidecar, database: str, tmp_path: Path) -> None:
    first = await replaying(orders, sidecar.address, tmp_path, invoices=FEW)
    output, _ = await first.communicate()
    assert (first.returncode, "0 not" in output.decode()) == (0, True)
    await query(
        database,
        """UPDATE cache_sidecar.inventory SET available = available + 1
           WHERE product_id = (SELECT min(product_id) FROM cache_sidecar.inventory)""",
    )
    again = await replaying(orders, sidecar.address, tmp_path, invoices=FEW)
    output, _ = await again.communicate()
    assert again.returncode == 1
    assert "1 not" in output.decode()


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
