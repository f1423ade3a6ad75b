"""Header compression, with the examples of RFC 7541, appendix C."""

import pytest

from tests.bench import hpack, huffman
from tests.bench.hpack import Decoder, HpackError


def from_hex(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


@pytest.mark.parametrize(("data", "prefix", "value"), [("0a", 5, 10), ("1f9a0a", 5, 1337), ("2a", 8, 42)])
def test_integers(data: str, prefix: int, value: int) -> None:
    octets = bytes.fromhex(data)
    assert hpack.read_integer(octets, 0, prefix) == (value, len(octets))


def test_an_integer_without_end_is_refused() -> None:
    with pytest.raises(HpackError, match="5 bytes"):
        hpack.read_integer(b"\x1f" + b"\xff" * 20, 0, 5)


@pytest.mark.parametrize(
    ("blocks"),
    [
        # C.3, plain strings, and C.4, the same in Huffman's code.
        (
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ),
        (
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ),
    ],
)
def test_requests_of_one_connection(blocks: tuple[str, str, str]) -> None:
    decoder = Decoder()
    first, second, third = (decoder.decode(from_hex(block)) for block in blocks)
    start = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
    assert first == start
    assert second == [*start, (b"cache-control", b"no-cache")]
    assert third == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ]


def test_replies_of_a_small_table_evict() -> None:
    # C.6: a table of 256 bytes.
    decoder = Decoder(max_size=256)
    decoder.decode(
        from_hex(
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718"
            "63c7 8f0b 97c8 e9ae 82ae 43d3"
        )
    )
    second = decoder.decode(from_hex("4883 640e ffc1 c0bf"))
    assert second == [
        (b":status", b"307"),
        (b"cache-control", b"private"),
        (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"),
        (b"location", b"https://www.example.com"),
    ]
    third = decoder.decode(
        from_hex(
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7"
            "b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07"
        )
    )
    assert third[-1] == (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")
    assert third[1] == (b"cache-control", b"private")
    # Three entries are left, 62 to 64.
    with pytest.raises(HpackError, match="index 65"):
        decoder.decode(hpack.indexed(65))


def test_a_header_that_is_not_to_be_kept_does_not_move_the_table() -> None:
    decoder = Decoder()
    # C.2.2, without indexing, and C.2.3, never indexed.
    assert decoder.decode(from_hex("040c 2f73 616d 706c 652f 7061 7468")) == [(b":path", b"/sample/path")]
    assert decoder.decode(from_hex("1008 7061 7373 776f 7264 0673 6563 7265 74")) == [(b"password", b"secret")]
    assert decoder.revision == 0
    decoder.decode(hpack.literal((b"grpc-status", b"0")))
    assert decoder.revision == 1


def test_what_is_written_is_read() -> None:
    long = (b"x-trace", b"a" * 300)
    block = hpack.literal((b":path", b"/a.B/C"), name_index=4) + hpack.literal(long) + hpack.indexed(62)
    assert Decoder().decode(block) == [(b":path", b"/a.B/C"), long, long]


def test_the_first_and_last_static_headers() -> None:
    block = hpack.indexed(1) + hpack.indexed(61)
    assert Decoder().decode(block) == [(b":authority", b""), (b"www-authenticate", b"")]


def test_a_smaller_table_is_emptied() -> None:
    decoder = Decoder()
    decoder.decode(hpack.literal((b"a", b"b")))
    decoder.decode(b"\x20")
    with pytest.raises(HpackError, match="index 62"):
        decoder.decode(hpack.indexed(62))


@pytest.mark.parametrize(
    "block",
    [b"\x80", b"\xff\xff\xff\xff\xff\xff\xff", b"\x40\x05ab", b"\x40", b"\x3f\xff\xff\x7f", b"\x40\x81\x00\x00"],
    ids=["index 0", "endless index", "short string", "no name", "huge table", "wrong padding"],
)
def test_wrong_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(block)


def test_the_huffman_code_is_complete() -> None:
    lengths = [int(length) for length in huffman.LENGTHS.split()]
    assert len(lengths) == 257
    assert sum(2.0**-length for length in lengths) == 1


def test_a_whole_octet_of_padding_is_refused() -> None:
    assert huffman.decode(b"\x07") == b"0"
    with pytest.raises(huffman.HuffmanError, match="padding"):
        huffman.decode(b"\x07\xff")


def test_huffman_end_mark_is_refused() -> None:
    with pytest.raises(huffman.HuffmanError, match="end mark"):
        huffman.decode(b"\xff\xff\xff\xff")


def test_what_is_encoded_is_decoded_again() -> None:
    octets = bytes(range(256))
    assert huffman.decode(huffman.encode(octets)) == octets
    assert huffman.encode(b"www.example.com") == bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff"), "RFC 7541, C.4.1"
