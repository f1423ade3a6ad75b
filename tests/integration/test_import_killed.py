"""An import in a process of its own, killed and interrupted while it waits for more input."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cache_sidecar.importer.run import BATCH_ROWS
from tests.support.imports import import_file
from tests.support.until import until

SCRIPT = """
import signal, sys, uvloop
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
from cache_sidecar.importer.products import IMPORT
from cache_sidecar.importer.run import import_rows
from cache_sidecar.importer.spec import Parts
parts = Parts(settings=None, policy=None)
uvloop.run(import_rows(IMPORT, parts, source="-", dsn=sys.argv[1], format=None, rejects=None, progress=None))
"""
HEADER = "product_id,title,price,currency_code\nbad\n"
ROWS = "".join(f"A{number:05},Thing,{number},EUR\n" for number in range(2 * BATCH_ROWS + 500))


def rows(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT product_id, title, price_units FROM cache_sidecar.products ORDER BY 1").fetchall()


async def stopped_after_two_batches(dsn: str, folder: Path, number: signal.Signals) -> asyncio.subprocess.Process:
    """Returns the ended process of an import that got a signal after two batches, while waiting for more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, dsn, cwd=folder, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdin
    process.stdin.write((HEADER + ROWS).encode())
    await process.stdin.drain()
    await until(lambda: process.returncode is not None or len(rows(dsn)) == 2 * BATCH_ROWS)
    assert process.returncode is None
    process.send_signal(number)
    async with asyncio.timeout(10):
        await process.wait()
    process.stdin.close()
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_whole_batches_stay_and_a_second_run_ends_in_the_same_state(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    await stopped_after_two_batches(database, tmp_path, number)
    assert len(rows(database)) == 2 * BATCH_ROWS
    assert not (tmp_path / "stdin.rejected.csv").exists()

    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text(HEADER + ROWS)
    report = await import_file("products", "p.csv", database)
    assert (report.written, report.unchanged) == (500, 2 * BATCH_ROWS)
    assert rows(database) == [(f"A{number:05}", "Thing", number) for number in range(2 * BATCH_ROWS + 500)]


MEMORY = (
    SCRIPT.replace('"-"', '"p.csv"')
    + """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read from /proc")
async def test_memory_does_not_grow_with_the_file(database: str, tmp_path: Path) -> None:
    peaks = []
    for count in (10_000, 100_000):
        # Rows for one product: what is measured is reading, not PostgreSQL.
        (tmp_path / "p.csv").write_text("product_id,title,price,currency_code\n" + f"A,{'x' * 400},1,EUR\n" * count)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MEMORY, database, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        peaks.append(int(out))
    # In KiB; the larger file is 37,000 KiB longer.
    assert peaks[1] - peaks[0] < 8_000
