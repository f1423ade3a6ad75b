"""Page tokens: where a listing continues, and which listing that is."""

import base64
import binascii
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from cache_sidecar.core.errors import InvalidRequest

DEFAULT_SIZE = 50
MAX_SIZE = 1000


def size(asked: int) -> int:
    """Returns the page size for a requested one; 0 is the default."""
    return min(asked or DEFAULT_SIZE, MAX_SIZE)


def token(after: str, listing: str) -> str:
    """Returns the token of the page after an id, in a listing described by a text: at most 1,024 characters for any id."""
    return base64.urlsafe_b64encode(json.dumps([after, _digest(listing)], ensure_ascii=False).encode()).decode()


def after(token: str, listing: str) -> str:
    """Returns the id after which a page starts. Raises InvalidRequest for a token that is not of this listing."""
    if not token:
        return ""
    try:
        found = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        found = None
    match found:
        case [str(id), str(of)] if of == _digest(listing) and "\x00" not in id and _is_text(id):
            return id
    raise _invalid_token()


def place(token: str, listing: str, *parsers: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """Returns the place after which a page starts, None for the first page: `parsers` read its parts, separated by spaces.

    The last part may have spaces. Raises InvalidRequest, also when a parser raises ValueError.
    """
    text = after(token, listing)
    if not text:
        return None
    try:
        return tuple(parse(part) for parse, part in zip(parsers, text.split(" ", len(parsers) - 1), strict=True))
    except ValueError:
        raise _invalid_token() from None


def _invalid_token() -> InvalidRequest:
    return InvalidRequest({"page_token": "must be the next_page_token of a page of the same listing"})


def _digest(listing: str) -> str:
    return sha256(listing.encode()).hexdigest()[:16]


def _is_text(id: str) -> bool:
    # JSON can encode surrogates, which PostgreSQL rejects.
    return not any("\ud800" <= character <= "\udfff" for character in id)
