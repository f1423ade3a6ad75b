"""The load generator's reading of HTTP/2: what counts as served, and what does not."""

import pytest

from tests.bench import frames, hpack
from tests.bench.connection import Connection, LoadError, Tally

STATUS_200 = hpack.indexed(8)
OK = (b"grpc-status", b"0")
REFUSED = (b"grpc-status", b"8")
REPLY = b"x" * 300


@pytest.fixture
def tally() -> Tally:
    return Tally(sample_every=1)


@pytest.fixture
def connection(tally: Tally) -> Connection:
    return Connection(frames.RequestHeaders(path="/a.B/C", authority="localhost"), [b"ab", b"cdef"], tally)


def headers(stream: int, block: bytes, *, end: bool = False) -> bytes:
    return frames.frame(frames.HEADERS, frames.END_HEADERS | end * frames.END_STREAM, stream, block)


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frames.frame(frames.DATA, flags, stream, payload)


def reply(stream: int, trailer: hpack.Header = OK, message: bytes = REPLY) -> bytes:
    text = data(stream, frames.message(message))
    return headers(stream, STATUS_200) + text + headers(stream, hpack.literal(trailer), end=True)


def sent(connection: Connection) -> list[tuple[int, int, int, bytes]]:
    """Takes what is to be sent; returns type, flags, stream and payload of its frames."""
    octets = b"".join(connection.unsent)
    connection.unsent.clear()
    octets = octets.removeprefix(frames.PREFACE)
    found = []
    while octets:
        high, low, kind, flags, stream = frames.HEADER.unpack_from(octets)
        length = high << 8 | low
        found.append((kind, flags, stream, octets[9 : 9 + length]))
        octets = octets[9 + length :]
    return found


def test_a_call_is_whole_frames_that_a_server_decodes(connection: Connection) -> None:
    connection.request(0, 0)
    connection.request(1, 0)
    _settings, _window, *calls = sent(connection)
    decoder = hpack.Decoder()
    expected = {b":method": b"POST", b":path": b"/a.B/C", b":authority": b"localhost", b"te": b"trailers"}
    both = []
    for (head, body), (stream, payload) in zip((calls[:2], calls[2:]), ((1, b"ab"), (3, b"cdef")), strict=True):
        assert head[:3] == (frames.HEADERS, frames.END_HEADERS, stream)
        both.append(decoder.decode(head[3]))
        assert body == (frames.DATA, frames.END_STREAM, stream, frames.message(payload))
    assert both[0] == both[1]
    assert expected.items() <= dict(both[0]).items()
    assert len(calls[2][3]) < 15 < len(calls[0][3])


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_replies_are_counted_however_they_are_cut(connection: Connection, tally: Tally, step: int) -> None:
    for number in range(3):
        connection.request(number % 2, 1000)
    octets = reply(1) + reply(5) + reply(3)
    for start in range(0, len(octets), step):
        connection.feed(octets[start : start + step], 1500)
    assert list(tally.latencies) == [500] * 3
    assert tally.samples == [(0, REPLY), (0, REPLY), (1, REPLY)]
    assert (connection.active, tally.reply_bytes, tally.errors.total()) == (0, 900, 0)


def test_a_message_in_several_frames_is_one(connection: Connection, tally: Tally) -> None:
    connection.request(0, 0)
    # The second part looks like a message of its own.
    nested = b"start" + frames.message(REPLY)
    whole = frames.message(nested)
    parts = b"".join(data(1, part) for part in (whole[:3], whole[3:10], whole[10:], b""))
    connection.feed(headers(1, STATUS_200) + parts + headers(1, hpack.literal(OK), end=True), 1)
    assert (len(tally.latencies), tally.samples) == (1, [(0, nested)])


def test_the_same_bytes_mean_another_status_once_the_table_moved(connection: Connection, tally: Tally) -> None:
    for _ in range(4):
        connection.request(0, 0)
    connection.feed(reply(1, OK), 1)
    newest = headers(3, STATUS_200) + data(3, frames.message(REPLY)) + headers(3, hpack.indexed(62), end=True)
    connection.feed(newest, 2)
    assert len(tally.latencies) == 2
    connection.feed(reply(5, REFUSED), 3)
    connection.feed(newest.replace(b"\x00\x03", b"\x00\x07"), 4)
    assert len(tally.latencies) == 2
    assert tally.errors == {"grpc-status 8: ": 2}


def test_a_refusal_without_message_is_no_success(connection: Connection, tally: Tally) -> None:
    connection.request(0, 0)
    trailers = STATUS_200 + hpack.literal(REFUSED) + hpack.literal((b"grpc-message", b"too much work"))
    connection.feed(headers(1, trailers, end=True), 1)
    assert tally.errors == {"grpc-status 8: too much work": 1}
    assert connection.active == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        data(1, frames.message(REPLY)[:-1]),
        data(1, frames.message(REPLY) + b"y"),
        data(1, frames.message(REPLY)) * 2,
        data(1, b"\x01" + frames.message(REPLY)[1:]),
    ],
    ids=["none", "short", "long", "two", "compressed"],
)
def test_status_0_without_one_whole_message_is_an_error(connection: Connection, tally: Tally, body: bytes) -> None:
    connection.request(0, 0)
    connection.feed(headers(1, STATUS_200) + body + headers(1, hpack.literal(OK), end=True), 1)
    assert tally.errors == {"grpc-status 0, but not one whole message": 1}
    assert not tally.latencies


def test_calls_that_end_in_other_ways_are_errors(connection: Connection, tally: Tally) -> None:
    for _ in range(4):
        connection.request(0, 0)
    connection.feed(headers(1, STATUS_200, end=True), 1)
    connection.feed(headers(3, hpack.indexed(13), end=True), 1)
    connection.feed(frames.frame(frames.RST_STREAM, 0, 5, b"\x00\x00\x00\x07"), 1)
    connection.feed(headers(7, STATUS_200) + data(7, frames.message(REPLY), frames.END_STREAM), 1)
    assert set(tally.errors) == {"no grpc-status", "HTTP status 404", "stream reset, code 7", "no trailers"}
    assert (connection.active, len(tally.latencies)) == (0, 0)


def test_goaway_refuses_later_calls_and_lets_earlier_ones_end(connection: Connection, tally: Tally) -> None:
    connection.request(0, 0)
    connection.request(0, 0)
    connection.feed(frames.frame(frames.GOAWAY, 0, 0, b"\x00\x00\x00\x01\x00\x00\x00\x00"), 1)
    assert (connection.closing, tally.closed, tally.errors) == (True, 1, {"refused by GOAWAY, code 0": 1})
    connection.feed(reply(1), 2)
    assert (len(tally.latencies), connection.active) == (1, 0)
    connection.lost("closed")
    assert (tally.closed, tally.errors["closed"]) == (1, 0)


def test_a_lost_connection_fails_its_calls(connection: Connection, tally: Tally) -> None:
    connection.request(0, 0)
    connection.request(1, 0)
    connection.lost("closed")
    assert (tally.errors, connection.active, connection.closing) == ({"closed": 2}, 0, True)


def test_pings_and_settings_are_acknowledged(connection: Connection) -> None:
    sent(connection)
    connection.feed(frames.frame(frames.PING, 0, 0, b"12345678") + frames.settings({3: 100}), 1)
    assert sent(connection) == [(frames.PING, frames.ACK, 0, b"12345678"), (frames.SETTINGS, frames.ACK, 0, b"")]
    assert connection.max_streams == 100
    connection.feed(frames.frame(frames.PING, frames.ACK, 0, b"12345678"), 1)
    assert sent(connection) == []


def test_calls_wait_for_the_servers_window(tally: Tally) -> None:
    payloads = [b"p" * 16_000]
    connection = Connection(frames.RequestHeaders(path="/a.B/C", authority="localhost"), payloads, tally)
    for _ in range(6):
        connection.request(0, 0)
    assert (len(connection.open), connection.active) == (4, 6)
    connection.feed(frames.window_update(16_005), 1)
    assert (len(connection.open), connection.active) == (5, 6)


def test_what_is_received_is_granted_again(connection: Connection) -> None:
    sent(connection)
    half = b"\x00" * (1 << 14)
    connection.received = frames.MAX_WINDOW // 2 - len(half)
    connection.feed(data(9, half) * 2, 1)
    (update, *more) = sent(connection)
    assert update[0] == frames.WINDOW_UPDATE
    assert frames.word(update[3]) > 2**30 - 2**17
    assert more == []


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (frames.settings({frames.HEADER_TABLE_SIZE: 0}), "header table"),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 3}), "initial window"),
        (frames.frame(frames.HEADERS, 0, 1, STATUS_200), "continued"),
        (frames.frame(9, frames.END_HEADERS, 1, STATUS_200), "continued"),
        (frames.frame(frames.DATA, frames.PADDED, 1, b"\x00"), "padded"),
        (headers(1, b"\x80"), "cannot be read"),
        (headers(1, hpack.literal(OK)), "do not end"),
    ],
)
def test_what_is_not_understood_stops_the_load(connection: Connection, octets: bytes, text: str) -> None:
    connection.request(0, 0)
    with pytest.raises(LoadError, match=text):
        connection.feed(octets, 1)


def test_payloads_that_need_several_frames_are_refused(tally: Tally) -> None:
    with pytest.raises(LoadError, match="16384"):
        Connection(frames.RequestHeaders(path="/a.B/C", authority="x"), [b"p" * 16_384], tally)
