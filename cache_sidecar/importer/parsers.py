"""Cuts lines into records: CSV rows and JSON objects. A broken one is rejected alone, whatever stands around it."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn, Protocol


class Row(NamedTuple):
    """One record of the input: named values, not yet checked by the rules of a noun."""

    number: int
    "Of its first line."
    values: Mapping[str, Any]
    raw: bytes


class Rejection(NamedTuple):
    """A record that is not imported, and why."""

    number: int
    "Of its first line."
    reason: str
    "A stable code; importer/README.md lists them."
    message: str
    raw: bytes
    left_out: bool = False
    "Whether it was left out on purpose, rather than being wrong."


class RowRejected(Exception):
    """What the rules of a noun raise for a row."""

    def __init__(self, reason: str, message: str, *, left_out: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.left_out = left_out

    def rejection(self, number: int, raw: bytes) -> Rejection:
        """Returns what is kept of it."""
        return Rejection(number, self.reason, str(self), raw, self.left_out)


def short(value: object) -> str:
    """Returns a value as an error message shows it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


class Format(Protocol):
    """Takes lines, gives records."""

    def feed(self, number: int, raw: bytes) -> Iterator[Row | Rejection]:
        """Yields the records that one more line completes."""
        ...

    def finish(self) -> Iterator[Row | Rejection]:
        """Yields what is left when no more lines come."""
        ...


def text(raw: bytes, encodings: Sequence[str] = ("utf-8",)) -> str:
    """Returns decoded text. Raises RowRejected for what is not in any of the encodings, and for NUL bytes."""
    if b"\0" in raw:
        raise RowRejected("nul_byte", "has a NUL byte in it")
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise RowRejected("not_utf8", f"is not {' or '.join(encodings)} text")


class JsonLines:
    """One JSON object per line. Numbers with a fraction come as Decimal, so that prices stay exact."""

    def feed(self, number: int, raw: bytes) -> Iterator[Row | Rejection]:
        """Yields the object of a line; nothing for a blank line."""
        if raw.strip():
            try:
                yield Row(number, _json_object(raw), raw)
            except RowRejected as refused:
                yield refused.rejection(number, raw)

    def finish(self) -> Iterator[Row | Rejection]:
        """Yields nothing: no object goes over a line's end."""
        return iter(())


def _json_object(raw: bytes) -> dict[str, Any]:
    line = text(raw)
    try:
        value = json.loads(line, parse_float=Decimal, parse_constant=_no_constant)
    except RecursionError:
        raise RowRejected("not_json", "is nested too deeply") from None
    except ValueError as error:
        raise RowRejected("not_json", f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowRejected("not_object", "is JSON, but not an object in braces")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


# Lines that one CSV record may go over. An opening quote that is never closed swallows no more than these, and they are
# then read again one by one.
MAX_RECORD_LINES = 1000
# Also the most that csv takes as one field.
MAX_RECORD_BYTES = 1024 * 1024


class Csv:
    """Rows of CSV below a header; quoted fields may hold delimiters and line ends."""

    def __init__(self, columns: Sequence[str], *, delimiter: str, encodings: Sequence[str] = ("utf-8",)) -> None:
        self._columns = tuple(columns)
        self._delimiter = delimiter
        self._encodings = encodings
        # From the line where the next record starts; more than one only while a quote is open.
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        # How many of them have been tried as one record.
        self._tried = 0
        csv.field_size_limit(MAX_RECORD_BYTES)

    def feed(self, number: int, raw: bytes) -> Iterator[Row | Rejection]:
        """Yields the rows that one more line completes."""
        self._waiting.append((number, raw))
        self._waiting_bytes += len(raw) + 1
        return self._complete(ended=False)

    def finish(self) -> Iterator[Row | Rejection]:
        """Yields what is left: a row whose quote was never closed, and those behind it."""
        return self._complete(ended=True)

    def _complete(self, *, ended: bool) -> Iterator[Row | Rejection]:
        while self._waiting:
            number, raw = self._waiting[0]
            if not raw.strip():
                self._drop(1)
                continue
            try:
                fields, lines = self._first_record(ended=ended)
            except RowRejected as refused:
                self._drop(1)
                yield refused.rejection(number, raw)
                continue
            if not lines:
                return
            raw = b"\n".join(line for _, line in self._waiting[:lines])
            self._drop(lines)
            yield Row(number, dict(zip(self._columns, fields, strict=True)), raw)

    def _drop(self, lines: int) -> None:
        self._waiting_bytes -= sum(len(raw) + 1 for _, raw in self._waiting[:lines])
        del self._waiting[:lines]
        self._tried = 0

    def _first_record(self, *, ended: bool) -> tuple[list[str], int]:
        """Returns the fields of the record that starts the waiting lines, and its lines: 0 when more are needed.

        Raises RowRejected when its first line has to go; the others then stand for themselves.
        """
        while self._tried < len(self._waiting):
            self._tried += 1
            # Only a line with a quote can close one.
            if self._tried > 1 and b'"' not in self._waiting[self._tried - 1][1]:
                continue
            fields = self._parse(b"\n".join(raw for _, raw in self._waiting[: self._tried]))
            if fields is not None:
                return fields, self._tried
        if ended or self._tried >= MAX_RECORD_LINES or self._waiting_bytes > MAX_RECORD_BYTES:
            raise RowRejected("not_csv", "opens a quoted field that is not closed")
        return [], 0

    def _parse(self, raw: bytes) -> list[str] | None:
        """Returns the fields, or None while a quote is open."""
        fields = split(text(raw, self._encodings), self._delimiter)
        if fields is not None and len(fields) != len(self._columns):
            raise RowRejected("column_count", f"has {len(fields)} columns, the header has {len(self._columns)}")
        return fields


def split(line: str, delimiter: str) -> list[str] | None:
    """Returns the fields of one CSV record, or None when a quoted field is still open at its end.

    Raises RowRejected for what is not CSV.
    """
    # The second line is there to see whether the first was enough.
    reader = csv.reader((line, ""), delimiter=delimiter, strict=True)
    try:
        return next(reader)
    except csv.Error as error:
        if reader.line_num > 1:
            return None
        raise RowRejected("not_csv", f"is not CSV: {error}") from None
