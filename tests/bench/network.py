"""A network in between: a relay in front of several servers that hands each piece of data on after a delay.

Runs as a process, `python -m tests.bench.network JOB.json`: `{"targets": ["host:port", ...], "delay": seconds}`. It prints the
port of each target's relay, in their order. Replies that name the port of one target are given that of its relay, as the nodes
of a Redis Cluster name each other.
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


class _Pipe:
    """One direction of a connection: what has been read, and when it is due."""

    def __init__(self, source: socket.socket, sink: socket.socket, translate: dict[bytes, bytes]) -> None:
        self.source = source
        self.sink = sink
        self.due: deque[tuple[float, bytes]] = deque()
        self._translate = translate

    def read(self, delay: float) -> bool:
        """Reads what is there; returns whether the other end is still open."""
        try:
            data = self.source.recv(_CHUNK)
        except OSError:
            return False
        for told, meant in self._translate.items():
            data = data.replace(told, meant)
        self.due.append((time.monotonic() + delay, data))
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
    def __init__(self, listeners: dict[socket.socket, tuple[str, int]], translate: dict[bytes, bytes], delay: float) -> None:
        self._listeners = listeners
        self._translate = translate
        self._delay = delay
        self._pipes: dict[socket.socket, _Pipe] = {}
        "By the socket that is read."

    def run(self) -> None:
        """Runs until the process ends."""
        while True:
            moments = [pipe.due[0][0] for pipe in self._pipes.values() if pipe.due]
            # `select` counts microseconds; timers of event loops count milliseconds.
            wait = max(0.0, min(moments) - time.monotonic()) if moments else None
            for one in select.select([*self._listeners, *self._pipes], [], [], wait)[0]:
                if one in self._listeners:
                    self._connect(one)
                elif one in self._pipes and not self._pipes[one].read(self._delay):
                    self._close(self._pipes[one])
            now = time.monotonic()
            for pipe in list(self._pipes.values()):
                if not pipe.write(now):
                    self._close(pipe)

    def _connect(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        far = socket.create_connection(self._listeners[listener])
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pipes[near], self._pipes[far] = _Pipe(near, far, {}), _Pipe(far, near, self._translate)

    def _close(self, pipe: _Pipe) -> None:
        for one in (pipe.source, pipe.sink):
            self._pipes.pop(one, None)
            one.close()


def _main(job: dict[str, Any]) -> None:
    listeners: dict[socket.socket, tuple[str, int]] = {}
    translate: dict[bytes, bytes] = {}
    ports: list[str] = []
    for target in job["targets"]:
        host, _, port = target.rpartition(":")
        listener = socket.create_server(("127.0.0.1", 0))
        listeners[listener] = (host, int(port))
        ports.append(str(listener.getsockname()[1]))
        # What a RESP integer and `MOVED 1234 127.0.0.1:7000` both end with.
        translate[f":{port}\r\n".encode()] = f":{ports[-1]}\r\n".encode()
    print(" ".join(ports), flush=True)
    _Network(listeners, translate, job["delay"]).run()


if __name__ == "__main__":
    _main(json.loads(Path(sys.argv[1]).read_text()))
