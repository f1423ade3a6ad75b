"""What an import did, and how far it is."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cache_sidecar.importer.parsers import Rejection
from cache_sidecar.importer.progress import LINE_EVERY, Bar, PlainLines, progress_on
from cache_sidecar.importer.report import ImportReport
from tests.support import inside


def test_a_report_in_lines() -> None:
    report = ImportReport(source="orders.csv", name="products", format="csv", rows_read=12_345, written=9_000, unchanged=10)
    report.seconds, report.rejects = 2.0, Path("orders.csv.rejected.csv")
    for reason, left_out in [("price", False), ("pseudo_code", True), ("not_csv", False), ("price", False)]:
        report.count(Rejection(1, reason, "", b"", left_out))
    assert list(report.lines()) == [
        "12,345 rows read from orders.csv (csv) in 2.0 s, 6,172 rows/s",
        "9,000 products written, 10 unchanged",
        "1 skipped: 1 pseudo_code",
        "3 rejected: 2 price, 1 not_csv",
        "the rows and their line numbers: orders.csv.rejected.csv",
    ]


def test_a_clean_report_has_two_lines() -> None:
    report = ImportReport(source="orders.csv", name="products", format="csv")
    assert len(list(report.lines())) == 2


@pytest.mark.parametrize(("left_out", "code"), [(True, 0), (False, 1)])
def test_only_rejected_rows_change_the_exit_code(*, left_out: bool, code: int) -> None:
    report = ImportReport(source="-", name="products")
    assert report.exit_code == 0
    report.count(Rejection(1, "any", "", b"", left_out))
    assert report.exit_code == code


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    bar = Bar(Console(file=out, force_terminal=True, width=100))
    bar.start("orders.csv", 4_000_000)
    bar.advance(bytes_read=1_000_000, rows_read=12_345)
    inside.bar_of(bar).refresh()
    bar.stop()
    assert "orders.csv" in out.getvalue()
    assert "1.0/4.0 MB" in out.getvalue()
    assert "12,345 rows" in out.getvalue()


def test_what_is_no_terminal_gets_a_line_now_and_then() -> None:
    out, now = io.StringIO(), 100.0
    lines = PlainLines(out, monotonic=lambda: now)
    lines.start("orders.csv", 200)
    lines.advance(bytes_read=1, rows_read=1)
    now += LINE_EVERY
    lines.advance(bytes_read=50, rows_read=1000)
    lines.advance(bytes_read=51, rows_read=1001)
    now += LINE_EVERY
    lines.advance(bytes_read=200, rows_read=4000)
    lines.stop()
    assert out.getvalue() == "orders.csv: 25%, 1,000 rows\norders.csv: 100%, 4,000 rows\n"


def test_a_pipe_has_no_percentage() -> None:
    out = io.StringIO()
    lines = PlainLines(out, monotonic=iter([0.0, 50.0, 50.0]).__next__)
    lines.start("standard input", None)
    lines.advance(bytes_read=50, rows_read=1000)
    assert out.getvalue() == "standard input: 1,000 rows\n"


def test_the_stream_decides() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_on(Terminal()), Bar)
    assert isinstance(progress_on(io.StringIO()), PlainLines)
