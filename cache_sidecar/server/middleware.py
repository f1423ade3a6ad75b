"""What wraps every method, in order: access, hits, admission, parsing, validation, the service, errors.

Not a gRPC interceptor: those cost a seventh of a call, and the native engine has none. Each handler is wrapped once, when it
is registered; engines hand requests over as bytes and get replies as bytes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError, Message

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    Overloaded,
    ReplyTooLarge,
    RequestError,
    SidecarError,
)
from cache_sidecar.server import status
from cache_sidecar.server.auth import Access
from cache_sidecar.server.engine import Engine
from cache_sidecar.server.limiter import Admission, Limiter
from cache_sidecar.services.shared.validation import validate

Context = grpc.aio.ServicerContext[Any, Any]
Register = Callable[[Any, Any], None]
Hit = Callable[[bytes], bytes | None]
"""Answers a call at once, request bytes to reply bytes; None when it has to take the whole way."""


class _Stream:
    """A stream in progress."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.is_waiting = True
        "Whether it waits for its next reply, rather than for the caller to take the last one."


class Middleware:
    """Wraps the methods of services, and knows which calls are in progress."""

    def __init__(
        self, *, max_calls: int, max_calls_each: int, max_streams: int, max_reply: int, access: Access | None = None
    ) -> None:
        """`max_calls_each` is for the calls that pass one door, `max_reply` in bytes.

        Without `access` whoever can connect may call.
        """
        if max_streams < 1:
            raise ValueError("max_streams must be at least 1")
        self.admission = Admission(max_calls, each=max_calls_each)
        self._max_streams = max_streams
        self._max_reply = max_reply
        self._access = access
        self._streams: set[_Stream] = set()
        self._draining = False

    def register(
        self,
        add_to_server: Register,
        servicer: object,
        engine: Engine,
        *,
        door: Limiter | None = None,
        hits: Mapping[str, Hit] = MappingProxyType({}),
        is_open: bool = False,
    ) -> None:
        """Registers a servicer, by the function generated for it, with every method wrapped.

        Unary calls pass the door; without one, they are always let in. `hits` names the unary methods of which some calls are
        answered at once, with no need of a door, parsing and validation. An open one may be called without a token.
        """
        access = None if is_open else self._access
        add_to_server(servicer, _Registrar(self, engine, door, hits, access))

    def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, and refuses new ones; unary calls in progress go on."""
        self._draining = True
        for stream in self._streams:
            # One that is cancelled while it sends could tell its caller nothing; it looks when it has sent.
            if stream.is_waiting:
                stream.task.cancel()

    def wrap(
        self,
        method: str,
        handler: Any,
        door: Limiter | None = None,
        hit: Hit | None = None,
        access: Access | None = None,
    ) -> Any:
        """Returns a handler that takes and gives bytes."""
        parse = _parser(handler.request_deserializer)
        if handler.unary_unary:
            call = self._unary(method, parse, handler.unary_unary)
            if door is not None:
                call = _through(door, method, call)
            call = self._hit_or(call, hit) if hit else call
            return grpc.unary_unary_rpc_method_handler(_checked(access, method, call) if access else call)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, parse, handler.unary_stream, access))
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(self._stream(method, _each(parse), handler.stream_stream, access))
        raise NotImplementedError(f"{method} streams its request to a single reply: no service of ours does")

    def _unary(
        self, method: str, parse: Callable[[bytes], Message], behaviour: Callable[[Message, Context], Awaitable[Any]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def call(data: bytes, context: Context) -> bytes:
            try:
                reply = await behaviour(parse(data), context)
                return self._bounded(reply if type(reply) is bytes else reply.SerializeToString())
            except Exception as error:  # noqa: BLE001  # the table knows them all
                await _refuse(method, error, context)

        return call

    def _stream(
        self,
        method: str,
        parse: Callable[[Any], Any],
        behaviour: Callable[[Any, Context], AsyncIterator[Any]],
        access: Access | None,
    ) -> Callable[[Any, Context], AsyncIterator[bytes]]:
        async def call(data: Any, context: Context) -> AsyncIterator[bytes]:
            task = asyncio.current_task()
            assert task is not None
            stream = _Stream(task)
            try:
                if access is not None:
                    access.check(context)
                self._admit_stream()
                request = parse(data)
                self._streams.add(stream)
                # At once, whenever the first reply comes: some callers wait for it to know that they are served.
                stream.is_waiting = False
                await context.send_initial_metadata(())
                self._check_draining()
                stream.is_waiting = True
                async for reply in behaviour(request, context):
                    stream.is_waiting = False
                    yield self._bounded(reply.SerializeToString())
                    self._check_draining()
                    stream.is_waiting = True
            except asyncio.CancelledError:
                if not self._draining or context.cancelled():
                    raise
                task.uncancel()
                await _refuse(method, Draining(), context)
            except Exception as error:  # noqa: BLE001  # the table knows them all
                await _refuse(method, error, context)
            finally:
                self._streams.discard(stream)

        return call

    def _bounded(self, reply: bytes) -> bytes:
        """Lets no reply pass that clients don't take; services refuse what would be larger before they put it together."""
        if len(reply) > self._max_reply:
            raise ReplyTooLarge(len(reply), self._max_reply)
        return reply

    def _hit_or(
        self, call: Callable[[bytes, Context], Awaitable[bytes]], hit: Hit
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        max_reply = self._max_reply

        async def hit_or_call(data: bytes, context: Context) -> bytes:
            reply = hit(data)
            return reply if reply and len(reply) <= max_reply else await call(data, context)

        return hit_or_call

    def _admit_stream(self) -> None:
        self._check_draining()
        if len(self._streams) >= self._max_streams:
            raise Overloaded(f"{self._max_streams} streams are open")

    def _check_draining(self) -> None:
        if self._draining:
            raise Draining


class _Registrar:
    """What generated code takes for a server: passes the handlers on, wrapped."""

    def __init__(
        self, stack: Middleware, engine: Engine, door: Limiter | None, hits: Mapping[str, Hit], access: Access | None
    ) -> None:
        self._stack = stack
        self._access = access
        self._engine = engine
        self._door = door
        self._hits = hits

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Left out: the registered handlers are the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Registers the wrapped methods."""
        wrapped = {
            name: self._stack.wrap(f"{service}/{name}", handler, self._door, self._hits.get(name), self._access)
            for name, handler in handlers.items()
        }
        self._engine.add_registered_method_handlers(service, wrapped)


def _through(
    door: Limiter, method: str, call: Callable[[bytes, Context], Awaitable[bytes]]
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def admitted(data: bytes, context: Context) -> bytes:
        left = context.time_remaining()
        if left is not None and left <= 0:
            # It waited for its turn until then, and nobody waits for the answer any more.
            await _refuse(method, DeadlineExceeded(), context)
        try:
            door.enter()
        except Overloaded as error:
            await _refuse(method, error, context)
        try:
            return await call(data, context)
        finally:
            door.leave()

    return admitted


def _checked(
    access: Access, method: str, call: Callable[[bytes, Context], Awaitable[bytes]]
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def checked(data: bytes, context: Context) -> bytes:
        try:
            access.check(context)
        except RequestError as error:
            await _refuse(method, error, context)
        return await call(data, context)

    return checked


def _parser(deserialize: Callable[[bytes], Message]) -> Callable[[bytes], Message]:
    def parse(data: bytes) -> Message:
        try:
            request = deserialize(data)
        except DecodeError:
            raise InvalidRequest({"": "the bytes are not a message of this method"}) from None
        validate(request)
        return request

    return parse


def _each(parse: Callable[[bytes], Message]) -> Callable[[AsyncIterator[bytes]], AsyncIterator[Message]]:
    async def parse_each(requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for data in requests:
            yield parse(data)

    return parse_each


async def _refuse(method: str, error: Exception, context: Context) -> NoReturn:
    result = status.of(error)
    if not isinstance(error, SidecarError):
        telemetry.log.error("call failed", method=method, request_id=_request_id(context), exc_info=error)
    await context.abort(status.grpc_code(result), result.message, ((status.DETAILS_KEY, result.SerializeToString()),))


def _request_id(context: Context) -> str:
    given = dict(context.invocation_metadata() or ()).get("x-request-id", "")
    return given[:64] if isinstance(given, str) and given else uuid4().hex
