"""The little of protobuf's encoding that replies are put together with, https://protobuf.dev/programming-guides/encoding.

Fields may follow each other in any order, but one that is not repeated must come once: many runtimes don't merge two of a
message field, and keep the last. So what is added to a cached message goes inside its field, whose length is written anew.
"""

_LENGTH = 2


def field(number: int, *parts: bytes) -> bytes:
    """Returns a string, bytes or message field whose value is the parts one after the other."""
    return b"".join((_varint(number << 3 | _LENGTH), _varint(sum(map(len, parts))), *parts))


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
