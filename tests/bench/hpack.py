"""Header compression of HTTP/2 (RFC 7541): a whole decoder, and the literals an encoder needs.

The load generator decodes a server's trailers, so that a refused call is never counted as served.
"""

from collections import deque

from tests.bench import huffman

Header = tuple[bytes, bytes]

# RFC 7541, appendix A: index 1 to 61.
STATIC: tuple[Header, ...] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    *((b":status", status) for status in (b"200", b"204", b"206", b"304", b"400", b"404", b"500")),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *(
        (name, b"")
        for name in (
            b"accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control "
            b"content-disposition content-encoding content-language content-length content-location content-range "
            b"content-type cookie date etag expect expires from host if-match if-modified-since if-none-match "
            b"if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate "
            b"proxy-authorization range referer refresh retry-after server set-cookie strict-transport-security "
            b"transfer-encoding user-agent vary via www-authenticate"
        ).split()
    ),
)

_ENTRY_OVERHEAD = 32


class HpackError(ValueError):
    """The bytes are not a header block."""


class Decoder:
    """Decodes the header blocks of one direction of a connection, in order."""

    def __init__(self, *, max_size: int = 4096) -> None:
        self.revision = 0
        "Changes with the dynamic table: until then, equal blocks mean equal headers."
        self._max_size = self._limit = max_size
        self._size = 0
        self._table: deque[Header] = deque()

    def decode(self, block: bytes) -> list[Header]:
        """Returns the headers of a whole block. Raises HpackError."""
        headers: list[Header] = []
        position = 0
        try:
            while position < len(block):
                position = self._field(block, position, headers)
        except (IndexError, huffman.HuffmanError) as error:
            raise HpackError(f"a header block that ends or continues wrongly: {error}") from None
        return headers

    def _field(self, block: bytes, position: int, headers: list[Header]) -> int:
        """Reads one representation; returns the position behind it."""
        first = block[position]
        if first & 0x80:
            index, position = read_integer(block, position, 7)
            headers.append(self._entry(index))
        elif first & 0x40:
            header, position = self._literal(block, position, 6)
            headers.append(header)
            self._add(header)
        elif first & 0x20:
            size, position = read_integer(block, position, 5)
            self._resize(size)
        else:
            header, position = self._literal(block, position, 4)
            headers.append(header)
        return position

    def _literal(self, block: bytes, position: int, prefix: int) -> tuple[Header, int]:
        index, position = read_integer(block, position, prefix)
        if index:
            name = self._entry(index)[0]
        else:
            name, position = _read_string(block, position)
        value, position = _read_string(block, position)
        return (name, value), position

    def _entry(self, index: int) -> Header:
        if index == 0 or index > len(STATIC) + len(self._table):
            raise HpackError(f"there is no header with index {index}")
        return STATIC[index - 1] if index <= len(STATIC) else self._table[index - len(STATIC) - 1]

    def _add(self, header: Header) -> None:
        self.revision += 1
        self._table.appendleft(header)
        self._size += _size(header)
        self._evict()

    def _resize(self, size: int) -> None:
        if size > self._limit:
            raise HpackError(f"a table of {size} bytes, where {self._limit} were allowed")
        self.revision += 1
        self._max_size = size
        self._evict()

    def _evict(self) -> None:
        while self._size > self._max_size:
            self._size -= _size(self._table.pop())


def _size(header: Header) -> int:
    return len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD


def read_integer(data: bytes, position: int, prefix: int) -> tuple[int, int]:
    """Returns an integer whose first `prefix` bits are at `position`, and the position behind it."""
    limit = (1 << prefix) - 1
    value = data[position] & limit
    position += 1
    if value < limit:
        return value, position
    for shift in range(0, 35, 7):
        octet = data[position]
        position += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise HpackError("an integer of more than 5 bytes")


def _read_string(data: bytes, position: int) -> tuple[bytes, int]:
    is_encoded = data[position] & 0x80
    length, start = read_integer(data, position, 7)
    end = start + length
    if end > len(data):
        raise HpackError("a string that is longer than its block")
    text = data[start:end]
    return (huffman.decode(text) if is_encoded else text), end


def indexed(index: int) -> bytes:
    """Returns the representation of a header that is in one of the tables."""
    return _integer(index, 7, 0x80)


def literal(header: Header, *, name_index: int = 0) -> bytes:
    """Returns a header in full, to be added to the dynamic table; its name may be in a table."""
    name, value = header
    start = _integer(name_index, 6, 0x40)
    return start + (b"" if name_index else string(name)) + string(value)


def _integer(value: int, prefix: int, pattern: int) -> bytes:
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes((pattern | value,))
    octets = bytearray((pattern | limit,))
    value -= limit
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def string(text: bytes) -> bytes:
    return _integer(len(text), 7, 0) + text


def coded(text: bytes) -> bytes:
    """Returns a string in Huffman's code."""
    encoded = huffman.encode(text)
    return _integer(len(encoded), 7, 0x80) + encoded
