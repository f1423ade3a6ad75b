"""The format of a record in Redis. Pure.

offset  bytes  content
0     16  version, hexadecimal: the Redis scripts compare it as a string, as Lua's numbers end at 2^53
16      2  layout, `01`; `03` for a record that slides (`02` was one with other values); `11` and `13` for the same with a MAC
18      1  kind: v value, d deleted, n none, i invalidated, l lease; f in replies only, a lease instead of a foreign value
19     12  read_at in milliseconds, hexadecimal
31      8  CRC-32 of the bytes before it and of the value, hexadecimal
39         the value; in layouts 03 and 13 after 44 bytes that the Redis scripts change, but for the end:
39     12  the last use in milliseconds, hexadecimal
51     12  the end, however much it is used; all f if there is none
63     12  the last use that PostgreSQL knows of
75      8  the history of the node that counted the last use, the beginning of its replication id; zeros if unknown
83         the value

In layouts 11 and 13 the value follows a MAC of 16 bytes, see `macs.py`. It covers the first 31 bytes, the end and the value. It
does not cover the uses: the scripts count them, and have no key. Leases and marks have none: no read is answered with them.
"""

import re
from collections.abc import Callable
from zlib import crc32

from cache_sidecar.tiers.ports import Expiry, Record

LAYOUT, SLIDING = b"01", b"03"
SIGNED = {LAYOUT: b"11", SLIDING: b"13"}
_UNSIGNED = {signed: layout for layout, signed in SIGNED.items()}
KIND = slice(18, 19)
HEADER, SLIDING_HEADER, MAC = 39, 83, 16
_END = slice(51, 63)
_VALUE, _DELETED, _NONE, _INVALIDATED, LEASE, FOREIGN = b"v", b"d", b"n", b"i", b"l", b"f"
_VERSION = re.compile(rb"[0-7][0-9a-f]{15}")
_NO_END = 0xFFFFFFFFFFFF
_NO_HISTORY = b"00000000"


class Unreadable(Exception):
    """The bytes are not a record of this layout."""


class Unsigned(Unreadable):
    """A record whose MAC is missing or wrong: another program wrote it, or changed it."""


Sign = Callable[[bytes], bytes]
"""Returns the MAC of the covered bytes."""
IsValid = Callable[[bytes, bytes], bool]
"""Whether a MAC, empty if there is none, is that of the covered bytes."""


def encode(record: Record, sign: Sign | None = None) -> bytes:
    """Returns the bytes of a record, with a MAC if there is something to sign with."""
    kind = _VALUE if record.value is not None else _DELETED if record.version else _NONE
    return _pack(record.version, kind, record.read_at, record.value or b"", expiry=record.expiry, sign=sign)


def invalidation(version: int) -> bytes:
    """Returns the bytes that mark everything older than `version` as out of date, without saying what is current."""
    return _pack(version, _INVALIDATED, 0.0, b"")


def lease(token: bytes) -> bytes:
    """Returns the bytes that take the place of a record while it is read from PostgreSQL."""
    return _pack(0, LEASE, 0.0, token)


def instead_of_foreign(data: bytes) -> bytes:
    """Returns the lease of a reply of the kind FOREIGN: it has taken the place of a value that was no record."""
    return data[:18] + LEASE + data[19:]


def token(lease: bytes) -> bytes:
    """Returns the token that a lease was made with."""
    return lease[HEADER:]


def _pack(
    version: int,
    kind: bytes,
    read_at: float,
    value: bytes,
    *,
    expiry: Expiry | None = None,
    sign: Sign | None = None,
) -> bytes:
    layout, times = (LAYOUT, b"") if expiry is None else (SLIDING, _times(expiry))
    head = b"%016x%b%b%012x" % (version, layout if sign is None else SIGNED[layout], kind, int(read_at * 1000))
    mac = b"" if sign is None else sign(head + times[_END.start - HEADER : _END.stop - HEADER] + value)
    return b"%b%08x%b%b%b" % (head, crc32(value, crc32(head)), times, mac, value)


def _times(expiry: Expiry) -> bytes:
    end = _NO_END if expiry.end is None else round(expiry.end * 1000)
    times = round(expiry.used * 1000), end, round(expiry.stored * 1000)
    return b"%012x%012x%012x%b" % (*times, history(expiry.history))


def history(name: str) -> bytes:
    """Returns a history in the format of a record."""
    return name.encode() or _NO_HISTORY


def milliseconds(moment: float) -> bytes:
    """Returns a moment in the format of a record."""
    return b"%012x" % max(0, round(moment * 1000))


def version(number: int) -> bytes:
    """Returns a version in the format of a record."""
    return b"%016x" % number


def parse_version(digits: bytes) -> int:
    """Returns the version of 16 hexadecimal digits. Raises ValueError for anything else.

    PostgreSQL's versions end at 2^63-1. Whatever says more is forged: no row could ever be newer, and the native engine, which
    keeps versions as it does, could not hold it.
    """
    if not _VERSION.fullmatch(digits):
        raise ValueError("not a version")
    return int(digits, 16)


def decode(data: bytes, is_valid: IsValid | None = None) -> Record | None:
    """Returns the record, or None for an invalidation or a lease. Raises Unreadable for anything else.

    With `is_valid`, raises Unsigned for a record whose MAC is not; without, no MAC is looked at.
    """
    kind, layout = data[KIND], data[16:18]
    header = {LAYOUT: HEADER, SLIDING: SLIDING_HEADER}.get(_UNSIGNED.get(layout, layout))
    signed = header if header is None or layout not in _UNSIGNED else header + MAC
    if header is None or signed is None or len(data) < signed:
        raise Unreadable("another layout")
    mac, value = data[header:signed], data[signed:]
    try:
        version, read_at, checksum = parse_version(data[:16]), int(data[19:31], 16) / 1000, int(data[31:HEADER], 16)
        expiry = None
        if header == SLIDING_HEADER:
            used, end, stored, name = int(data[39:51], 16), int(data[51:63], 16), int(data[63:75], 16), data[75:SLIDING_HEADER]
            expiry = Expiry(
                used / 1000,
                None if end == _NO_END else end / 1000,
                stored / 1000,
                "" if name == _NO_HISTORY else name.decode("ascii", "replace"),
            )
    except ValueError:
        raise Unreadable("a header that is not a number") from None
    if kind == LEASE:
        return None  # not checked: its version may be that of the mark it replaced, put there by the script
    if checksum != crc32(value, crc32(data[:31])):
        raise Unreadable("a record cut short or changed")
    if kind == _INVALIDATED:
        return None
    if is_valid is not None and not is_valid(mac, data[:31] + (b"" if expiry is None else data[_END]) + value):
        raise Unsigned("without a valid MAC")
    if kind == _VALUE:
        return Record(version, read_at, value, expiry)
    if kind in (_DELETED, _NONE):
        return Record(version, read_at, None, expiry)
    raise Unreadable("a kind of record this version does not know")
