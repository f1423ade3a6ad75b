"""Bytes become numbered lines, however they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.importer.line_reader import MAX_LINE_BYTES, Line, Lines
from cache_sidecar.importer.parsers import Rejection
from tests.support import inside


def read(*pieces: bytes) -> list[Line | Rejection]:
    lines = Lines()
    return [*(line for piece in pieces for line in lines.feed(piece)), *lines.finish()]


def test_lines_are_numbered_from_one_and_blank_ones_count() -> None:
    assert read(b"one\n\nthree\n") == [Line(1, b"one"), Line(2, b""), Line(3, b"three")]


def test_the_last_line_needs_no_end() -> None:
    assert read(b"one\ntwo") == [Line(1, b"one"), Line(2, b"two")]


def test_carriage_returns_belong_to_the_end() -> None:
    assert read(b"one\r\ntwo\r\nthree\r") == [Line(1, b"one"), Line(2, b"two"), Line(3, b"three")]


def test_a_byte_order_mark_is_dropped_from_the_first_line_only() -> None:
    mark = b"\xef\xbb\xbf"
    assert read(mark + b"one\n" + mark + b"two\n") == [Line(1, b"one"), Line(2, mark + b"two")]


def test_a_byte_order_mark_may_arrive_in_pieces() -> None:
    assert read(b"\xef", b"\xbb", b"\xbf", b"one\n") == [Line(1, b"one")]


@given(st.lists(st.binary(max_size=20) | st.lists(st.sampled_from([b"a", b"\r"])).map(b"".join)), st.data())
def test_how_bytes_arrive_makes_no_difference(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(*pieces) == read(whole)


def test_carriage_returns_alone_end_lines_where_no_line_feed_comes() -> None:
    assert read(b"one\rtwo", b"\rthree") == [Line(1, b"one"), Line(2, b"two"), Line(3, b"three")]
    lines = Lines()
    (first, *others) = lines.feed(b"one\r" * MAX_LINE_BYTES)
    assert first == Line(1, b"one")
    assert len(others) == MAX_LINE_BYTES - 1, "lines are to come before the end of the file"


def test_a_line_feed_is_waited_for_as_long_as_a_line_may_be() -> None:
    longest = b"a\r" + b"b" * (MAX_LINE_BYTES - 2)
    assert read(b"a\r", longest[2:], b"\r", b"\nnext\r") == [Line(1, longest), Line(2, b"next")]
    too_long, following = read(b"b" * (MAX_LINE_BYTES + 1) + b"\r", b"\nnext")
    assert isinstance(too_long, Rejection)
    assert following == Line(2, b"next")


def test_a_line_of_the_most_bytes_is_taken() -> None:
    longest = b"x" * MAX_LINE_BYTES
    assert read(longest + b"\r\n" + longest + b"\n" + longest) == [Line(n, longest) for n in (1, 2, 3)]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_with_one_byte_more_is_rejected_alone(end: bytes) -> None:
    before, rejected, *after = read(b"before\n", b"x" * (MAX_LINE_BYTES + 1) + end, *([b"after"] if end else []))
    assert before == Line(1, b"before")
    assert isinstance(rejected, Rejection)
    assert (rejected.number, rejected.reason) == (2, "line_too_long")
    assert after == ([Line(3, b"after")] if end else [])


def test_an_endless_line_is_not_held() -> None:
    lines = Lines()
    for _ in range(40):
        assert list(lines.feed(b"x" * (MAX_LINE_BYTES // 4))) == []
        assert len(inside.held_of(lines)) <= MAX_LINE_BYTES + 1
    (rejected,) = lines.finish()
    assert isinstance(rejected, Rejection)
    assert len(rejected.raw) == 1000
