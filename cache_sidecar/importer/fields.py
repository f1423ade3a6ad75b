"""The fields of a row, whatever noun it is of. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from cache_sidecar.importer.parsers import RowRejected, short

# Of every id, as the protos say.
MAX_ID_CHARACTERS = 128

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CAPITAL = re.compile("[A-Z]")


def snake_case(name: str) -> str:
    """Returns the name in the proto of a field that may be named as in its JSON mapping."""
    return _CAPITAL.sub(lambda capital: "_" + capital[0].lower(), name)


def named(value: Mapping[str, Any], *, known: Collection[str], ignored: Collection[str] = ()) -> dict[str, Any]:
    """Returns the fields of a JSON object by their names in the proto; null is as if absent. Raises RowRejected."""
    values: dict[str, Any] = {}
    for key, item in value.items():
        name = snake_case(key)
        if name in ignored or item is None:
            continue
        if name not in known:
            raise RowRejected("unknown_field", f"has a field {short(key)}; there are {', '.join(known)}")
        if name in values:
            raise RowRejected("unknown_field", f"has {name} twice, in two spellings")
        values[name] = item
    return values


def check_id(name: str, value: object) -> str:
    """Returns the value if it can be an id. Raises RowRejected."""
    return check_printable(name, check_text(name, value, MAX_ID_CHARACTERS, required=True))


def check_printable(name: str, text: str) -> str:
    """Returns a text without control characters. Raises RowRejected for one with some."""
    if _CONTROL.search(text):
        raise RowRejected("control_character", f"has a control character in its {name}")
    return text


def check_text(name: str, value: object, limit: int, *, required: bool = False) -> str:
    """Returns the value if it is text that PostgreSQL can hold, of at most `limit` characters. Raises RowRejected."""
    if required and (value is None or value == ""):
        raise RowRejected("missing_field", f"has no {name}")
    if not isinstance(value, str):
        raise RowRejected("wrong_type", f"has a {name} that is no text: {short(value)}")
    if len(value) > limit:
        raise RowRejected("too_long", f"has a {name} of {len(value):,} characters; at most {limit:,} are allowed")
    if not value.isascii() and _SURROGATE.search(value):
        raise RowRejected("not_unicode", f"has half a character in its {name}")
    if "\0" in value:
        raise RowRejected("control_character", f"has a NUL character in its {name}")
    return value
