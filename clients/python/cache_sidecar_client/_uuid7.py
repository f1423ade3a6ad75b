"""UUIDs of version 7, which Python has from 3.14 on."""

import secrets
import uuid


def uuid7(milliseconds: int) -> str:
    """Returns a UUID that begins with a time in milliseconds since 1970."""
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
