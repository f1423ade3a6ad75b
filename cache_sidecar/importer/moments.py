"""Moments in files of a shop. Pure."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from cache_sidecar.importer.records import Refused

_SECONDS = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")


def moment(name: str, value: Any) -> datetime:
    """Returns a moment written as 2026-11-23T20:38:00Z, with any offset, or in seconds since 1970. Raises Refused."""
    text = str(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise Refused("wrong_type", f"needs a moment as {name}")
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise Refused("time", f"has a {name} that is no moment such as 2026-11-23T20:38:00Z: {text[:60]!r}") from None
    if found.tzinfo is None:
        raise Refused("time", f"has a {name} without an offset from UTC, such as the Z in 2026-11-23T20:38:00Z: {text[:60]!r}")
    return found
