"""Reads records from a source: finds out the format, then yields rows and rejections as the bytes come in."""

import difflib
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.line_reader import Line, Lines
from cache_sidecar.importer.parsers import Csv, Format, JsonLines, Rejection, Row, RowRejected, split, text
from cache_sidecar.importer.source import DamagedInput, Source

CSV = "csv"
JSON_LINES = "jsonl"


class Columns(NamedTuple):
    """The header of a CSV dialect."""

    names: Mapping[str, Sequence[str]]
    "Each column with the spellings it goes by; letter case, spaces and underscores don't count."
    required: Sequence[str]
    encodings: Sequence[str] = ("utf-8",)
    "Tried in turn, line by line."
    extra: bool = False
    "Whether columns with other names are ignored, rather than an error."


Dialects = Mapping[str, Columns]


class RecordReader:
    """Records of one source."""

    def __init__(self, source: Source, dialects: Dialects, *, format: str | None) -> None:
        self._source = source
        self._dialects = dialects
        self._lines = Lines()
        self._chunks = source.chunks()
        self._records: Format
        self._early: list[Line | Rejection] = []
        self._format = format

    async def start(self) -> str:
        """Reads up to the first line with something in it, which tells the format, and returns that.

        Raises InputError when it tells none, or when its columns are not those of the format.
        """
        try:
            first = await self._first_line()
        except DamagedInput as error:
            raise InputError(f"{self._source.name}: {error}, before its first line") from None
        if first is None:
            raise InputError(f"{self._source.name} is empty")
        if self._format == JSON_LINES or (not self._format and first.raw.lstrip().startswith(b"{")):
            self._records = JsonLines()
            self._early.insert(0, first)
            return JSON_LINES
        if isinstance(first, Rejection):
            raise InputError(f"{self._source.name}: line {first.number} {first.message}")
        format = self._format or self._detected(first)
        self._records = self._csv(self._dialects[format], first)
        return format

    async def batches(self) -> AsyncIterator[list[Row | Rejection]]:
        """Yields the records of one chunk after the other, in the order of their lines."""
        yield list(self._taken(self._early))
        try:
            async for chunk in self._chunks:
                yield list(self._taken(self._lines.feed(chunk)))
        except DamagedInput as error:
            # The last line is only a part of itself, even where it looks like a whole one.
            partial = next(self._lines.finish(), None)
            yield list(self._records.finish())
            number, raw = (partial.number, partial.raw) if partial else (self._lines.number, b"")
            yield [Rejection(number, "incomplete", str(error), raw)]
            return
        yield [*self._taken(self._lines.finish()), *self._records.finish()]

    async def _first_line(self) -> Line | Rejection | None:
        async for chunk in self._chunks:
            lines = self._lines.feed(chunk)
            for line in lines:
                if line.raw.strip():
                    self._early = list(lines)
                    return line
        return next((line for line in self._lines.finish() if line.raw.strip()), None)

    def _taken(self, lines: Sequence[Line | Rejection] | Iterator[Line | Rejection]) -> Iterator[Row | Rejection]:
        for line in lines:
            if isinstance(line, Rejection):
                yield from self._records.finish()
                yield line
            else:
                yield from self._records.feed(line.number, line.raw)

    def _detected(self, first: Line) -> str:
        found = {normal(name) for name in _fields(first, self._source.name)}
        for name, columns in self._dialects.items():
            if all(found & _spellings(columns, column) for column in columns.required):
                return name
        # A header that is nearly right is told what is wrong with it, rather than that it is none.
        nearly = [name for name, columns in self._dialects.items() if found & _spellings(columns, columns.required[0])]
        if nearly:
            return nearly[0]
        raise InputError(
            f"cannot tell the format of {self._source.name}: its first line is neither a JSON object nor a header "
            f"with the column {' or '.join(columns.required[0] for columns in self._dialects.values())}; say --format"
        )

    def _csv(self, columns: Columns, header: Line) -> Csv:
        fields = _fields(header, self._source.name)
        names = [_column(columns, field) or field for field in fields]
        known = [name for name in names if name in columns.names]
        for name in names:
            if name not in columns.names and not columns.extra:
                raise InputError(f"{self._source.name}: {_unknown(name, columns)}")
        for name in known:
            if known.count(name) > 1:
                raise InputError(f"{self._source.name} has the column {name} more than once")
        missing = [name for name in columns.required if name not in known]
        if missing:
            raise InputError(f"{self._source.name} lacks the column {missing[0]}; its columns are {', '.join(names)}")
        return Csv(names, delimiter=_delimiter(header.raw), encodings=columns.encodings)


def normal(name: str) -> str:
    """Returns a column name as it is compared."""
    return re.sub(r"[\s_]", "", name).lower()


def _spellings(columns: Columns, column: str) -> set[str]:
    return {normal(column), *map(normal, columns.names[column])}


def _column(columns: Columns, field: str) -> str | None:
    return next((name for name in columns.names if normal(field) in _spellings(columns, name)), None)


def _unknown(name: str, columns: Columns) -> str:
    close = difflib.get_close_matches(name, columns.names, n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    return f"there is no column {name!r}{hint}; the columns are {', '.join(columns.names)}"


def _fields(header: Line, name: str) -> list[str]:
    try:
        fields = split(text(header.raw), _delimiter(header.raw))
    except RowRejected as refused:
        raise InputError(f"{name}: its first line {refused}") from None
    if fields is None:
        raise InputError(f"{name}: its first line opens a quoted field that is not closed")
    return [field.strip() for field in fields]


def _delimiter(header: bytes) -> str:
    return max(",;\t", key=lambda delimiter: header.count(delimiter.encode()))
