"""Converts PostgreSQL's values to Python's, from its binary formats, which no setting changes.

A value that Python cannot represent, such as the timestamp `infinity`, does not fail the statement. It becomes Unreadable, and
only its row cannot be used.
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
# PostgreSQL refuses any other number: from 4714 BC to before 294277, and the infinities.
_FIRST, _END = -211_813_488_000_000_000, 9_223_371_331_200_000_000
_INFINITIES = {-(2**63), 2**63 - 1}
_INT8 = struct.Struct("!q")


class Unreadable(NamedTuple):
    """In place of a value that Python cannot represent; using it as one raises TypeError or AttributeError."""

    why: str
    micros: int = 0
    "Microseconds since 2000 of a timestamptz; infinity has a number, too."


class Micros(NamedTuple):
    """A timestamptz as PostgreSQL stores it, in microseconds since 2000: any value can be sent back as it was."""

    value: int


def micros(time: datetime | Unreadable | None) -> Micros:
    """Returns the stored number of a timestamptz, even of one that is Unreadable."""
    if isinstance(time, Unreadable):
        return Micros(time.micros)
    assert time is not None, "the column has a value in every row"
    return Micros((time - _EPOCH) // _MICROSECOND)


def micros_from(text: str) -> Micros:
    """Parses the number in a page token. Raises ValueError for one that is no timestamptz."""
    value = int(text)
    if not _FIRST <= value < _END and value not in _INFINITIES:
        raise ValueError("out of the range of a timestamptz")
    return Micros(value)


def check_readable(row: R, resource: str, id: str) -> R:
    """Returns a row that is to be changed. Raises DataLoss if one of its values cannot be read."""
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
    """Returns a loader that returns Unreadable instead of failing. In Python: loaders built in C do not call `load`."""

    class Tolerant(loader):  # type: ignore[misc]
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            # Also json with half a million digits or brackets.
            except (psycopg.DataError, ValueError, OverflowError, RecursionError) as error:
                return Unreadable(str(error).splitlines()[0] if isinstance(error, psycopg.DataError) else type(error).__name__)

    return Tolerant


TYPES = AdaptersMap(psycopg.adapters)
"The conversions that connections use."
TYPES.register_loader("timestamptz", _Timestamptz)
for _name, _loader in {
    "timestamp": TimestampBinaryLoader,
    "date": DateBinaryLoader,
    "json": JsonBinaryLoader,
    "jsonb": JsonbBinaryLoader,
}.items():
    TYPES.register_loader(_name, _tolerant(_loader))
TYPES.register_dumper(Micros, _MicrosDumper)
