"""The Huffman code of HTTP/2 headers (RFC 7541, appendix B)."""

from collections.abc import Iterator

# The code is canonical, so the lengths in bits of the codes of octets 0 to 255 and of the end mark say it all.
LENGTHS = """
    13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28 6 10 10 12
    13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 13 6 7 7 7 7 7 7
    7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6 15 5 6 5 6 5 6 6 6 5 7 7
    6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28 20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23
    24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24 22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21
    23 22 23 23 20 22 22 22 23 22 22 23 26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24
    21 21 26 26 28 27 27 27 20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28 27 27
    27 27 27 26 30
"""
_END = 256


class HuffmanError(ValueError):
    """The bytes are not a string of this code."""


def decode(data: bytes) -> bytes:
    """Returns the octets of an encoded string. Raises HuffmanError."""
    octets = bytearray()
    length = code = 0
    for bit in _bits(data):
        length, code = length + 1, code << 1 | bit
        symbol = _SYMBOLS.get((length, code))
        if symbol == _END:
            raise HuffmanError("the end mark inside a string")
        if symbol is not None:
            octets.append(symbol)
            length = code = 0
    if length > 7 or code != (1 << length) - 1:
        raise HuffmanError("padding that is not the start of the end mark")
    return bytes(octets)


def encode(octets: bytes) -> bytes:
    """Returns octets as an encoded string."""
    total = bits = 0
    for octet in octets:
        length, code = _CODES[octet]
        total, bits = total + length, bits << length | code
    padding = -total % 8
    return (bits << padding | (1 << padding) - 1).to_bytes((total + padding) // 8)


def _bits(data: bytes) -> Iterator[int]:
    for octet in data:
        for shift in range(7, -1, -1):
            yield octet >> shift & 1


def _canonical(lengths: list[int]) -> dict[tuple[int, int], int]:
    """Returns (length, code) -> symbol: codes count up, in the order of length, then symbol."""
    symbols, code, last = {}, 0, 0
    for symbol in sorted(range(len(lengths)), key=lambda symbol: (lengths[symbol], symbol)):
        code <<= lengths[symbol] - last
        last = lengths[symbol]
        symbols[last, code] = symbol
        code += 1
    return symbols


_SYMBOLS = _canonical([int(length) for length in LENGTHS.split()])
_CODES = {symbol: code for code, symbol in _SYMBOLS.items()}
