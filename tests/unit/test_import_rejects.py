"""Rejected rows are kept in a file that is whole or not there."""

import csv
from pathlib import Path

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.parsers import Rejection
from cache_sidecar.importer.rejects import Rejects, default_path


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def reject(path: Path, *, rows: int, then: BaseException | None = None) -> None:
    with Rejects(path) as rejects:
        for _ in range(rows):
            rejects.add(Rejection(1, "price", "has no price", b"x" * 1000))
        if then:
            raise then


def test_the_default_place_is_the_current_folder() -> None:
    assert default_path("/data/orders.csv.gz") == Path("orders.csv.gz.rejected.csv")
    assert default_path("-") == Path("stdin.rejected.csv")


def test_rows_are_written_with_line_reason_and_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rejected.csv"
    with Rejects(path) as rejects:
        rejects.add(Rejection(3, "price", "has no price", 'A,"x\ny",£'.encode()))
        rejects.add(Rejection(9, "not_utf8", "is not utf-8 text", b"A,\xff,\0"))
        assert not path.exists()
        assert rejects.has_rows
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["line", "reason", "message", "raw"],
            ["3", "price", "has no price", 'A,"x\ny",£'],
            ["9", "not_utf8", "is not utf-8 text", "A,\\xff,\\x00"],
        ]
    assert files(tmp_path) == ["rejected.csv"]


def test_without_rejected_rows_there_is_no_file(tmp_path: Path) -> None:
    with Rejects(tmp_path / "rejected.csv") as rejects:
        assert not rejects.has_rows
    assert files(tmp_path) == []


def test_a_failed_import_leaves_the_file_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "rejected.csv"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        reject(path, rows=1, then=KeyboardInterrupt())
    assert path.read_text() == "before"
    assert files(tmp_path) == ["rejected.csv"]


def test_a_place_that_cannot_be_written_is_said_before_anything_is_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "rejected.csv", tmp_path):
        with pytest.raises(InputError, match="cannot write rejected rows to"):
            Rejects(path)


@pytest.mark.parametrize("rows", [1, 1000], ids=["at the end", "in the middle"])
def test_a_disk_that_takes_no_more_is_said_in_one_line(tmp_path: Path, rows: int) -> None:
    (tmp_path / "full.partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write rejected rows to .*full: No space left on device"):
        reject(tmp_path / "full", rows=rows)
    assert files(tmp_path) == []
