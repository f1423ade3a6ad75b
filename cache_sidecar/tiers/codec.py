"""How a record is written in Redis. Pure.

offset  bytes  content
0     16  version, hexadecimal: the Redis function compares it as a string, as Lua's numbers end at 2^53
16      2  layout, `01`
18      1  kind: v value, d deleted, n none, i invalidated
19     12  read_at in milliseconds, hexadecimal
31      8  CRC-32 of the value, hexadecimal
39         the value
"""

from zlib import crc32

from cache_sidecar.tiers.ports import Record

LAYOUT = b"01"
HEADER = 39
_VALUE, _DELETED, _NONE, _INVALIDATED = b"v", b"d", b"n", b"i"


class Unreadable(Exception):
    """The bytes are not a record of this layout."""


def encode(record: Record) -> bytes:
    """Returns the bytes of a record."""
    kind = _VALUE if record.value is not None else _DELETED if record.version else _NONE
    return _pack(record.version, kind, record.read_at, record.value or b"")


def invalidation(version: int) -> bytes:
    """Returns the bytes that mark everything older than `version` as out of date, without saying what is current."""
    return _pack(version, _INVALIDATED, 0.0, b"")


def _pack(version: int, kind: bytes, read_at: float, value: bytes) -> bytes:
    return b"%016x%b%b%012x%08x%b" % (version, LAYOUT, kind, int(read_at * 1000), crc32(value), value)


def decode(data: bytes) -> Record | None:
    """Returns the record, or None for an invalidation. Raises Unreadable for anything that is not a whole record."""
    kind, value = data[18:19], data[HEADER:]
    if data[16:18] != LAYOUT or len(data) < HEADER:
        raise Unreadable("another layout")
    try:
        version, milliseconds, checksum = int(data[:16], 16), int(data[19:31], 16), int(data[31:HEADER], 16)
    except ValueError:
        raise Unreadable("a header that is no number") from None
    if checksum != crc32(value):
        raise Unreadable("a value cut short or changed")
    if kind == _VALUE:
        return Record(version, milliseconds / 1000, value)
    if kind in (_DELETED, _NONE):
        return Record(version, milliseconds / 1000, None)
    if kind == _INVALIDATED:
        return None
    raise Unreadable("a kind of record this version does not know")
