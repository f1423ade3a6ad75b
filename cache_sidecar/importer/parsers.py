"""Parses lines into records: CSV rows and JSON objects. An invalid record does not affect the others."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn, Protocol


class Row(NamedTuple):
    """One record of the input: values by name, not yet checked for a dataset."""

    number: int
    "The number of its first line."
    values: Mapping[str, Any]
    raw: bytes


class Rejection(NamedTuple):
    """A record that is not imported, and why."""

    number: int
    "The number of its first line."
    reason: str
    "A stable code; importer/README.md lists them."
    message: str
    raw: bytes
    left_out: bool = False
    "Whether it is skipped on purpose rather than invalid."


class RowRejected(Exception):
    """A row is invalid, or skipped on purpose. The text follows "the row", such as "has no price"."""

    def __init__(self, reason: str, message: str, *, left_out: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.left_out = left_out

    def rejection(self, number: int, raw: bytes) -> Rejection:
        """Returns the rejection of a row."""
        return Rejection(number, self.reason, str(self), raw, self.left_out)


def short(value: object) -> str:
    """Returns a value as shown in an error message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


class Format(Protocol):
    """Turns lines into records."""

    def feed(self, number: int, raw: bytes) -> Iterator[Row | Rejection]:
        """Yields the records completed by one more line."""
        ...

    def finish(self) -> Iterator[Row | Rejection]:
        """Yields what remains after the last line."""
        ...


def text(raw: bytes, encodings: Sequence[str] = ("utf-8",)) -> str:
    """Returns decoded text. Raises RowRejected for text in none of the encodings, and for NUL bytes."""
    if b"\0" in raw:
        raise RowRejected("nul_byte", "contains a NUL byte")
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise RowRejected("not_utf8", f"is not {' or '.join(encodings)} text")


class JsonLines:
    """One JSON object per line. Numbers with a fraction become Decimal, so that prices stay exact."""

    def __init__(self, rename: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> None:
        """`rename` gives the names that the import knows."""
        self._rename = rename

    def feed(self, number: int, raw: bytes) -> Iterator[Row | Rejection]:
        """Yields the object of a line; nothing for a blank line."""
        if raw.strip():
            try:
                value = _json_object(raw)
                yield Row(number, self._rename(value) if self._rename else value, raw)
            except RowRejected as error:
                yield error.rejection(number, raw)

    def finish(self) -> Iterator[Row | Rejection]:
        """Yields nothing: an object is on one line."""
        return iter(())


def _json_object(raw: bytes) -> dict[str, Any]:
    line = text(raw)
    try:
        value = json.loads(line, parse_float=Decimal, parse_constant=_no_constant)
    except RecursionError:
        raise RowRejected("not_json", "is nested too deeply") from None
    except ArithmeticError:  # of Decimal, for an exponent of more than 18 digits
        raise RowRejected("not_json", "has a number that is out of any range") from None
    except ValueError as error:
        raise RowRejected("not_json", f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowRejected("not_object", "is JSON, but not an object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


# Maximum number of lines of a CSV record. A quote that is never closed swallows at most so many, which are then read again one
# by one.
MAX_RECORD_LINES = 1000
# Also the maximum size of a field for the module csv.
MAX_RECORD_BYTES = 1024 * 1024


class Csv:
    """CSV rows after the header; quoted fields may contain delimiters and line breaks."""

    def __init__(
        self,
        columns: Sequence[str],
        *,
        delimiter: str,
        encodings: Sequence[str] = ("utf-8",),
        constants: Mapping[str, str] | None = None,
    ) -> None:
        """`constants` are values of every row, by the names of further columns."""
        self._columns = tuple(columns)
        self._constants = dict(constants or {})
        self._delimiter = delimiter
        self._encodings = encodings
        # The lines from the start of the next record on; more than one only while a quote is open.
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        # How many of them were tried as one record.
        self._tried = 0
        csv.field_size_limit(MAX_RECORD_BYTES)

    def feed(self, number: int, raw: bytes) -> Iterator[Row | Rejection]:
        """Yields the rows completed by one more line."""
        self._waiting.append((number, raw))
        self._waiting_bytes += len(raw) + 1
        return self._complete(ended=False)

    def finish(self) -> Iterator[Row | Rejection]:
        """Yields what remains: a row whose quote was never closed, and those after it."""
        return self._complete(ended=True)

    def _complete(self, *, ended: bool) -> Iterator[Row | Rejection]:
        while self._waiting:
            number, raw = self._waiting[0]
            if not raw.strip():
                self._drop(1)
                continue
            try:
                fields, lines = self._first_record(ended=ended)
            except RowRejected as error:
                self._drop(1)
                yield error.rejection(number, raw)
                continue
            if not lines:
                return
            raw = b"\n".join(line for _, line in self._waiting[:lines])
            self._drop(lines)
            if not any(map(str.strip, fields)):
                continue  # a row that a spreadsheet regards as used
            yield Row(number, dict(zip(self._columns, fields, strict=True)) | self._constants, raw)

    def _drop(self, lines: int) -> None:
        self._waiting_bytes -= sum(len(raw) + 1 for _, raw in self._waiting[:lines])
        del self._waiting[:lines]
        self._tried = 0

    def _first_record(self, *, ended: bool) -> tuple[list[str], int]:
        """Returns the fields of the first record of the waiting lines, and how many lines it has: 0 if more are needed.

        Raises RowRejected when the first line is invalid; the others are then parsed without it.
        """
        while self._tried < len(self._waiting):
            self._tried += 1
            # Only a line with a quote can close the open one.
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
        while fields and len(fields) > len(self._columns) and not fields[-1].strip():
            fields.pop()  # as those of the header
        if fields is not None and len(fields) != len(self._columns):
            raise RowRejected("column_count", f"has {len(fields)} columns, the header has {len(self._columns)}")
        return fields


def split(line: str, delimiter: str) -> list[str] | None:
    """Returns the fields of one CSV record, or None when a quoted field is still open at its end. Raises RowRejected."""
    # If the reader asks for the second line, the record is incomplete.
    reader = csv.reader((line, ""), delimiter=delimiter, strict=True)
    try:
        return next(reader)
    except csv.Error as error:
        if reader.line_num > 1:
            return None
        raise RowRejected("not_csv", f"is not CSV: {error}") from None
