"""How PostgreSQL's values become Python's: in its binary formats, which no setting changes, and one value at a time.

A value that Python cannot hold, such as the timestamp `infinity`, does not fail the statement: it becomes Unreadable, and
whoever uses it learns that its row cannot be read. So one row never costs those beside it.
"""

import struct
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.pq import Format
from psycopg.types.datetime import DateBinaryLoader, TimestampBinaryLoader
from psycopg.types.json import JsonbBinaryLoader, JsonBinaryLoader

from cache_sidecar.core.errors import DataLoss

R = TypeVar("R", bound=tuple[object, ...])

# PostgreSQL counts microseconds from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT8 = struct.Struct("!q")


class Unreadable(NamedTuple):
    """Stands for a value that Python cannot hold; using it as one raises TypeError or AttributeError."""

    why: str
    micros: int = 0
    "Of a timestamptz, its microseconds since 2000: also infinity has some."


class Micros(NamedTuple):
    """A timestamptz as PostgreSQL counts it, in microseconds since 2000: whatever a row has can be said again."""

    value: int


def micros(time: datetime | Unreadable | None) -> Micros:
    """Returns what PostgreSQL counts for a timestamptz that it returned, whatever Python makes of it."""
    if isinstance(time, Unreadable):
        return Micros(time.micros)
    assert time is not None, "the column has a value in every row"
    return Micros((time - _EPOCH) // _MICROSECOND)


def micros_from(text: str) -> Micros:
    """Returns what was written into a page token. Raises ValueError for what is no timestamptz."""
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError("more than a timestamptz holds")
    return Micros(value)


def checked(row: R, resource: str, id: str) -> R:
    """Returns a row that is about to be changed. Raises DataLoss if something in it cannot be read."""
    for value in row:
        if isinstance(value, Unreadable):
            raise DataLoss(resource, id, value.why)
    return row


class _Timestamptz(Loader):
    """A timestamptz, in UTC whatever the session's time zone."""

    format = Format.BINARY

    def load(self, data: Any) -> datetime | Unreadable:
        (value,) = _INT8.unpack(data)
        try:
            return _EPOCH + timedelta(microseconds=value)
        except OverflowError:
            return Unreadable("a time outside of the years 1 to 9999", value)


class _MicrosDumper(Dumper):
    format = Format.BINARY
    oid = psycopg.adapters.types["timestamptz"].oid

    def dump(self, obj: Micros) -> bytes:
        return _INT8.pack(obj.value)


def _tolerant(loader: Any) -> type[Loader]:
    """Returns a loader that returns Unreadable instead of failing. In Python: what is built in C never calls `load`."""

    class Tolerant(loader):  # type: ignore[misc]
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            # json: half a million digits, or as many brackets.
            except (psycopg.DataError, ValueError, OverflowError, RecursionError) as error:
                return Unreadable(str(error).splitlines()[0] if isinstance(error, psycopg.DataError) else type(error).__name__)

    return Tolerant


TYPES = AdaptersMap(psycopg.adapters)
"What connections adapt values by."
TYPES.register_loader("timestamptz", _Timestamptz)
for _name, _loader in {
    "timestamp": TimestampBinaryLoader,
    "date": DateBinaryLoader,
    "json": JsonBinaryLoader,
    "jsonb": JsonbBinaryLoader,
}.items():
    TYPES.register_loader(_name, _tolerant(_loader))
TYPES.register_dumper(Micros, _MicrosDumper)
