"""The part of protobuf's encoding that replies are assembled with, see https://protobuf.dev/programming-guides/encoding.

Fields may be in any order, but a field that is not repeated must occur once: many runtimes do not merge two occurrences of a
message field, and keep the last. So what is added to a cached message goes inside its field, whose length is recomputed.
"""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

M = TypeVar("M", bound=Message)
_LENGTH = 2


def field(number: int, *parts: bytes) -> bytes:
    """Returns a string, bytes or message field whose value is the concatenated parts."""
    return b"".join((_varint(number << 3 | _LENGTH), _varint(sum(map(len, parts))), *parts))


def parse(kind: type[M], data: bytes) -> M | None:
    """Returns the message of its bytes, None for bytes that are none; takes half a microsecond for a product or a cart."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def has_only(message: Message, name: str) -> bool:
    """Whether a message has one field and no other, not even one that this version does not know."""
    fields = message.ListFields()
    return len(fields) == 1 and fields[0][0].name == name and not len(UnknownFieldSet(message))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_ONE_BYTE = [bytes([value]) for value in range(0x80)]
