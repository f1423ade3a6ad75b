"""Lines become CSV rows and JSON objects; what is broken is rejected alone."""

import csv
import io
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.importer.parsers import MAX_RECORD_LINES, Csv, Format, JsonLines, Rejection, Row, RowRejected, text


def records(format: Format, *lines: bytes) -> list[Row | Rejection]:
    read = [record for number, raw in enumerate(lines, start=1) for record in format.feed(number, raw)]
    return [*read, *format.finish()]


def two_columns(*lines: bytes) -> list[Row | Rejection]:
    return records(Csv(["a", "b"], delimiter=","), *lines)


def shape(found: list[Row | Rejection]) -> list[object]:
    """Rows as their values, rejections as line and reason."""
    return [list(record.values.values()) if isinstance(record, Row) else (record.number, record.reason) for record in found]


def test_a_row_has_its_columns_line_and_bytes() -> None:
    assert two_columns(b"1,x") == [Row(1, {"a": "1", "b": "x"}, b"1,x")]


def test_blank_lines_are_no_rows() -> None:
    assert shape(two_columns(b"", b"1,x", b"  ", b"2,y")) == [["1", "x"], ["2", "y"]]


def test_what_a_spreadsheet_adds_at_the_end_is_ignored() -> None:
    assert shape(two_columns(b"1,x,,", b",", b",,,", b'"", ,', b"2,y")) == [["1", "x"], ["2", "y"]]


def test_quotes_hold_delimiters_quotes_and_line_ends() -> None:
    assert two_columns(b'1,"x, ""y""', b"", b'z"', b"2,q") == [
        Row(1, {"a": "1", "b": 'x, "y"\n\nz'}, b'1,"x, ""y""\n\nz"'),
        Row(4, {"a": "2", "b": "q"}, b"2,q"),
    ]


def test_a_quote_inside_an_unquoted_field_is_a_quote() -> None:
    assert shape(two_columns(b'1,FRAME 12"', b"2,y")) == [["1", 'FRAME 12"'], ["2", "y"]]


@pytest.mark.parametrize("bad", [b"1", b"1,2,3", b"1,2,,3", b'1,2,"x"'])
def test_a_wrong_number_of_columns_is_rejected_alone(bad: bytes) -> None:
    assert shape(two_columns(b"0,w", bad, b"2,y")) == [["0", "w"], (2, "column_count"), ["2", "y"]]


def test_text_behind_a_closing_quote_is_rejected_alone() -> None:
    assert shape(two_columns(b"0,w", b'1,"x"y', b"2,y")) == [["0", "w"], (2, "not_csv"), ["2", "y"]]


def test_a_quote_that_is_never_closed_costs_only_its_own_row() -> None:
    rows = [b"%d,x" % number for number in range(5)]
    assert shape(two_columns(b'9,"open', *rows)) == [(1, "not_csv"), *([str(n), "x"] for n in range(5))]


def test_an_open_quote_that_a_later_row_seems_to_close_costs_only_its_own_row() -> None:
    found = two_columns(b'9,"open', b"1,x", b'2,"y"', b"3,z")
    assert shape(found) == [(1, "not_csv"), ["1", "x"], ["2", "y"], ["3", "z"]]


def test_rows_swallowed_into_one_of_the_wrong_width_are_given_back() -> None:
    found = two_columns(b'8,"open', b"1,x", b'2,FRAME 12",4', b"3,z")
    assert shape(found) == [(1, "column_count"), ["1", "x"], (3, "column_count"), ["3", "z"]]


def test_an_open_quote_swallows_a_bounded_number_of_lines() -> None:
    format = Csv(["a", "b"], delimiter=",")
    lines = [b'9,"open', *[b"1,x"] * (MAX_RECORD_LINES - 1)]
    found = [record for number, raw in enumerate(lines, start=1) for record in format.feed(number, raw)]
    assert shape(found) == [(1, "not_csv"), *[["1", "x"]] * (MAX_RECORD_LINES - 1)]


def test_an_open_quote_swallows_a_bounded_number_of_bytes() -> None:
    format = Csv(["a", "b"], delimiter=",")
    big = b"1," + b"x" * 600_000
    found = [record for number, raw in enumerate([b'9,"open', big, big], start=1) for record in format.feed(number, raw)]
    assert [record.number for record in found] == [1, 2, 3]
    assert shape(found)[0] == (1, "not_csv")


def test_a_field_may_be_as_long_as_a_line() -> None:
    found = two_columns(b"1," + b"x" * 900_000)
    assert isinstance(found[0], Row)


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=2, max_size=2),
        max_size=8,
    )
)
def test_what_csv_writes_is_read_back(rows: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    found = two_columns(*out.getvalue().encode().split(b"\n"))
    assert shape(found) == [row for row in rows if any(map(str.strip, row))]


@given(st.lists(st.sampled_from([b"1,x", b'2,"y"', b'3,"', b'",4', b'5,""', b"6", b'"', b'7,"z', b'8",9']), max_size=12))
def test_no_line_is_lost_or_read_twice(lines: list[bytes]) -> None:
    found = two_columns(*lines)
    assert b"\n".join(record.raw for record in found) == b"\n".join(lines)


def test_a_number_out_of_any_range_is_rejected_alone() -> None:
    assert shape(records(JsonLines(), b'{"price": 1e9999999999999999999999}', b'{"price": 1}')) == [(1, "not_json"), [1]]


def test_other_delimiters() -> None:
    assert shape(records(Csv(["a", "b"], delimiter=";"), b"1,5;x")) == [["1,5", "x"]]


def test_wrong_utf8_and_nul_bytes_are_rejected_alone() -> None:
    found = two_columns(b"0,w", b"1,\xff", b"2,\0", b"3,z")
    assert shape(found) == [["0", "w"], (2, "not_utf8"), (3, "nul_byte"), ["3", "z"]]


def test_encodings_are_tried_in_turn_for_each_line() -> None:
    found = records(Csv(["a", "b"], delimiter=",", encodings=("utf-8", "cp1252")), "1,£".encode(), b"2,\xa3", b"3,\x81")
    assert shape(found) == [["1", "£"], ["2", "£"], (3, "not_utf8")]


def test_text_says_which_encodings_it_is_not_in() -> None:
    with pytest.raises(RowRejected, match="is not utf-8 or cp1252 text"):
        text(b"\x81", ("utf-8", "cp1252"))


def test_json_objects_keep_fractions_exact() -> None:
    assert records(JsonLines(), b'{"price": 0.1, "n": 12345678901234567890}', b"", b"  {}") == [
        Row(1, {"price": Decimal("0.1"), "n": 12345678901234567890}, b'{"price": 0.1, "n": 12345678901234567890}'),
        Row(3, {}, b"  {}"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "not_json"),
        (b"{'a': 1}", "not_json"),
        (b'{"a": NaN}', "not_json"),
        (b'{"a": -Infinity}', "not_json"),
        (b'{"a": ' + b"[" * 100_000, "not_json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not_json"),
        (b"[1]", "not_object"),
        (b"null", "not_object"),
        (b'"text"', "not_object"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b'{"a": "\0"}', "nul_byte"),
    ],
)
def test_what_is_no_json_object_is_rejected_alone(line: bytes, reason: str) -> None:
    assert shape(records(JsonLines(), b'{"a": 1}', line, b'{"a": 2}')) == [[1], (2, reason), [2]]


def test_a_refusal_becomes_a_rejection() -> None:
    refused = RowRejected("price", "has no price", left_out=True)
    assert refused.rejection(7, b"raw") == Rejection(7, "price", "has no price", b"raw", left_out=True)
