"""The passwords that this process has read, masked in whatever it prints.

Libraries, servers and Python itself quote connection strings in their errors, and such an error may reach any output: a log
line, a traceback, GetStats, the message of a command. So the process knows what is to be masked, not one of its parts. A
password from a file is added whenever it is read, so rotated ones are masked, too.
"""

import json
import re
from base64 import b64encode
from urllib.parse import quote, quote_plus

MASK = "***"
# A shorter password would mask parts of every message, and is no secret.
SHORTEST = 4
# How many passwords are remembered, the last ones read: connections that are still open may quote a former one.
REMEMBERED = 64


class _Masks:
    """What is masked."""

    def __init__(self) -> None:
        self.forms: dict[str, tuple[str, ...]] = {}
        "Each password with all that it may be written as, the last one read at the end."
        self.pattern: re.Pattern[str] | None = None


_masks = _Masks()


def add(*secrets: str) -> None:
    """Masks passwords from now on."""
    for secret in secrets:
        if len(secret) < SHORTEST:
            continue
        known = _masks.forms.pop(secret, None)
        _masks.forms[secret] = known or _list_forms(secret)
        if known:
            continue
        while len(_masks.forms) > REMEMBERED:
            del _masks.forms[next(iter(_masks.forms))]
        # The longest first: one password may be the beginning of another. Replaced as a whole, as other threads use it.
        forms = sorted({form for forms in _masks.forms.values() for form in forms}, key=len, reverse=True)
        _masks.pattern = re.compile("|".join(map(re.escape, forms)))


def mask(text: str) -> str:
    """Returns a text without the passwords, in whatever form it has them."""
    return _masks.pattern.sub(MASK, text) if _masks.pattern is not None else text


def clear() -> None:
    """Forgets all passwords: for tests, which share one process."""
    _masks.forms.clear()
    _masks.pattern = None


def _list_forms(secret: str) -> tuple[str, ...]:
    """Returns what a password may look like: itself, percent-encoded, escaped in quotes, in base64."""
    encoded = [quote(secret, safe=""), quote(secret), quote_plus(secret)]
    escaped = [repr(secret)[1:-1], repr(secret.encode())[2:-1], json.dumps(secret)[1:-1]]
    in_base64 = b64encode(secret.encode()).decode()
    lower = [re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), form) for form in encoded]
    return tuple(dict.fromkeys([secret, *encoded, *lower, *escaped, in_base64, in_base64.rstrip("=")]))
