"""A network in between: a relay in front of several servers that hands each piece of data on after a delay.

Runs as a process, `python -m cache_sidecar.replay.network JOB.json`: `{"targets": ["host:port", ...], "delay": seconds,
"statements": ["host:port", ...]}`. It prints the port of each target's relay, in their order. Replies that name the port of one
target are given that of its relay, as the nodes of a Redis Cluster name each other. A PostgreSQL may be
named several times, to count apart.

For each line on standard input it prints the numbers of statements that clients have sent to the targets in `statements`,
which are PostgreSQLs, in the order of the targets; it ends with its standard input.
"""

import json
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

_CHUNK = 256 * 1024
# What may come before a connection's first message: requests for TLS and for GSSAPI, which have no type.
_ENCRYPTION = {80877103, 80877104}
# The types of Query and Execute, in PostgreSQL's protocol 3.
_STATEMENTS = b"QE"


class StatementCounter:
    """Counts the statements in what a client sends to PostgreSQL: each Query and each Execute, so BEGIN and COMMIT, too."""

    def __init__(self) -> None:
        self.count = 0
        self._begun = False
        "Whether the startup message is over: it has no type."
        self._rest = b""
        "The beginning of a message whose header is not complete."
        self._skip = 0
        "Bytes of a message that are still to come."

    def feed(self, data: bytes) -> None:
        """Takes the next piece, wherever it begins and ends."""
        data = self._rest + data
        at = self._skip
        while len(data) - at >= (5 if self._begun else 8):
            if self._begun:
                self.count += data[at] in _STATEMENTS
                at += 1 + int.from_bytes(data[at + 1 : at + 5])
            else:
                self._begun = int.from_bytes(data[at + 4 : at + 8]) not in _ENCRYPTION
                at += int.from_bytes(data[at : at + 4])
        self._skip = max(0, at - len(data))
        self._rest = data[at:]


class _Pipe:
    """One direction of a connection: what has been read, and when it is due."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, translate: dict[bytes, bytes], counter: StatementCounter | None = None
    ) -> None:
        self.source = source
        self.sink = sink
        self.due: deque[tuple[float, bytes]] = deque()
        self._translate = translate
        self._counter = counter

    def read(self, delay: float) -> bool:
        """Reads what is there; returns whether the other end is still open."""
        try:
            data = self.source.recv(_CHUNK)
        except OSError:
            return False
        for told, meant in self._translate.items():
            data = data.replace(told, meant)
        self.due.append((time.monotonic() + delay, data))
        if self._counter is not None:
            self._counter.feed(data)
        return bool(data)

    def write(self, now: float) -> bool:
        """Hands on what is due; returns whether the other end is still open."""
        try:
            while self.due and self.due[0][0] <= now:
                self.sink.sendall(self.due.popleft()[1])
        except OSError:
            return False
        return True


class _Network:
    def __init__(
        self,
        listeners: dict[socket.socket, tuple[str, int]],
        translate: dict[bytes, bytes],
        delay: float,
        counters: dict[socket.socket, list[StatementCounter]],
    ) -> None:
        self._listeners = listeners
        self._translate = translate
        self._delay = delay
        self._counters = counters
        "Those of each connection, by listener."
        self._pipes: dict[socket.socket, _Pipe] = {}
        "By the socket that is read."

    def run(self) -> None:
        """Runs until standard input ends."""
        # Unbuffered: what had been read ahead would not be there for `select`.
        asked = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
        while True:
            moments = [pipe.due[0][0] for pipe in self._pipes.values() if pipe.due]
            # `select` counts microseconds; timers of event loops count milliseconds.
            wait = max(0.0, min(moments) - time.monotonic()) if moments else None
            watched: list[Any] = [asked, *self._listeners, *self._pipes]
            for one in select.select(watched, [], [], wait)[0]:
                if one is asked:
                    if not asked.readline():
                        return
                    print(" ".join(str(sum(each.count for each in of)) for of in self._counters.values()), flush=True)
                elif one in self._listeners:
                    self._connect(one)
                elif one in self._pipes and not self._pipes[one].read(self._delay):
                    self._close(self._pipes[one])
            now = time.monotonic()
            for pipe in list(self._pipes.values()):
                if not pipe.write(now):
                    self._close(pipe)

    def _connect(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(self._listeners[listener])
        except OSError:
            near.close()  # the server is down
            return
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        counter = None
        if listener in self._counters:
            counter = StatementCounter()
            self._counters[listener].append(counter)
        self._pipes[near], self._pipes[far] = _Pipe(near, far, {}, counter), _Pipe(far, near, self._translate)

    def _close(self, pipe: _Pipe) -> None:
        for one in (pipe.source, pipe.sink):
            self._pipes.pop(one, None)
            one.close()


def _main(job: dict[str, Any]) -> None:
    listeners: dict[socket.socket, tuple[str, int]] = {}
    translate: dict[bytes, bytes] = {}
    counters: dict[socket.socket, list[StatementCounter]] = {}
    ports: list[str] = []
    for target in job["targets"]:
        host, _, port = target.rpartition(":")
        listener = socket.create_server(("127.0.0.1", 0))
        listeners[listener] = (host, int(port))
        ports.append(str(listener.getsockname()[1]))
        if target in job.get("statements", ()):
            counters[listener] = []
        else:
            # What a RESP integer and `MOVED 1234 127.0.0.1:7000` both end with.
            translate[f":{port}\r\n".encode()] = f":{ports[-1]}\r\n".encode()
    print(" ".join(ports), flush=True)
    _Network(listeners, translate, job["delay"], counters).run()


if __name__ == "__main__":
    _main(json.loads(Path(sys.argv[1]).read_text()))
