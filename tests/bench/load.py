"""A load generator for unary gRPC calls that costs its core a few microseconds per call.

A grpc.aio client uses more CPU than the server it should measure. This one sends prebuilt frames over plain sockets, keeps a
number of calls in flight on each connection, and reads only what it needs of the replies; see connection.py.
"""

import gc
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle

from tests.bench.connection import Connection, LoadError, Tally
from tests.bench.frames import RequestHeaders

STALL_SECONDS = 20
"A run that receives nothing for that many seconds has failed."
_RECEIVE_BYTES = 1 << 17


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What a run measured."""

    calls: int
    "Served calls: status 0 and one whole message."
    errors: dict[str, int]
    "All other calls, by reason."
    closed: int
    "Connections that the server closed or announced to close."
    seconds: float
    "From the first request to the last reply."
    latencies: list[int]
    "Nanoseconds of each served call, ascending; from writing the request to reading the reply."
    refusals: list[int]
    "The same of calls that were answered with an error; empty where it is not known."
    reply_bytes: int
    "Of all served calls, without framing."
    samples: list[tuple[int, bytes]]
    "Some replies: index of the payload, serialized reply."
    client_cpu_seconds: float
    "CPU seconds of this generator."

    @property
    def calls_per_second(self) -> float:
        """Returns the rate of served calls."""
        return self.calls / self.seconds

    def percentile_us(self, percent: float) -> float:
        """Returns a percentile of the latency in microseconds."""
        if not self.latencies:
            raise LoadError("no call was served")
        rank = min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))
        return self.latencies[rank] / 1000

    def check(self) -> "LoadResult":
        """Returns itself; raises LoadError if any call was not served."""
        failed = sum(self.errors.values())
        if failed:
            worst = sorted(self.errors.items(), key=lambda item: -item[1])[:3]
            reasons = "; ".join(f"{count} x {reason}" for reason, count in worst)
            raise LoadError(f"{failed} of {self.calls + failed} calls failed: {reasons}")
        if self.closed or not self.calls:
            raise LoadError(f"{self.calls} calls were served, then the server closed {self.closed} connections")
        return self


def run_load(
    address: str,
    path: str,
    payloads: Sequence[bytes],
    *,
    connections: int,
    in_flight: int,
    seconds: float,
    metadata: tuple[tuple[str, str], ...] = (),
    sample_every: int = 64,
    refusal: str = "",
) -> LoadResult:
    """Calls a method for some seconds, with `in_flight` calls on each of `connections`, and the payloads in turn.

    `address` is host:port or unix:PATH, `path` is /package.Service/Method, payloads are serialized requests under
    16 KiB. Failed calls are counted in the result; with `refusal` all calls that were not refused like that, see `Tally`.
    Raises LoadError if the load itself cannot be generated.
    """
    if connections < 1 or in_flight < 1 or seconds <= 0:
        raise ValueError("connections, in_flight and seconds have to be positive")
    tally = Tally(sample_every=sample_every, refusal=refusal)
    headers = RequestHeaders(path=path, authority=_authority(address), metadata=metadata)
    with ExitStack() as stack:
        peers = [stack.enter_context(_connected(address, headers, payloads, tally)) for _ in range(connections)]
        return _run(peers, tally, source=cycle(range(len(payloads))), in_flight=in_flight, seconds=seconds)


def fetch(address: str, path: str, payloads: Sequence[bytes], *, in_flight: int = 16) -> list[bytes]:
    """Calls a method once with each payload; returns the replies in that order.

    Raises LoadError unless all are served.
    """
    tally = Tally(sample_every=1)
    headers = RequestHeaders(path=path, authority=_authority(address))
    with _connected(address, headers, payloads, tally) as peer:
        once = iter(range(len(payloads)))
        result = _run([peer], tally, source=once, in_flight=in_flight, seconds=float("inf")).check()
    return [reply for _, reply in sorted(result.samples)]


class _Peer:
    """A connection and its socket."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.connection = connection
        self.sock = sock

    def receive(self) -> None:
        """Takes what has arrived."""
        try:
            data = self.sock.recv(_RECEIVE_BYTES)
        except OSError as error:
            self.connection.lost(f"connection lost: {error.strerror}")
            return
        if data:
            self.connection.feed(data, time.perf_counter_ns())
        else:
            self.connection.lost("connection closed by the server")

    def send(self) -> None:
        """Sends all pending bytes in one write."""
        unsent = self.connection.unsent
        if not unsent:
            return
        data = b"".join(unsent)
        unsent.clear()
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.connection.lost(f"connection lost: {error.strerror or error}")


def _run(peers: list[_Peer], tally: Tally, *, source: Iterator[int], in_flight: int, seconds: float) -> LoadResult:
    cpu, start = time.thread_time(), time.perf_counter()
    deadline = start + seconds
    with _no_garbage_collection():
        _loop(peers, source, in_flight, deadline)
    elapsed = time.perf_counter() - start
    return LoadResult(
        calls=len(tally.latencies),
        errors={reason: count for reason, count in tally.errors.items() if count},
        closed=tally.closed,
        seconds=elapsed,
        client_cpu_seconds=time.thread_time() - cpu,
        latencies=sorted(tally.latencies),
        refusals=[],
        reply_bytes=tally.reply_bytes,
        samples=tally.samples,
    )


def _loop(peers: list[_Peer], source: Iterator[int], in_flight: int, deadline: float) -> None:
    by_descriptor = {peer.sock.fileno(): peer for peer in peers}
    poller = select.poll()
    for peer in peers:
        poller.register(peer.sock, select.POLLIN)
        _refill(peer.connection, source, in_flight)
        peer.send()
    while any(peer.connection.active for peer in peers):
        ready = poller.poll(STALL_SECONDS * 1000)
        if not ready:
            raise LoadError(f"the server sent nothing for {STALL_SECONDS} s with calls in flight")
        is_over = time.perf_counter() >= deadline
        for descriptor, _ in ready:
            peer = by_descriptor[descriptor]
            peer.receive()
            if not is_over:
                _refill(peer.connection, source, in_flight)
            peer.send()
            if peer.connection.closing and not peer.connection.active:
                poller.unregister(descriptor)


def _refill(connection: Connection, source: Iterator[int], in_flight: int) -> None:
    if connection.closing:
        return
    if connection.max_streams < in_flight:
        raise LoadError(f"the server takes {connection.max_streams} calls per connection, not {in_flight}")
    now = time.perf_counter_ns()
    for _ in range(in_flight - connection.active):
        payload = next(source, None)
        if payload is None:
            return
        connection.request(payload, now)


@contextmanager
def _connected(address: str, headers: RequestHeaders, payloads: Sequence[bytes], tally: Tally) -> Iterator[_Peer]:
    with _open(address) as sock:
        # A timeout in the kernel: Python's would cost a system call per send.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", STALL_SECONDS, 0))
        yield _Peer(sock, Connection(headers, payloads, tally))


def _open(address: str) -> socket.socket:
    path = address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    sock = socket.socket(socket.AF_INET if path == address else socket.AF_UNIX)
    try:
        sock.connect((host, int(port)) if path == address else path)
    except OSError as error:
        sock.close()
        raise LoadError(f"cannot connect to {address}: {error.strerror}") from None
    if path == address:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _authority(address: str) -> str:
    return "localhost" if address.startswith("unix:") else address


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disables the garbage collector, which would only traverse the latencies."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
