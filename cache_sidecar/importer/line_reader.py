"""Cuts bytes into numbered lines of bounded length."""

from collections.abc import Iterator
from typing import NamedTuple

from cache_sidecar.importer.parsers import Rejection

# No row of any noun comes near it.
MAX_LINE_BYTES = 1024 * 1024
# What is kept of a line that is longer, for whoever looks for it.
_KEPT_BYTES = 1000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line without its end, and without the byte order mark of the first one."""

    number: int
    raw: bytes


class Lines:
    """Takes bytes, gives lines; holds no more than one line and what was just fed."""

    def __init__(self) -> None:
        self._number = 0
        self._held = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[Line | Rejection]:
        """Yields the lines that more bytes complete, and a rejection for each that is too long."""
        *ended, rest = data.split(b"\n")
        for piece in ended:
            yield self._end(piece)
        self._hold(rest)

    def finish(self) -> Iterator[Line | Rejection]:
        """Yields the last line, if it ended without a newline."""
        if self._held:
            yield self._end(b"")

    @property
    def number(self) -> int:
        """The number of the line that is being read."""
        return self._number + 1

    def _hold(self, piece: bytes) -> None:
        if self._skipping:
            return
        self._held += piece
        # One byte more may be the carriage return of a line that is just not too long.
        if len(self._held) > MAX_LINE_BYTES + 1:
            self._held, self._skipping = self._held[:_KEPT_BYTES], True

    def _end(self, piece: bytes) -> Line | Rejection:
        self._hold(piece)
        self._number += 1
        raw, too_long = self._held.removesuffix(b"\r"), self._skipping
        self._held, self._skipping = b"", False
        if too_long or len(raw) > MAX_LINE_BYTES:
            return Rejection(self._number, "line_too_long", f"is longer than {MAX_LINE_BYTES:,} bytes", raw[:_KEPT_BYTES])
        return Line(self._number, raw.removeprefix(_BYTE_ORDER_MARK) if self._number == 1 else raw)
