"""Frames of HTTP/2 (RFC 9113) as a gRPC client needs them."""

from struct import Struct

from tests.bench import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
HEADER = Struct(">HBBBL")
"Length, split in its high 16 and its low 8 bits, type, flags, stream."
MESSAGE = Struct(">BL")
"What gRPC puts before each message: whether it is compressed, and its length."

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5

DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
DEFAULT_FRAME_BYTES = 16_384

_SETTING = Struct(">HL")
_WORD = Struct(">L")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Returns a whole frame."""
    return HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """Returns a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


def read_settings(payload: bytes) -> dict[int, int]:
    """Returns the settings in the payload of a SETTINGS frame."""
    return dict(_SETTING.iter_unpack(payload))


def window_update(increment: int) -> bytes:
    """Returns a WINDOW_UPDATE of the connection."""
    return frame(WINDOW_UPDATE, 0, 0, _WORD.pack(increment))


def word(payload: bytes, offset: int = 0) -> int:
    """Returns 32 bits of a payload."""
    value: int = _WORD.unpack_from(payload, offset)[0]
    return value


def message(payload: bytes) -> bytes:
    """Returns a gRPC message as framed in DATA frames."""
    return MESSAGE.pack(0, len(payload)) + payload


class RequestHeaders:
    """The header blocks of one method's calls.

    The first of a connection fills the server's table, the later ones use it. gRPC's own clients do the same, so
    the server decodes what it decodes in production.
    """

    def __init__(self, *, path: str, authority: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        names = {name: index for index, (name, _) in reversed(list(enumerate(hpack.STATIC, 1)))}
        static = hpack.indexed(hpack.STATIC.index((b":method", b"POST")) + 1)
        static += hpack.indexed(hpack.STATIC.index((b":scheme", b"http")) + 1)
        headers = [
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"cache-sidecar-bench"),
            (b"grpc-accept-encoding", b"identity, deflate, gzip"),
            *((name.encode(), value.encode()) for name, value in metadata),
        ]
        self.first = static + b"".join(hpack.literal(header, name_index=names.get(header[0], 0)) for header in headers)
        newest = len(hpack.STATIC) + 1
        self.later = static + b"".join(hpack.indexed(newest + age) for age in reversed(range(len(headers))))
