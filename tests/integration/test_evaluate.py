"""`cache-sidecar evaluate`, on orders with a structure that has to be found."""

import asyncio
import json
import signal
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from cache_sidecar.cli import cli
from cache_sidecar.evaluate import Report, evaluate
from cache_sidecar.recommendations.model import Event
from tests.support.learning import orders
from tests.support.until import until

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def write(file: Path, events: Iterable[Event], *, times: int = 1) -> Path:
    """Writes purchases as order lines, each so many times."""
    lines = [
        f"{event.event_id},{id},KITE,1,{datetime.fromtimestamp(event.time, UTC):%Y-%m-%d %H:%M:%S},2.50,{event.user_id},Utopia\n"
        for event in events
        for id in event.product_ids
    ]
    file.write_text(HEADER + "".join(line for line in lines for _ in range(times)))
    return file


def whole_seconds(events: Iterable[Event]) -> list[Event]:
    return [event._replace(time=float(int(event.time))) for event in events]


async def figures_of(file: Path, **options: Any) -> Report:
    return await evaluate(str(file), **{"until": None, "lists": None} | options)


@pytest.mark.timeout(300)
async def test_the_command_s_figures_beat_popularity(tmp_path: Path) -> None:
    events = whole_seconds(orders(1500, users=60))
    report = await figures_of(write(tmp_path / "orders.csv", events))
    assert (report.learned, str(report.split)) == (sum(event.time < 1_797_638_400 for event in events), "2026-12-19")
    assert {figure.name for figure in report.figures} > {"home", "cart of 1", "cart of 3", "product page, no user"}
    for figure in report.figures:
        if figure.name not in {"discover", "cart of 5"}:
            assert figure.ours.recall > 1.5 * figure.popular.recall
    text = "\n".join(report.lines())
    assert "purchases before 2026-12-19 written and learned" in text
    assert f"{report.figures[0].ours.hits:.3f}" in text


@pytest.mark.timeout(300)
async def test_lists_know_nothing_of_the_days_that_are_predicted(tmp_path: Path) -> None:
    """Without those days in the file, and with every line twice, the lists are the same, with their reasons."""
    events = whole_seconds(orders(600))
    whole, cut = write(tmp_path / "whole.csv", events), write(tmp_path / "cut.csv", events[:450], times=2)
    lists = []
    for number, file in enumerate((whole, cut)):
        out = tmp_path / f"{number}.jsonl"
        until = datetime.fromtimestamp(events[449].time, UTC).date()
        await figures_of(file, until=until, lists=out)
        lists.append([json.loads(line) for line in out.read_text().splitlines()])
    assert lists[0] == lists[1]
    assert len(lists[0]) > 30
    for line in lists[0]:
        assert len(line["home"]) == 10
        assert all(one["score"] > 0 and one["reason"] for one in line["home"])


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])


def test_a_server_of_its_own_is_started_and_removed(tmp_path: Path, temporary: Path) -> None:
    result = command(write(tmp_path / "orders.csv", orders(200)))
    assert result.exit_code == 0, result.output
    assert "product page, no user" in result.output
    assert list(temporary.iterdir()) == []


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, also of processes."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    tmp_path.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
async def test_a_command_that_is_ended_leaves_no_server(
    tmp_path: Path, temporary: Path, number: signal.Signals, code: int
) -> None:
    """After kill -9, the next command ends it."""
    file = write(tmp_path / "orders.csv", orders(4000))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", INTERRUPTIBLE, "evaluate", file)
    await until(lambda: servers_in(temporary))
    (server,) = servers_in(temporary)
    process.send_signal(number)
    assert await process.wait() == code
    if number == signal.SIGKILL:
        assert psutil.pid_exists(server)
        file = write(tmp_path / "few.csv", orders(60))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", INTERRUPTIBLE, "evaluate", file)
        assert await process.wait() == 0
    await until(lambda: not psutil.pid_exists(server))
    assert list(temporary.iterdir()) == []


# A shell's background jobs inherit that SIGINT is ignored.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from cache_sidecar.__main__ import main
main()
"""


def servers_in(folder: Path) -> list[int]:
    """Returns the pids of the PostgreSQL servers with their data below a folder that accept connections."""
    found = []
    for lock in folder.glob("*/postgres/data/postmaster.pid"):
        lines = lock.read_text().splitlines()
        if len(lines) > 7 and lines[7].strip() == "ready":
            found.append(int(lines[0]))
    return found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "less than two days"),
        (HEADER.replace("Quantity", "Pieces"), "lacks the column quantity"),
    ],
)
def test_a_file_that_cannot_be_evaluated_is_reported_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "orders.csv"
    file.write_text(text)
    result = command(file)
    assert (result.exit_code, message in result.output) == (64, True)
    assert result.output.count("\n") == 1


def test_without_the_servers_the_command_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_sidecar.devstack.temporary", None)
    result = command(write(tmp_path / "orders.csv", orders(60)))
    assert (result.exit_code, "cache-sidecar[dev]" in result.output) == (64, True)
