"""Splits bytes into numbered lines of bounded length."""

from collections.abc import Iterator
from typing import NamedTuple

from cache_sidecar.importer.parsers import Rejection

# No valid row comes near it.
MAX_LINE_BYTES = 1024 * 1024
# A line of that length, with its end: how much is looked at to know what ends lines.
_FIRST_LINE_BYTES = MAX_LINE_BYTES + len(b"\r\n")
# How much of a longer one is kept, to find it by.
KEPT_BYTES = 1000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line without its end, and without a byte order mark."""

    number: int
    raw: bytes


class Lines:
    """Turns bytes into lines; holds at most one line besides the last bytes fed.

    Lines end with a line feed, which may follow a carriage return. They end with a carriage return, as Excel for the Mac
    writes them, if no line feed comes within the length of the longest line.
    """

    def __init__(self) -> None:
        self._separator = b""
        self._undecided = b""
        self._number = 0
        self._held = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[Line | Rejection]:
        """Yields the lines completed by more bytes, and a rejection for each that is too long."""
        if not self._separator:
            data = self._undecided + data
            self._separator = _separator(data[:_FIRST_LINE_BYTES])
            self._undecided = b"" if self._separator else data
        if self._separator:
            yield from self._split(data)

    def _split(self, data: bytes) -> Iterator[Line | Rejection]:
        *ended, rest = data.split(self._separator)
        for piece in ended:
            yield self._end(piece)
        self._hold(rest)

    def finish(self) -> Iterator[Line | Rejection]:
        """Yields the last line, if it ended without a newline."""
        rest, self._undecided = self._undecided, b""
        self._separator = self._separator or _without_line_feed(rest)
        yield from self._split(rest)
        if self._held:
            yield self._end(b"")

    @property
    def number(self) -> int:
        """The number of the line being read."""
        return self._number + 1

    def _hold(self, piece: bytes) -> None:
        if self._skipping:
            return
        self._held += piece
        # The additional byte may be the carriage return of a line of maximum length.
        if len(self._held) > MAX_LINE_BYTES + 1:
            self._held, self._skipping = self._held[:KEPT_BYTES], True

    def _end(self, piece: bytes) -> Line | Rejection:
        self._hold(piece)
        self._number += 1
        raw, too_long = self._held.removesuffix(b"\r"), self._skipping
        self._held, self._skipping = b"", False
        if too_long or len(raw) > MAX_LINE_BYTES:
            return Rejection(self._number, "line_too_long", f"is longer than {MAX_LINE_BYTES:,} bytes", raw[:KEPT_BYTES])
        return Line(self._number, raw.removeprefix(_BYTE_ORDER_MARK) if self._number == 1 else raw)


def _separator(beginning: bytes) -> bytes:
    """Returns what ends lines; empty while unknown: the line feed may be in the next bytes fed."""
    if b"\n" in beginning:
        return b"\n"
    # Without the last byte: the carriage return of a line that is too long, whose line feed is cut off.
    return _without_line_feed(beginning[:-1]) if len(beginning) == _FIRST_LINE_BYTES else b""


def _without_line_feed(beginning: bytes) -> bytes:
    return b"\r" if b"\r" in beginning else b"\n"
