"""Splits a JSON array, or an object that has one, into its elements, each as a numbered line of bounded length."""

import re
from collections.abc import Collection, Iterator

from cache_sidecar.importer.line_reader import KEPT_BYTES, MAX_LINE_BYTES, Line
from cache_sidecar.importer.parsers import Rejection

# What may come before the array in an object: members with plain values.
_MEMBER = rb'\s*"[^"\\]*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[-+.0-9eE]+|true|false|null)\s*,'
_OBJECT = re.compile(rb'\s*\{(?:%s)*\s*"([^"\\]*)"\s*:\s*\[' % _MEMBER)
_ARRAY = re.compile(rb"\s*\[")
_STRUCTURE = re.compile(rb'["\[\]{},]')
_STRING_END = re.compile(rb'["\\]')


def find_array(head: bytes, wrappers: Collection[str]) -> int | None:
    """Returns where the elements begin, None if this is neither an array nor an object with one under one of the names."""
    if found := _ARRAY.match(head):
        return found.end()
    found = _OBJECT.match(head)
    return found.end() if found and found[1].decode("utf-8", "replace") in wrappers else None


class Elements:
    """Turns bytes into elements, numbered by the lines they begin on; holds at most one besides the last bytes fed."""

    def __init__(self, head: bytes) -> None:
        """`head` is what comes before the first element."""
        self._line = 1 + head.count(b"\n")
        self._start = self._line
        self._held = b""
        self._depth = 0
        self._in_string = self._is_escaped = False
        self._too_long = self._ended = False

    @property
    def number(self) -> int:
        """The number of the line being read."""
        return self._line

    def feed(self, data: bytes) -> Iterator[Line | Rejection]:
        """Yields the elements completed by more bytes, and a rejection for each that is too long; nothing after the array."""
        position = 0
        while position < len(data) and not self._ended:
            if self._is_escaped:
                self._is_escaped = False
                end = position + 1
                self._hold(data[position:end])
            else:
                found = (_STRING_END if self._in_string else _STRUCTURE).search(data, position)
                end = found.end() if found else len(data)
                is_end = found is not None and not self._depth and not self._in_string and found[0] in b",]"
                self._hold(data[position : end - 1 if is_end else end])
                if found:
                    yield from self._step(found[0], is_end=is_end)
            position = end

    def finish(self) -> Iterator[Line | Rejection]:
        """Yields a rejection if the array is not closed."""
        if not self._ended:
            yield Rejection(self._start, "incomplete", "is where the JSON array is cut off", self._held[:KEPT_BYTES].strip())

    def _step(self, token: bytes, *, is_end: bool) -> Iterator[Line | Rejection]:
        if self._in_string:
            self._in_string, self._is_escaped = token != b'"', token == b"\\"
        elif is_end:
            yield from self._end()
            self._ended = token == b"]"
        elif token == b'"':
            self._in_string = True
        elif token != b",":
            # A bracket of the wrong kind is an error of its element, which is parsed as a whole.
            self._depth = max(0, self._depth + (1 if token in b"[{" else -1))

    def _hold(self, piece: bytes) -> None:
        if not self._held:
            before = len(piece) - len(piece.lstrip())
            self._start = self._line + piece[:before].count(b"\n")
            self._held = piece[before:]
        elif not self._too_long:
            self._held += piece
        self._line += piece.count(b"\n")
        if len(self._held) > MAX_LINE_BYTES:
            self._held, self._too_long = self._held[:KEPT_BYTES], True

    def _end(self) -> Iterator[Line | Rejection]:
        raw, too_long, start = self._held.rstrip(), self._too_long, self._start
        self._held, self._too_long = b"", False
        if too_long:
            yield Rejection(start, "line_too_long", f"is longer than {MAX_LINE_BYTES:,} bytes", raw)
        elif raw:
            yield Line(start, raw)
