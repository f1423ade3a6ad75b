"""Checks of fields common to all datasets. Pure."""

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from cache_sidecar.importer.parsers import RowRejected, short

# As in the protos: of every id, and of a product's title.
MAX_ID_CHARACTERS = 128
MAX_TITLE_CHARACTERS = 512

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SPREADSHEET_ERRORS = {"#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!", "#SPILL!", "#CALC!", "#GETTING_DATA"}
# Letters and marks that show nothing: the Hangul fillers, variation selectors, and the combining grapheme joiner.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CAPITAL = re.compile("[A-Z]")


def snake_case(name: str) -> str:
    """Returns the proto name of a field whose name may be that of the JSON mapping."""
    return _CAPITAL.sub(lambda capital: "_" + capital[0].lower(), name)


def fields_of(value: Mapping[str, Any], *, known: Collection[str], ignored: Collection[str] = ()) -> dict[str, Any]:
    """Returns the fields of a JSON object by proto name, without those that are null. Raises RowRejected."""
    values: dict[str, Any] = {}
    for key, item in value.items():
        name = snake_case(key)
        if name in ignored or item is None:
            continue
        if name not in known:
            raise RowRejected("unknown_field", f"has an unknown field {short(key)}; known fields: {', '.join(known)}")
        if name in values:
            raise RowRejected("unknown_field", f"has {name} under two names")
        values[name] = item
    return values


def check_id(name: str, value: object) -> str:
    """Returns the value if it is a valid id. Raises RowRejected."""
    return check_printable(name, check_text(name, value, MAX_ID_CHARACTERS, required=True))


def check_printable(name: str, text: str) -> str:
    """Returns the text of an id if all of its characters can be seen, and no spreadsheet has put an error there.

    Raises RowRejected.
    """
    if _CONTROL.search(text):
        raise RowRejected("control_character", f"has a control character in its {name}")
    # Pasted from web pages and documents; the ids of two products would look the same.
    invisible = [] if text.isascii() else [each for each in text if _is_invisible(each)]
    if invisible:
        raise RowRejected("invisible_character", f"has an invisible character in its {name}: U+{ord(invisible[0]):04X}")
    check_no_error(name, text)
    if text.startswith('="'):
        raise RowRejected("spreadsheet_formula", f"has the formula {short(text)} as its {name}: save values, not formulas")
    return text


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in {"Cf", "Zl", "Zp"} or _BLANK.match(character) is not None


def check_no_error(name: str, text: str) -> None:
    """Raises RowRejected if a spreadsheet has put an error in place of a value."""
    if text.startswith("#") and text.upper() in _SPREADSHEET_ERRORS:
        raise RowRejected("spreadsheet_error", f"has {text} as its {name}, an error of the spreadsheet")


def check_text(name: str, value: object, limit: int, *, required: bool = False) -> str:
    """Returns the value if it is a string that PostgreSQL can store, of at most `limit` characters. Raises RowRejected."""
    if required and (value is None or value == ""):
        raise RowRejected("missing_field", f"has no {name}")
    if not isinstance(value, str):
        raise RowRejected("wrong_type", f"{name} must be a string, not {short(value)}")
    if len(value) > limit:
        raise RowRejected("too_long", f"has a {name} of {len(value):,} characters; the maximum is {limit:,}")
    if not value.isascii() and _SURROGATE.search(value):
        raise RowRejected("not_unicode", f"has an unpaired surrogate in its {name}")
    if "\0" in value:
        raise RowRejected("control_character", f"has a NUL character in its {name}")
    return value
