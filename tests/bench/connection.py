"""The client's side of one HTTP/2 connection that makes unary gRPC calls, without its socket.

Made for load: one pass over received bytes and no objects per frame. Still, a call counts as served only if its trailers
contain `grpc-status: 0` and it has exactly one complete message.
"""

from array import array
from collections import Counter, deque
from collections.abc import Sequence

from tests.bench import frames
from tests.bench.hpack import Decoder, HpackError

# What a header block means: nothing yet, or the outcome of the call.
_OPEN = ""
_SERVED = "served"
# The state of a call's message, where it is not a length.
_NOTHING, _INVALID = -1, -2


class LoadError(Exception):
    """The load cannot be generated; the text says why."""


class Tally:
    """The outcomes of the calls of a run. Times are in nanoseconds."""

    def __init__(self, *, sample_every: int, refusal: str = "") -> None:
        if sample_every < 1:
            raise ValueError("sample_every counts replies: 1 or more")
        self.refusal = refusal
        "The prefix of the expected refusal, such as `grpc-status 9`: calls refused like that count as served."
        self.latencies = array("q")
        "One per served call."
        self.errors: Counter[str] = Counter()
        self.reply_bytes = 0
        self.samples: list[tuple[int, bytes]] = []
        "Some replies: index of the payload, and the message."
        self.sample_every = sample_every
        self.closed = 0
        "Connections that the server closed or announced to close."


class _Call:
    __slots__ = ("body", "payload", "size", "started")

    def __init__(self, payload: int, started: int) -> None:
        self.payload = payload
        self.started = started
        self.size = _NOTHING
        self.body = b""


class Connection:
    """Turns calls into bytes to send, and bytes received into outcomes."""

    def __init__(self, headers: frames.RequestHeaders, payloads: Sequence[bytes], tally: Tally) -> None:
        messages = [frames.message(payload) for payload in payloads]
        if not messages or max(map(len, messages)) > frames.DEFAULT_FRAME_BYTES:
            raise LoadError(f"give payloads, each under {frames.DEFAULT_FRAME_BYTES} bytes")
        self.open: dict[int, _Call] = {}
        "Calls in flight, by stream."
        self.closing = False
        "Set when the server accepts no more calls."
        self.unsent: list[bytes] = [frames.PREFACE, _SETTINGS, frames.window_update(_FULL_WINDOW)]
        "Bytes to send next."
        self.max_streams = frames.MAX_WINDOW
        self._tally = tally
        self._parked: deque[_Call] = deque()
        self._sizes = [len(text) for text in messages]
        self._tails = [_tail(text) for text in messages]
        self._first, self._later = _head(headers.first), _head(headers.later)
        self._next_stream = 1
        self._send_window = frames.DEFAULT_WINDOW
        self.received = 0
        self._rest = b""
        self._decoder = Decoder()
        self._known: dict[bytes, str] = {}
        "Outcomes by header block; true until the decoder's table changes."
        self._known_revision = 0

    @property
    def active(self) -> int:
        """Calls in flight, including those waiting for the server's window."""
        return len(self.open) + len(self._parked)

    def request(self, payload: int, now: int) -> None:
        """Starts a call with a payload, given by its index; send `unsent` afterwards."""
        self._send(_Call(payload, now))

    def _send(self, call: _Call) -> None:
        size = self._sizes[call.payload]
        if size > self._send_window:
            self._parked.append(call)
            return
        self._send_window -= size
        stream = self._next_stream
        self._next_stream += 2
        mark = stream.to_bytes(4)
        prefix, block = self._first if stream == 1 else self._later
        flags, text = self._tails[call.payload]
        self.unsent += (prefix, mark, block, flags, mark, text)
        self.open[stream] = call

    def feed(self, data: bytes, now: int) -> None:
        """Processes bytes received at `now`. Raises LoadError if they are not gRPC over HTTP/2."""
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        unpack = frames.HEADER.unpack_from
        while end - position >= frames.HEADER_BYTES:
            high, low, kind, flags, stream = unpack(data, position)
            start = position + frames.HEADER_BYTES
            stop = start + (high << 8 | low)
            if stop > end:
                break
            if kind == frames.HEADERS:
                self._on_headers(stream, flags, data[start:stop], now)
            elif kind == frames.DATA:
                self._on_data(stream, flags, data[start:stop])
            else:
                self._on_other(kind, flags, stream, data[start:stop])
            position = stop
        self._rest = data[position:]

    def lost(self, reason: str) -> None:
        """Counts every call in flight as failed and accepts no more."""
        self._tally.errors[reason] += self.active
        self.open.clear()
        self._parked.clear()
        self._close()

    def _close(self) -> None:
        self._tally.closed += not self.closing
        self.closing = True

    def _on_headers(self, stream: int, flags: int, block: bytes, now: int) -> None:
        outcome = self._known.get(block)
        if outcome is None:
            outcome = self._read_headers(flags, block)
        if not flags & frames.END_STREAM:
            if outcome != _OPEN:
                raise LoadError("a gRPC status in headers that do not end the call")
            return
        call = self.open.pop(stream, None)
        if call is not None:
            self._finish(call, outcome or "no grpc-status", now)

    def _finish(self, call: _Call, outcome: str, now: int) -> None:
        tally = self._tally
        if tally.refusal and outcome.startswith(tally.refusal):
            tally.latencies.append(now - call.started)
        elif outcome != _SERVED or tally.refusal:
            tally.errors[outcome] += 1
        elif call.size < 0:
            tally.errors["grpc-status 0, but not one whole message"] += 1
        else:
            tally.latencies.append(now - call.started)
            tally.reply_bytes += call.size

    def _read_headers(self, flags: int, block: bytes) -> str:
        if flags & (frames.PADDED | frames.PRIORITY) or not flags & frames.END_HEADERS:
            raise LoadError("padded, prioritized or continued headers are not understood")
        try:
            outcome = _outcome(dict(self._decoder.decode(block)))
        except HpackError as error:
            raise LoadError(f"the server's headers cannot be read: {error}") from None
        if self._decoder.revision != self._known_revision:
            self._known.clear()
            self._known_revision = self._decoder.revision
        else:
            self._known[block] = outcome
        return outcome

    def _on_data(self, stream: int, flags: int, payload: bytes) -> None:
        self.received += len(payload)
        if self.received > _FULL_WINDOW // 2:
            self.unsent.append(frames.window_update(self.received))
            self.received = 0
        call = self.open.get(stream)
        if call is None:
            return
        if flags:
            self._on_flagged_data(stream, flags)
        elif call.size == _NOTHING and not call.body and _is_message(payload):
            self._take(call, payload)
        else:
            self._on_part(call, payload)

    def _take(self, call: _Call, text: bytes) -> None:
        call.size = len(text) - 5
        call.body = b""
        if len(self._tally.latencies) % self._tally.sample_every == 0:
            self._tally.samples.append((call.payload, text[5:]))

    def _on_part(self, call: _Call, payload: bytes) -> None:
        """Processes a frame that is not one whole message."""
        if call.size != _NOTHING:
            call.size = call.size if not payload else _INVALID
            return
        call.body += payload
        if len(call.body) >= 5:
            compressed, length = frames.MESSAGE.unpack_from(call.body)
            if compressed or len(call.body) > length + 5:
                call.size = _INVALID
            elif len(call.body) == length + 5:
                self._take(call, call.body)

    def _on_flagged_data(self, stream: int, flags: int) -> None:
        if flags & frames.PADDED:
            raise LoadError("padded data is not understood")
        del self.open[stream]
        self._tally.errors["no trailers"] += 1

    def _on_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._on_window(stream, frames.word(payload))
        elif kind == frames.PING and not flags & frames.ACK:
            self.unsent.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._on_settings(frames.read_settings(payload))
        elif kind == frames.RST_STREAM:
            if self.open.pop(stream, None):
                self._tally.errors[f"stream reset, code {frames.word(payload)}"] += 1
        elif kind == frames.GOAWAY:
            self._on_goaway(frames.word(payload), frames.word(payload, 4))
        elif kind == _CONTINUATION:
            raise LoadError("continued headers are not understood")

    def _on_window(self, stream: int, increment: int) -> None:
        if stream:
            return
        self._send_window += increment
        while self._parked and self._sizes[self._parked[0].payload] <= self._send_window:
            self._send(self._parked.popleft())

    def _on_settings(self, values: dict[int, int]) -> None:
        if values.get(frames.HEADER_TABLE_SIZE, 4096) < 4096:
            raise LoadError("the server's header table is under 4,096 bytes")
        if values.get(frames.INITIAL_WINDOW_SIZE, frames.DEFAULT_WINDOW) < max(self._sizes):
            raise LoadError("the server's initial window is smaller than a request")
        self.max_streams = values.get(frames.MAX_CONCURRENT_STREAMS, self.max_streams)
        self.unsent.append(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))

    def _on_goaway(self, last_stream: int, code: int) -> None:
        refused = [stream for stream in self.open if stream > last_stream]
        for stream in refused:
            del self.open[stream]
        self._tally.errors[f"refused by GOAWAY, code {code}"] += len(refused) + len(self._parked)
        self._parked.clear()
        self._close()


_CONTINUATION = 9
_FULL_WINDOW = frames.MAX_WINDOW - frames.DEFAULT_WINDOW
_SETTINGS = frames.settings({frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW})


def _head(block: bytes) -> tuple[bytes, bytes]:
    """Returns the bytes before and after the stream's number in HEADERS."""
    whole = frames.frame(frames.HEADERS, frames.END_HEADERS, 0, block)
    return whole[:5], block


def _tail(text: bytes) -> tuple[bytes, bytes]:
    """Returns the bytes before and after the stream's number in the only DATA frame of a call."""
    whole = frames.frame(frames.DATA, frames.END_STREAM, 0, text)
    return whole[:5], text


def _is_message(payload: bytes) -> bool:
    """Returns whether a frame's payload is one whole message."""
    return len(payload) >= 5 and frames.MESSAGE.unpack_from(payload) == (0, len(payload) - 5)


def _outcome(headers: dict[bytes, bytes]) -> str:
    """Returns the outcome in a block of headers or trailers."""
    if headers.get(b":status", b"200") != b"200":
        return f"HTTP status {headers[b':status'].decode(errors='replace')}"
    status = headers.get(b"grpc-status")
    if status is None:
        return _OPEN
    if status == b"0":
        return _SERVED
    text = headers.get(b"grpc-message", b"").decode(errors="replace")
    return f"grpc-status {status.decode(errors='replace')}: {text}"[:200]
