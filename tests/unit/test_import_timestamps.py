"""Which moments a file of a shop can say."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.timestamps import AHEAD, past_timestamp, timestamp

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-11-23T20:38:00Z", datetime(2026, 11, 23, 20, 38, tzinfo=UTC)),
        ("2026-11-23T20:38:00.5+02:00", datetime(2026, 11, 23, 18, 38, 0, 500_000, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("1970-01-01T01:00:00+01:00", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("9999-12-31T23:59:59+14:00", datetime(9999, 12, 31, 9, 59, 59, tzinfo=UTC)),
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (Decimal("1700000000.25"), datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)),
        ("946684800", datetime(2000, 1, 1, tzinfo=UTC)),
        ("4102444799", datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_moment_is_what_it_says(given: Any, expected: datetime) -> None:
    found = timestamp("create_time", given)
    assert (found, found.utcoffset()) == (expected, timedelta())


@pytest.mark.parametrize(
    "given",
    [
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "10000-01-01T00:00:00Z",
        "46354.86",
        46354,
        "20261128",
        "20261128123456",
        "1764417600000",
        "946684799",
        "4102444800",
        "0",
        "-1",
        "9" * 5000,
        "1." + "9" * 5000,
        "1e9",
        "nan",
        "2026-11-23",
        "2026-11-23T20:38:00",
        "yesterday",
        "",
    ],
)
def test_what_is_no_moment_is_refused_with_a_reason(given: Any) -> None:
    with pytest.raises(RowRejected) as caught:
        timestamp("create_time", given)
    assert caught.value.reason == "time"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("given", [True, 1.5, None, [], {}])
def test_nor_is_another_type(given: Any) -> None:
    with pytest.raises(RowRejected) as caught:
        timestamp("create_time", given)
    assert caught.value.reason == "wrong_type"


def test_what_was_is_not_in_the_future() -> None:
    later = NOW + timedelta(seconds=1)
    assert past_timestamp("update_time", "2026-11-29T11:59:59Z", NOW) == NOW - timedelta(seconds=1)
    assert past_timestamp("update_time", later.isoformat(), NOW) == NOW, "another clock may be a little ahead"
    with pytest.raises(RowRejected) as caught:
        past_timestamp("update_time", (NOW + AHEAD + timedelta(seconds=1)).isoformat(), NOW)
    assert caught.value.reason == "future"
