"""One gRPC channel, and the next one after a change of the TLS files: as `_async/channel.py`, but for threads."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic

import grpc

from cache_sidecar_client._methods import Method, Q, R
from cache_sidecar_client.errors import ClientClosed, SidecarError, of_status
from cache_sidecar_client.options import Options

Metadata = tuple[tuple[str, str], ...]
_FORKED = "the client was used before this process was forked, which gRPC cannot go on with: make one in each process"


class Channel:
    """A channel, and what differs between asyncio and threads."""

    def __init__(self, options: Options) -> None:
        """Does not connect yet, nor begins anything of gRPC's, so that it may be forked until its first call."""
        self._options = options
        self._files = options.tls_files()
        self._line: _Line
        self._lines: set[_Line] = set()
        "The line of new calls, and those with calls from before the TLS files changed."
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._process = 0
        "The one that uses it; 0 before its first call."

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def unary(self, method: Method[Q, R], request: Q, timeout: float, metadata: Metadata) -> R:
        """Makes one attempt of a call; raises SidecarError."""
        line = self._take()
        stub = line.stubs.get(method) or line.make_stub(method, line.channel.unary_unary)
        try:
            reply: R = stub(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise self._error(error) from None
        except ValueError as error:  # "Cannot invoke RPC on closed channel!"
            raise self._closed(error) from None
        finally:
            self._give_back(line)
        return reply

    def stream(self, method: Method[Q, R], request: Q, metadata: Metadata) -> Iterator[R]:
        """Yields the replies of a stream until it ends; raises SidecarError."""
        line = self._take()
        stub = line.stubs.get(method) or line.make_stub(method, line.channel.unary_stream)
        try:
            call = stub(request, metadata=metadata)
        except ValueError as error:
            self._give_back(line)
            raise self._closed(error) from None
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._error(error) from None
        finally:
            call.cancel()
            self._give_back(line)

    def upload(self, method: Method[Q, R], requests: list[Q], timeout: float, metadata: Metadata) -> R:
        """Sends a stream of requests and returns the reply; raises SidecarError."""
        line = self._take()
        stub = line.stubs.get(method) or line.make_stub(method, line.channel.stream_unary)
        try:
            reply: R = stub(iter(requests), timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise self._error(error) from None
        except ValueError as error:
            raise self._closed(error) from None
        finally:
            self._give_back(line)
        return reply

    def duplex(self, method: Method[Q, R], metadata: Metadata) -> "Duplex[Q, R]":
        """Opens a stream in both directions."""
        line = self._take()
        stub = line.stubs.get(method) or line.make_stub(method, line.channel.stream_stream)
        requests: queue.SimpleQueue[Q | None] = queue.SimpleQueue()
        try:
            call = stub(iter(requests.get, None), metadata=metadata)
        except ValueError as error:
            self._give_back(line)
            raise self._closed(error) from None
        return Duplex(call, requests, self._error, lambda: self._give_back(line))

    def is_serving(self, timeout: float) -> bool:
        """Returns what `grpc.health.v1` says."""
        # The two messages are two bytes at most: no stubs are needed for them.
        line = self._take()
        check: Any = line.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return bool(check(b"", timeout=timeout) == b"\x08\x01")
        except grpc.RpcError:
            return False
        except ValueError as error:
            raise self._closed(error) from None
        finally:
            self._give_back(line)

    def sleep(self, seconds: float) -> None:
        """Waits; raises ClientClosed if the client is closed meanwhile."""
        if self._closing.wait(seconds):
            raise self._closed()

    def spawn(self, run: Callable[[], None]) -> None:
        """Runs something in a thread until it ends or the channel is closed."""
        self.check_owner()
        thread = threading.Thread(target=run, name="cache-sidecar-client", daemon=True)
        with self._lock:
            self._threads = [one for one in self._threads if one.is_alive()]
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Ends all calls and threads, and closes the connection."""
        if self._process not in {0, os.getpid()}:
            return  # the connection is the parent's
        with self._lock:
            # No line is opened from here on.
            self._closing.set()
        for line in list(self._lines):
            line.channel.close()
        for thread in self._threads:
            thread.join()

    def check_owner(self) -> None:
        """Raises RuntimeError in a process that was forked from one that has used it: its calls could hang forever there."""
        process = os.getpid()
        if self._process == process:
            return
        if self._process:
            raise RuntimeError(_FORKED)
        with self._lock:
            if self.is_closed:
                raise self._closed()
            if not self._process:
                self._line = self._open()
                self._lines.add(self._line)
                self._process = process

    def _open(self) -> "_Line":
        arguments = self._options.channel_arguments()
        if self._files is None:
            return _Line(grpc.insecure_channel(self._options.target, arguments))
        return _Line(grpc.secure_channel(self._options.target, self._files.value, arguments))

    def _take(self) -> "_Line":
        """Returns the line of a new call; its end has to be told to `_give_back`."""
        self.check_owner()
        if self._files is None:
            return self._line
        idle = None
        with self._lock:
            if not self.is_closed and self._files.look():
                # gRPC keeps the credentials of a channel. What goes on in this one ends there.
                before, self._line = self._line, self._open()
                self._lines.add(self._line)
                if not before.calls:
                    idle = before
            line = self._line
            line.calls += 1
        if idle is not None:
            self._end(idle)
        return line

    def _give_back(self, line: "_Line") -> None:
        if self._files is None:
            return
        with self._lock:
            line.calls -= 1
            is_idle = line is not self._line and not line.calls
        if is_idle:
            self._end(line)

    def _end(self, line: "_Line") -> None:
        line.channel.close()
        self._lines.discard(line)

    def _error(self, error: Any) -> SidecarError:
        if self.is_closed:
            return self._closed()
        return of_status(error.code(), error.details() or "", error.trailing_metadata() or ())

    @staticmethod
    def _closed(error: Exception | None = None) -> ClientClosed:
        return ClientClosed(f"the client is closed{f': {error}' if error else ''}")


class _Line:
    """A gRPC channel, its stubs, and with TLS the number of its calls."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.stubs: dict[object, Any] = {}
        self.calls = 0

    def make_stub(self, method: Method[Q, R], make: Callable[..., Any]) -> Any:
        stub = make(
            method.path, request_serializer=method.request.SerializeToString, response_deserializer=method.reply.FromString
        )
        self.stubs[method] = stub
        return stub


class Duplex(Generic[Q, R]):
    """A stream in both directions."""

    def __init__(
        self,
        call: Any,
        requests: "queue.SimpleQueue[Q | None]",
        error: Callable[[Any], SidecarError],
        on_end: Callable[[], None],
    ) -> None:
        self._call = call
        self._requests = requests
        self._error = error
        self._on_end = on_end

    def send(self, request: Q) -> None:
        """Sends a request; that it could not be sent is an error of `receive`."""
        self._requests.put(request)

    def receive(self) -> R:
        """Returns the next reply; raises SidecarError, also if the stream has ended."""
        try:
            reply: R = next(self._call)
        except grpc.RpcError as error:
            raise self._error(error) from None
        except StopIteration:
            raise of_status(grpc.StatusCode.UNAVAILABLE, "the stream has ended", ()) from None
        return reply

    def close(self) -> None:
        """Ends the stream, and the thread that sends requests."""
        self._call.cancel()
        self._requests.put(None)
        self._on_end()
