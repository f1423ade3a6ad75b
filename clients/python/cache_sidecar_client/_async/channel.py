"""One gRPC channel, and the next one after a change of the TLS files, with errors as SidecarError.

`_sync/channel.py` is the same for threads; all else there, but `join.py`, is generated.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic

import grpc
import grpc.aio

from cache_sidecar_client._methods import Method, Q, R
from cache_sidecar_client.errors import ClientClosed, SidecarError, of_status
from cache_sidecar_client.options import Options

Metadata = tuple[tuple[str, str], ...]
_OTHER_LOOP = "the client belongs to another event loop: make, and close, one in each, such as in each asyncio.run"


class Channel:
    """A channel, and what differs between asyncio and threads."""

    def __init__(self, options: Options) -> None:
        """Does not connect yet. Raises RuntimeError without a running event loop, which this then belongs to."""
        self._loop = _running_loop()
        self._options = options
        self._files = options.tls_files()
        self._line = self._open()
        self._lines = {self._line}
        "The line of new calls, and those with calls from before the TLS files changed."
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_closed = False

    async def unary(self, method: Method[Q, R], request: Q, timeout: float, metadata: Metadata) -> R:
        """Makes one attempt of a call; raises SidecarError."""
        line = self._take()
        stub = line.stubs.get(method) or line.make_stub(method, line.channel.unary_unary)
        try:
            reply: R = await stub(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise self._closed(error) from None
        except asyncio.CancelledError:
            raise self._unless_closed() from None
        finally:
            self._give_back(line)
        return reply

    async def stream(self, method: Method[Q, R], request: Q, metadata: Metadata) -> AsyncGenerator[R, None]:
        """Yields the replies of a stream until it ends; raises SidecarError."""
        line = self._take()
        stub = line.stubs.get(method) or line.make_stub(method, line.channel.unary_stream)
        try:
            call = stub(request, metadata=metadata)
        except grpc.aio.UsageError as error:
            self._give_back(line)
            raise self._closed(error) from None
        try:
            async for reply in call:
                yield reply
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except asyncio.CancelledError:
            raise self._unless_closed() from None
        finally:
            call.cancel()
            self._give_back(line)

    async def upload(self, method: Method[Q, R], requests: list[Q], timeout: float, metadata: Metadata) -> R:
        """Sends a stream of requests and returns the reply; raises SidecarError."""
        line = self._take()
        stub = line.stubs.get(method) or line.make_stub(method, line.channel.stream_unary)
        try:
            reply: R = await stub(iter(requests), timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise self._closed(error) from None
        except asyncio.CancelledError:
            raise self._unless_closed() from None
        finally:
            self._give_back(line)
        return reply

    def duplex(self, method: Method[Q, R], metadata: Metadata) -> "Duplex[Q, R]":
        """Opens a stream in both directions."""
        line = self._take()
        stub = line.stubs.get(method) or line.make_stub(method, line.channel.stream_stream)
        try:
            call = stub(metadata=metadata)
        except grpc.aio.UsageError as error:
            self._give_back(line)
            raise self._closed(error) from None
        return Duplex(
            call, lambda: self._closed() if self.is_closed else None, self._unless_closed, lambda: self._give_back(line)
        )

    async def is_serving(self, timeout: float) -> bool:
        """Returns what `grpc.health.v1` says."""
        # The two messages are two bytes at most: no stubs are needed for them.
        line = self._take()
        check: Any = line.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return bool(await check(b"", timeout=timeout) == b"\x08\x01")
        except grpc.aio.AioRpcError:
            return False
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise self._closed(error) from None
        except asyncio.CancelledError:
            raise self._unless_closed() from None
        finally:
            self._give_back(line)

    async def sleep(self, seconds: float) -> None:
        """Waits; raises ClientClosed if the client is closed."""
        await asyncio.sleep(seconds)
        if self.is_closed:
            raise self._closed()

    def spawn(self, run: Callable[[], Awaitable[None]]) -> None:
        """Runs something until it ends or the channel is closed."""

        async def guard() -> None:
            await run()

        task = asyncio.get_running_loop().create_task(guard())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends all calls and tasks, and closes the connection."""
        self.check_owner()
        self.is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in list(self._lines):
            await line.channel.close()

    def check_owner(self) -> None:
        """Raises RuntimeError in another event loop."""
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(_OTHER_LOOP)

    def _open(self) -> "_Line":
        arguments = self._options.channel_arguments()
        if self._files is None:
            return _Line(grpc.aio.insecure_channel(self._options.target, arguments))
        return _Line(grpc.aio.secure_channel(self._options.target, self._files.value, arguments))

    def _take(self) -> "_Line":
        """Returns the line of a new call; its end has to be told to `_give_back`."""
        self.check_owner()
        if self._files is not None and not self.is_closed and self._files.look():
            # gRPC keeps the credentials of a channel. What goes on in this one ends there.
            before, self._line = self._line, self._open()
            self._lines.add(self._line)
            self._end_if_idle(before)
        self._line.calls += 1
        return self._line

    def _give_back(self, line: "_Line") -> None:
        line.calls -= 1
        if line is not self._line:
            self._end_if_idle(line)

    def _end_if_idle(self, line: "_Line") -> None:
        async def end() -> None:
            await line.channel.close()
            self._lines.discard(line)

        if not line.calls and not self.is_closed:
            self.spawn(end)

    def _error(self, error: grpc.aio.AioRpcError) -> SidecarError:
        if self.is_closed:
            return self._closed()
        return of_status(error.code(), error.details() or "", error.trailing_metadata())

    def _unless_closed(self) -> BaseException:
        """Returns what a cancelled call raises: closing a channel of grpc.aio cancels its calls, but no task."""
        task = asyncio.current_task()
        if self.is_closed and not (task and task.cancelling()):
            return self._closed()
        return asyncio.CancelledError()

    @staticmethod
    def _closed(error: Exception | None = None) -> ClientClosed:
        return ClientClosed(f"the client is closed{f': {error}' if error else ''}")


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("a client for asyncio is made in a running event loop, such as in a coroutine") from None


class _Line:
    """A gRPC channel, its stubs, and the number of its calls."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
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
        closed: Callable[[], ClientClosed | None],
        unless_closed: Callable[[], BaseException],
        on_end: Callable[[], None],
    ) -> None:
        self._call = call
        self._closed = closed
        self._unless_closed = unless_closed
        self._on_end = on_end

    async def send(self, request: Q) -> None:
        """Sends a request; raises SidecarError."""
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self._ended() from None
        except asyncio.CancelledError:
            raise self._unless_closed() from None

    async def receive(self) -> R:
        """Returns the next reply; raises SidecarError, also if the stream has ended."""
        try:
            reply: Any = await self._call.read()
        except grpc.aio.AioRpcError:
            raise await self._ended() from None
        except asyncio.CancelledError:
            raise self._unless_closed() from None
        if reply is grpc.aio.EOF:
            raise await self._ended()
        return reply  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Ends the stream."""
        self._call.cancel()
        self._on_end()

    async def _ended(self) -> SidecarError:
        """Returns why the stream has ended: older versions of grpc.aio raise INTERNAL instead, where a write fails."""
        if closed := self._closed():
            return closed
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return of_status(grpc.StatusCode.UNAVAILABLE, "the stream has ended", ())
        return of_status(code, await self._call.details() or "", await self._call.trailing_metadata() or ())
