"""The format is found out from the first line, and records come with the numbers of their lines."""

import gzip
from pathlib import Path

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.parsers import Rejection, Row
from cache_sidecar.importer.record_reader import Header, RecordReader
from cache_sidecar.importer.source import CHUNK, Source

DIALECTS = {
    "csv": Header({"id": (), "name": (), "full_price": ()}, ("id", "name")),
    "orders": Header({"code": ("StockCode",), "date": ()}, ("code", "date"), encodings=("utf-8", "cp1252"), extra=True),
}


async def read(folder: Path, data: bytes, *, format: str | None = None) -> tuple[str, list[Row | Rejection]]:
    path = folder / "data"
    path.write_bytes(data)
    with Source(str(path)) as source:
        reading = RecordReader(source, DIALECTS, format=format)
        found = await reading.start()
        return found, [record async for batch in reading.batches() for record in batch]


def lines(found: list[Row | Rejection]) -> list[int]:
    return [record.number for record in found]


async def test_csv_by_its_header(tmp_path: Path) -> None:
    format, found = await read(tmp_path, b"id,name\n1,x\n")
    assert (format, found) == ("csv", [Row(2, {"id": "1", "name": "x"}, b"1,x")])


async def test_another_dialect_by_its_header(tmp_path: Path) -> None:
    format, found = await read(tmp_path, b",STOCKCODE,Date,Weather\n0,1,\xa3,fine\n")
    assert format == "orders"
    assert found == [Row(2, {"": "0", "code": "1", "date": "£", "Weather": "fine"}, b"0,1,\xa3,fine")]


async def test_json_by_its_brace(tmp_path: Path) -> None:
    format, found = await read(tmp_path, b'\n {"id": 1}\n{"id": 2}')
    assert (format, lines(found)) == ("jsonl", [2, 3])


@pytest.mark.parametrize(
    "header", [b"ID;Name;FullPrice", b"id\tname\tfull price", b'"id","name","FULL_PRICE"', b" id , name , full_price"]
)
async def test_headers_may_be_spelled_otherwise(tmp_path: Path, header: bytes) -> None:
    delimiter = next(delimiter for delimiter in (b";", b"\t", b",") if delimiter in header)
    _, (row,) = await read(tmp_path, header + b"\r\n" + delimiter.join([b"1", b"x", b"2"]) + b"\r\n")
    assert isinstance(row, Row)
    assert row.values == {"id": "1", "name": "x", "full_price": "2"}


async def test_lines_before_the_header_count(tmp_path: Path) -> None:
    _, found = await read(tmp_path, b"\xef\xbb\xbf\n\nid,name\n1,x\n\n2,y\n")
    assert lines(found) == [4, 6]


async def test_a_header_may_be_all_there_is(tmp_path: Path) -> None:
    assert await read(tmp_path, b"id,name") == ("csv", [])


@pytest.mark.parametrize("packed", [False, True])
async def test_records_go_over_the_ends_of_chunks(tmp_path: Path, packed: bool) -> None:
    rows = [b'%d,"some\ntext %d"' % (number, number) for number in range(60_000)]
    data = b"id,name\n" + b"\n".join(rows)
    assert len(data) > 3 * CHUNK
    _, found = await read(tmp_path, gzip.compress(data) if packed else data)
    assert [record.raw for record in found] == rows
    assert lines(found) == list(range(2, 120_002, 2))


async def test_a_long_line_ends_an_open_record(tmp_path: Path) -> None:
    data = b'id,name\n1,"open\n2,y\n' + b"x" * 1_100_000 + b"\n3,z\n"
    _, found = await read(tmp_path, data)
    assert [(record.number, getattr(record, "reason", "")) for record in found] == [
        (2, "not_csv"),
        (3, ""),
        (4, "line_too_long"),
        (5, ""),
    ]


async def test_what_gzip_still_holds_is_read_and_the_last_line_is_not_believed(tmp_path: Path) -> None:
    data = b"id,name\n" + b"".join(b"%d,x%d\n" % (number, number * 7919 % 10007) for number in range(50_000))
    packed = gzip.compress(data)
    _, found = await read(tmp_path, packed[: len(packed) // 2])
    *rows, last = found
    assert len(rows) > 10_000
    assert all(isinstance(row, Row) for row in rows)
    assert isinstance(last, Rejection)
    assert (last.number, last.reason) == (rows[-1].number + 1, "incomplete")
    assert last.raw == data.split(b"\n")[last.number - 1][: len(last.raw)]


async def test_gzip_cut_off_between_two_lines_is_incomplete_too(tmp_path: Path) -> None:
    _, found = await read(tmp_path, gzip.compress(b"id,name\n1,x\n")[:-4])
    assert [(record.number, getattr(record, "reason", "")) for record in found] == [(2, ""), (3, "incomplete")]


async def test_an_open_quote_at_the_cut_is_rejected_with_it(tmp_path: Path) -> None:
    _, found = await read(tmp_path, gzip.compress(b'id,name\n1,"x\n2,y')[:-4])
    assert [(record.number, getattr(record, "reason", "")) for record in found] == [(2, "not_csv"), (3, "incomplete")]


async def test_gzip_with_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the gzip data is cut off here, before its first line"):
        await read(tmp_path, gzip.compress(b"id,name\n")[:12])


@pytest.mark.parametrize("format", [None, "csv", "jsonl"])
@pytest.mark.parametrize("data", [b"", b"\n \n\r\n"])
async def test_an_empty_file(tmp_path: Path, data: bytes, format: str | None) -> None:
    with pytest.raises(InputError, match="data is empty"):
        await read(tmp_path, data, format=format)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"id,name,colour\n", "there is no column 'colour'; the columns are id, name, full_price"),
        (b"id,name,full_prize\n", "there is no column 'full_prize', did you mean full_price"),
        (b"id,full_price\n", "lacks the column name; its columns are id, full_price"),
        (b"id,name,ID\n", "has the column id more than once"),
        (b"code,weather\n", "lacks the column date"),
        (b'id,"name\n', "opens a quoted field that is not closed"),
        (b'id,"name"x\n', "its first line is not CSV"),
        (b"id,\xff\n", "its first line is not utf-8 text"),
        (b"some text\n", "neither a JSON object nor a header with the column id or code; pass --map, or --format"),
        (b"x" * 1_100_000 + b"\n", "line 1 is longer than 1,048,576 bytes"),
    ],
)
async def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")) as caught:
        await read(tmp_path, data)
    assert "\n" not in str(caught.value)


async def test_the_format_can_be_said(tmp_path: Path) -> None:
    format, found = await read(tmp_path, b"broken\n" + b"x" * 1_100_000 + b'\n{"id": 1}\n', format="jsonl")
    assert format == "jsonl"
    assert [getattr(record, "reason", "") for record in found] == ["not_json", "line_too_long", ""]


async def test_a_first_line_that_is_too_long_is_no_reason_to_stop_when_the_format_is_said(tmp_path: Path) -> None:
    _, found = await read(tmp_path, b"x" * 1_100_000 + b'\n{"id": 1}\n', format="jsonl")
    assert [(record.number, getattr(record, "reason", "")) for record in found] == [(1, "line_too_long"), (2, "")]
