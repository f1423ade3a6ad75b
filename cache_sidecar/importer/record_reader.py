"""Reads records from a source: detects the format, then yields rows and rejections as bytes arrive."""

import difflib
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.elements import Elements, find_array
from cache_sidecar.importer.line_reader import Line, Lines
from cache_sidecar.importer.parsers import Csv, Format, JsonLines, Rejection, Row, RowRejected, split, text
from cache_sidecar.importer.source import DamagedInput, Source

# Before the first element of an array in an object.
_HEAD_BYTES = 64 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SEP = re.compile(rb'"?sep=([,;\t|])"?[,;\t|]*', re.IGNORECASE)
CSV = "csv"
JSON_LINES = "jsonl"


class Header(NamedTuple):
    """The header of a CSV format."""

    names: Mapping[str, Sequence[str]]
    "Each column with its alternative names; case, spaces, dashes and underscores are ignored."
    required: Sequence[str]
    encodings: Sequence[str] = ("utf-8",)
    "Tried in order, for each line."
    extra: bool = False
    "Whether unknown columns are ignored; otherwise they are an error."
    is_layout: bool = False
    "Whether this is another program's layout, which counts only if all that is required is there but for the currency."


Headers = Mapping[str, Header]


class RecordReader:
    """Records of one source."""

    def __init__(
        self,
        source: Source,
        headers: Headers,
        *,
        format: str | None,
        wrappers: Collection[str] = (),
        names: Mapping[str, str] | None = None,
        constants: Mapping[str, str] | None = None,
    ) -> None:
        """`wrappers` are names of an array in an object.

        `names` maps columns of the file to those of the format; other columns that the format does not have are ignored then.
        `constants` are values for columns that the file lacks.
        """
        self._source = source
        self._headers = headers
        self._wrappers = wrappers
        self._names = dict(names or {})
        self._constants = dict(constants or {})
        self._lines: Lines | Elements = Lines()
        self._chunks = source.chunks()
        self._records: Format
        self._early: list[Line | Rejection] = []
        self._format = format

    async def start(self) -> str:
        """Detects the format by the first line that is not blank, and returns it.

        Raises InputError when there is no such format, or when its columns are not those of the format.
        """
        try:
            if await self._begin_array():
                return JSON_LINES
            first = await self._first_line()
            delimiter = _delimiter_by_name(first)
            if delimiter:
                first = await self._first_line()
        except DamagedInput as error:
            raise InputError(f"{self._source.name}: {error}, before its first line") from None
        if first is None:
            raise InputError(f"{self._source.name} is empty")
        if self._format == JSON_LINES or (not self._format and first.raw.lstrip().startswith(b"{")):
            self._records = self._json()
            self._early.insert(0, first)
            return JSON_LINES
        if isinstance(first, Rejection):
            raise InputError(f"{self._source.name}: line {first.number} {first.message}")
        delimiter = delimiter or _delimiter(first.raw)
        format = self._format or self._detect(first, delimiter)
        self._records = self._csv(self._headers[format], first, delimiter)
        return format

    async def _begin_array(self) -> bool:
        """Reads as much as tells whether this is an array in JSON, and begins with its elements or with lines."""
        head = b""
        if self._format not in {None, JSON_LINES}:
            return False
        async for chunk in self._chunks:
            head = (head + chunk).removeprefix(_BYTE_ORDER_MARK)
            begin = find_array(head, self._wrappers)
            if begin is not None:
                self._lines, self._records = Elements(head[:begin]), self._json()
                self._early = list(self._lines.feed(head[begin:]))
                return True
            first = head.lstrip()
            if first and not (first.startswith(b"{") and len(head) < _HEAD_BYTES and first.find(b"\n") in {-1, 1, 2}):
                break
        self._early = list(self._lines.feed(head))
        return False

    def _json(self) -> JsonLines:
        return JsonLines(self._rename if self._names or self._constants else None)

    def _rename(self, value: dict[str, Any]) -> dict[str, Any]:
        """Returns an object with the names that the import knows."""
        known = {name for header in self._headers.values() for name in header.names}
        made: dict[str, Any] = dict(self._constants)
        for key, item in value.items():
            name = self._names.get(key, key)
            if key in self._names or not self._names or normal(name) in map(normal, known):
                made[name] = item
        return made

    async def batches(self) -> AsyncIterator[list[Row | Rejection]]:
        """Yields the records of each chunk, in the order of their lines."""
        yield list(self._parse(self._early))
        try:
            async for chunk in self._chunks:
                yield list(self._parse(self._lines.feed(chunk)))
        except DamagedInput as error:
            # The last line may be truncated even if it looks complete.
            partial = next(self._lines.finish(), None)
            yield list(self._records.finish())
            number, raw = (partial.number, partial.raw) if partial else (self._lines.number, b"")
            yield [Rejection(number, "incomplete", str(error), raw)]
            return
        yield [*self._parse(self._lines.finish()), *self._records.finish()]

    async def _first_line(self) -> Line | Rejection | None:
        """Returns the next line that is not blank; those after it that were read wait in `_early`."""
        if first := self._first_of(iter(self._early)):
            return first
        async for chunk in self._chunks:
            if first := self._first_of(self._lines.feed(chunk)):
                return first
        return self._first_of(self._lines.finish())

    def _first_of(self, lines: Iterator[Line | Rejection]) -> Line | Rejection | None:
        for line in lines:
            if line.raw.strip():
                self._early = list(lines)
                return line
        return None

    def _parse(self, lines: Sequence[Line | Rejection] | Iterator[Line | Rejection]) -> Iterator[Row | Rejection]:
        for line in lines:
            if isinstance(line, Rejection):
                yield from self._records.finish()
                yield line
            else:
                yield from self._records.feed(line.number, line.raw)

    def _detect(self, first: Line, delimiter: str) -> str:
        found = {normal(self._names.get(name, name)) for name in _fields(first, delimiter, self._source.name)}
        found |= set(map(normal, self._constants))
        for name, header in self._headers.items():
            required = [column for column in header.required if not (header.is_layout and column == "currency_code")]
            if all(found & _spellings(header, column) for column in required):
                return name
        # Of a header that is nearly right, the error names the wrong column.
        own = {name: header for name, header in self._headers.items() if not header.is_layout}
        nearly = [name for name, header in own.items() if found & _spellings(header, header.required[0])]
        if nearly:
            return nearly[0]
        raise InputError(
            f"cannot tell the format of {self._source.name}: its first line is neither a JSON object nor a header "
            f"with the column {' or '.join(header.required[0] for header in own.values())}; pass --map, or --format"
        )

    def _csv(self, header: Header, first: Line, delimiter: str) -> Csv:
        fields = _fields(first, delimiter, self._source.name)
        for name in self._names:
            if name not in fields:
                raise InputError(
                    f"{self._source.name} has no column {name!r} to be mapped; its columns are {', '.join(fields)}"
                )
        # With a map, a column that is called like one of ours, which the map gives to another one, is ignored as all others.
        taken, ignored = set(self._names.values()), " " if self._names else ""
        names = [self._names.get(field) or _column(header, field, taken) or ignored + field for field in fields]
        known = [name for name in names if name in header.names]
        for name in names:
            if name not in header.names and not header.extra and not self._names:
                raise InputError(f"{self._source.name}: {_no_such_column(name, header)}")
        for name in known:
            if known.count(name) > 1:
                raise InputError(f"{self._source.name} has the column {name} more than once")
        missing = [name for name in header.required if name not in known and name not in self._constants]
        if missing:
            hint = "; --currency says what it is for all rows" if missing[0] == "currency_code" else ""
            raise InputError(f"{self._source.name} lacks the column {missing[0]}; its columns are {', '.join(names)}{hint}")
        constants = {name: value for name, value in self._constants.items() if name not in known and name in header.names}
        return Csv(names, delimiter=delimiter, encodings=header.encodings, constants=constants)


def normal(name: str) -> str:
    """Returns a column name in the form used for comparison."""
    return re.sub(r"[\s_-]", "", name).lower()


def _spellings(header: Header, column: str) -> set[str]:
    return {normal(column), *map(normal, header.names[column])}


def _column(header: Header, field: str, taken: Collection[str]) -> str | None:
    return next((name for name in header.names if name not in taken and normal(field) in _spellings(header, name)), None)


def _no_such_column(name: str, header: Header) -> str:
    close = difflib.get_close_matches(name, header.names, n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    return f"there is no column {name!r}{hint}; the columns are {', '.join(header.names)}"


def _fields(line: Line, delimiter: str, name: str) -> list[str]:
    try:
        fields = split(text(line.raw), delimiter)
    except RowRejected as error:
        raise InputError(f"{name}: its first line {error}") from None
    if fields is None:
        raise InputError(f"{name}: its first line opens a quoted field that is not closed")
    names = [field.strip() for field in fields]
    # A spreadsheet writes columns without a name, or with nothing in them, too.
    while names and not names[-1]:
        names.pop()
    return names


def _delimiter_by_name(line: Line | Rejection | None) -> str:
    """Returns the delimiter that a line such as `sep=;` names, for Excel; empty for any other line."""
    found = _SEP.fullmatch(line.raw) if isinstance(line, Line) else None
    return found[1].decode() if found else ""


def _delimiter(line: bytes) -> str:
    return max(",;\t", key=lambda delimiter: line.count(delimiter.encode()))
