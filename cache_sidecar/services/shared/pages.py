"""Page tokens: where a listing goes on, and of what."""

import base64
import binascii
import json
from hashlib import sha256

from cache_sidecar.core.errors import InvalidRequest

DEFAULT_SIZE = 50
MAX_SIZE = 1000


def size(asked: int) -> int:
    """Returns the page size for the one asked for; 0 is the default."""
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
    raise InvalidRequest({"page_token": "must be the next_page_token of a page of the same listing"})


def _digest(listing: str) -> str:
    return sha256(listing.encode()).hexdigest()[:16]


def _is_text(id: str) -> bool:
    # JSON can spell surrogates, which no database takes.
    return not any("\ud800" <= character <= "\udfff" for character in id)
