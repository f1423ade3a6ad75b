"""Times as callers see them."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(time: datetime) -> Timestamp:
    """Returns a time as a message."""
    made = Timestamp()
    made.FromDatetime(time)
    return made


def optional_timestamp(time: datetime | None) -> Timestamp | None:
    """Returns a time as a message; None, which leaves a field unset, for None."""
    if time is None:
        return None
    made = Timestamp()
    made.FromDatetime(time)
    return made


def timestamp_of_micros(micros: int) -> Timestamp:
    """Returns microseconds since 1970 as a message."""
    made = Timestamp()
    made.FromMicroseconds(micros)
    return made


def datetime_of(seconds: float) -> datetime:
    """Returns seconds since 1970 as a datetime in UTC; the last one there is for what is out of its range."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):
        return datetime.max.replace(tzinfo=UTC)
