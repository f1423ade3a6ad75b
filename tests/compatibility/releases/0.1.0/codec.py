"""How a record is written in Redis. Pure.

offset  bytes  content
0     16  version, hexadecimal: the Redis function compares it as a string, as Lua's numbers end at 2^53
16      2  layout, `01`; `03` for a record whose expiry every read puts off (`02` was one with other values)
18      1  kind: v value, d deleted, n none, i invalidated, l lease; f in answers only, a lease instead of something foreign
19     12  read_at in milliseconds, hexadecimal
31      8  CRC-32 of the bytes before it and of the value, hexadecimal
39         the value; in layout 03 after 44 bytes that the Redis function changes:
39     12  the last use in milliseconds, hexadecimal
51     12  the end, however it is used; all f when there is none
63     12  the use that PostgreSQL knows of
75      8  the history of the node that counted the last use, the beginning of its replication id; zeros when it is not known
83         the value
"""

from zlib import crc32

from cache_sidecar.tiers.ports import Expiry, Record

LAYOUT, SLIDING = b"01", b"03"
HEADER, SLIDING_HEADER = 39, 83
_VALUE, _DELETED, _NONE, _INVALIDATED, _LEASE, _FOREIGN = b"v", b"d", b"n", b"i", b"l", b"f"
_NO_END = 0xFFFFFFFFFFFF
_NO_HISTORY = b"00000000"


class Unreadable(Exception):
    """The bytes are not a record of this layout."""


def encode(record: Record) -> bytes:
    """Returns the bytes of a record."""
    kind = _VALUE if record.value is not None else _DELETED if record.version else _NONE
    return _pack(record.version, kind, record.read_at, record.value or b"", record.expiry)


def invalidation(version: int) -> bytes:
    """Returns the bytes that mark everything older than `version` as out of date, without saying what is current."""
    return _pack(version, _INVALIDATED, 0.0, b"")


def lease(token: bytes) -> bytes:
    """Returns the bytes that stand where a record is being read from PostgreSQL."""
    return _pack(0, _LEASE, 0.0, token)


def is_lease(data: bytes | None) -> bool:
    """Whether it is a lease."""
    return data is not None and data[18:19] == _LEASE


def instead_of_foreign(data: bytes) -> bytes | None:
    """Returns the lease, if that is what is said of one that took the place of something foreign; else None."""
    return data[:18] + _LEASE + data[19:] if data[18:19] == _FOREIGN else None


def token(lease: bytes) -> bytes:
    """Returns what a lease was made with."""
    return lease[HEADER:]


def _pack(version: int, kind: bytes, read_at: float, value: bytes, expiry: Expiry | None = None) -> bytes:
    layout, times = (LAYOUT, b"") if expiry is None else (SLIDING, _times(expiry))
    head = b"%016x%b%b%012x" % (version, layout, kind, int(read_at * 1000))
    return b"%b%08x%b%b" % (head, _checksum(head, value), times, value)


def _checksum(head: bytes, value: bytes) -> int:
    return crc32(value, crc32(head))


def _times(expiry: Expiry) -> bytes:
    end = _NO_END if expiry.end is None else round(expiry.end * 1000)
    times = round(expiry.used * 1000), end, round(expiry.stored * 1000)
    return b"%012x%012x%012x%b" % (*times, history(expiry.history))


def history(name: str) -> bytes:
    """Returns a history as it stands in a record."""
    return name.encode() or _NO_HISTORY


def milliseconds(moment: float) -> bytes:
    """Returns a moment as it stands in a record."""
    return b"%012x" % max(0, round(moment * 1000))


def decode(data: bytes) -> Record | None:
    """Returns the record, or None for an invalidation or a lease. Raises Unreadable for anything that is not whole."""
    kind = data[18:19]
    header = {LAYOUT: HEADER, SLIDING: SLIDING_HEADER}.get(data[16:18])
    if header is None or len(data) < header:
        raise Unreadable("another layout")
    value = data[header:]
    try:
        version, read_at, checksum = int(data[:16], 16), int(data[19:31], 16) / 1000, int(data[31:HEADER], 16)
        expiry = _expiry(data) if header == SLIDING_HEADER else None
    except ValueError:
        raise Unreadable("a header that is no number") from None
    if kind == _LEASE:
        return None  # its version may be that of the mark it took the place of, which the checksum does not cover
    if checksum != _checksum(data[:31], value):
        raise Unreadable("a record cut short or changed")
    if kind == _VALUE:
        return Record(version, read_at, value, expiry)
    if kind in (_DELETED, _NONE):
        return Record(version, read_at, None, expiry)
    if kind == _INVALIDATED:
        return None
    raise Unreadable("a kind of record this version does not know")


def _expiry(data: bytes) -> Expiry:
    used, end, stored = int(data[39:51], 16), int(data[51:63], 16), int(data[63:75], 16)
    known = data[75:SLIDING_HEADER]
    return Expiry(
        used / 1000,
        None if end == _NO_END else end / 1000,
        stored / 1000,
        "" if known == _NO_HISTORY else known.decode("ascii", "replace"),
    )
