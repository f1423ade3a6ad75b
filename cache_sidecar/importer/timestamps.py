"""Timestamps in input files. Pure.

From 1970 to the end of 9999: the range that Timestamp, datetime, timestamptz and the milliseconds in Redis have in common. A
number must be plausible as seconds since 1970: Excel's day numbers and dates written as 20261128 would otherwise be read as
times in 1970.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from cache_sidecar.importer.parsers import RowRejected

FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
# Numbers are accepted as seconds within these years.
_FIRST_NUMBER, _LAST_NUMBER = datetime(2000, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp()
# How far the clock of the file's writer may be ahead of ours.
AHEAD = timedelta(minutes=5)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")


def timestamp(name: str, value: Any) -> datetime:
    """Parses a time written as 2026-11-23T20:38:00Z, with any offset, or in seconds since 1970. Raises RowRejected."""
    text = str(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise RowRejected("wrong_type", f"needs a timestamp as {name}")
    if _NUMBER.fullmatch(text):
        return _of_number(name, text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise RowRejected("time", f"has a {name} that is not a timestamp such as 2026-11-23T20:38:00Z: {text[:60]!r}") from None
    if found.tzinfo is None:
        raise RowRejected(
            "time", f"has a {name} without an offset from UTC, such as the Z in 2026-11-23T20:38:00Z: {text[:60]!r}"
        )
    try:
        utc = found.astimezone(UTC)
    except OverflowError:
        utc = datetime.min.replace(tzinfo=UTC)
    if not FIRST <= utc < LAST + timedelta(microseconds=999_999):
        raise RowRejected("time", f"has a {name} that is not between {_isoformat(FIRST)} and {_isoformat(LAST)}: {text[:60]!r}")
    return utc


def past_timestamp(name: str, value: Any, now: datetime) -> datetime:
    """Parses the time of something that happened: at most `now`, except for a clock slightly ahead. Raises RowRejected."""
    found = timestamp(name, value)
    if found > now + AHEAD:
        raise RowRejected("future", f"has a {name} in the future: {_isoformat(found)}")
    return min(found, now)


def _of_number(name: str, text: str) -> datetime:
    # The length is checked first: converting a very long number takes long.
    if len(text) > 30 or not _FIRST_NUMBER <= float(text) < _LAST_NUMBER:
        raise RowRejected(
            "time",
            f"has a {name} that is neither seconds since 1970, within the years 2000 to 2099, nor a timestamp such as "
            f"2026-11-23T20:38:00Z: {text[:60]}",
        )
    return datetime.fromtimestamp(float(text), UTC)


def _isoformat(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
