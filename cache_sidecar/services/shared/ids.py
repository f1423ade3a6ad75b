"""UUIDs of version 7 (RFC 9562)."""

import secrets
from uuid import UUID

# Bits besides the time, the version and the variant.
RANDOM_BITS = 74


def make_id(milliseconds: int, *, random: int | None = None) -> UUID:
    """Returns a UUID with a time in milliseconds since 1970, so that later ones are greater.

    Its other bits are the lowest of `random` if that is given, else it is a new one.
    """
    bits = secrets.randbits(RANDOM_BITS) if random is None else random & (1 << RANDOM_BITS) - 1
    return UUID(int=milliseconds << 80 | 0x7 << 76 | bits >> 62 << 64 | 0b10 << 62 | bits & (1 << 62) - 1)
