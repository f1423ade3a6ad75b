"""The layers around every method; `middleware.py` lists them in their order.

Each is a function that gets the following layer and returns itself, a function of a request and the call's context. For a unary
call that returns the reply, or an awaitable of it; for a stream, an async generator. To keep the hot path short, a layer that
has nothing to do after the following one is a plain function, not a coroutine, and a layer that does not apply to a method
returns the following one unchanged.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from time import perf_counter
from typing import Any, NamedTuple, NoReturn
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code

from cache_sidecar.config.roles import Role
from cache_sidecar.core import telemetry, tracing
from cache_sidecar.core.errors import DeadlineExceeded, Draining, InvalidRequest, Overloaded, ReplyTooLarge, SidecarError
from cache_sidecar.core.tracing import Span, Tracer
from cache_sidecar.server import status
from cache_sidecar.server.audit import Audit, Describe, arguments_of
from cache_sidecar.server.auth import Access, Need
from cache_sidecar.server.call_stats import CallStats, find_header, find_trace
from cache_sidecar.server.limiter import Limiter
from cache_sidecar.services.shared.validation import validate

# Seconds for a caller whose access was withdrawn to read what its stream has sent.
READ_WITHIN = 5.0

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Any]
"""What a layer is: a function of the request, or of an iterator over requests, and the context."""
FastPath = Callable[[bytes], bytes | None]
"""Answers a call from memory, request bytes to reply bytes; None when the call has to take the slow path."""


class Streams:
    """The streams in progress.

    Those that need different roles are limited separately, and so are those that need none: whatever anonymous callers open
    takes no room from callers with a token.
    """

    def __init__(self, limit: int, *, each: int) -> None:
        """`limit` is for the streams that need one role, `each` for those of one connection among them."""
        if min(limit, each) < 1:
            raise ValueError("max_streams and max_connection_streams must be at least 1")
        self.is_draining = False
        self._limit = limit
        self._each = each
        self._streams: set[Stream] = set()
        self._by_role: Counter[Role | None] = Counter()
        self._by_connection: Counter[tuple[Role | None, str]] = Counter()

    def __len__(self) -> int:
        return len(self._streams)

    def admit(self, role: Role | None, peer: str) -> None:
        """Raises Draining, or Overloaded if too many streams that need the role are open, in all or on the connection."""
        if self.is_draining:
            raise Draining
        if self._by_role[role] >= self._limit:
            raise Overloaded(f"{self._limit} streams are open")
        # grpc.aio names all connections of the Unix socket `unix:`, so they have only the limit above.
        if peer != "unix:" and self._by_connection[role, peer] >= self._each:
            raise Overloaded(f"{self._each} streams are open on this connection")

    def add(self, stream: "Stream") -> None:
        """Adds a stream that was admitted."""
        self._streams.add(stream)
        self._by_role[stream.role] += 1
        self._by_connection[stream.role, stream.peer] += 1

    def discard(self, stream: "Stream") -> None:
        """Removes a stream that was added."""
        self._streams.discard(stream)
        self._by_role[stream.role] -= 1
        key = stream.role, stream.peer
        self._by_connection[key] -= 1
        if not self._by_connection[key]:
            del self._by_connection[key]

    def drain(self) -> None:
        """Ends all streams with Draining."""
        self.is_draining = True
        for stream in self._streams:
            stream.end(Draining())

    def end_withdrawn(self) -> None:
        """Ends the streams whose callers may no longer call: their token, name or role was withdrawn."""
        ended = 0
        for stream in self._streams:
            try:
                stream.check_access()
            except SidecarError as error:
                stream.end(error, within=READ_WITHIN)
                ended += 1
        if ended:
            telemetry.log.info("streams ended because their callers may no longer call", count=ended)


class Stream:
    """A stream in progress."""

    def __init__(self, role: Role | None, peer: str, check_access: Callable[[], None]) -> None:
        """To be created in the stream's task. `check_access` raises if the caller may no longer call."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self.role = role
        self.peer = peer
        self.check_access = check_access
        self.ended_by: SidecarError | None = None
        "Why it has to end."
        self.is_waiting = False
        "Whether it waits for its next reply, rather than for the caller to accept the last one."

    def end(self, error: SidecarError, *, within: float | None = None) -> None:
        """Ends it with an error, once its caller has read what was sent, or after so many seconds without the error."""
        self.ended_by = error
        # A stream cancelled while it sends could no longer report why it ends; it checks once it has sent.
        if self.is_waiting:
            self._task.cancel()
        elif within is not None:
            asyncio.get_running_loop().call_later(within, self._task.cancel)

    def check(self) -> None:
        """Raises the error that it has to end with, if any."""
        if self.ended_by is not None:
            raise self.ended_by


class Method(NamedTuple):
    """What the layers know of a method; None, where a layer does not apply to it."""

    name: str
    stats: CallStats
    deserialize: Callable[[bytes], Message]
    has_request_stream: bool
    streams: Streams
    max_reply: int
    "In bytes."
    access: Access | None
    need: Need | None
    "None for a method that anyone may call."
    audit: Audit
    describe: Describe | None
    "Returns what the audit log has of a request; None if calls are not audited, apart from refusals."
    fast_path: FastPath | None
    limiter: Limiter | None
    tracer: Tracer | None
    "None if no call is traced."


def errors(method: Method, following: Call) -> Call:
    """Ends a unary call that raised with the status of its exception."""

    async def call(request: Any, context: Context) -> Any:
        began = perf_counter()
        try:
            reply = following(request, context)
            if type(reply) is not bytes:
                reply = await reply
        except Exception as error:  # noqa: BLE001  # the table has a status for each
            await _abort(method, error, context, seconds=perf_counter() - began)
        except asyncio.CancelledError:
            _record(method, Code.CANCELLED, context, perf_counter() - began)
            raise
        _record(method, Code.OK, context, perf_counter() - began)
        return reply

    return call


def traces(method: Method, following: Call) -> Call:
    """Gives a unary call that is sampled a span.

    It stays the task's current span: the layer outside counts and logs with its trace id, and then the task ends.
    """
    tracer = method.tracer
    if tracer is None:
        return following

    async def trace(request: Any, context: Context, span: Span) -> Any:
        tracing.enter(span)
        code = Code.OK
        try:
            reply = following(request, context)
            return reply if type(reply) is bytes else await reply
        except BaseException as error:
            code = _code_of(error)
            raise
        finally:
            tracing.end_call(span, Code.Name(code))

    def call(request: Any, context: Context) -> Any:
        span = _begin_span(tracer, method, context)
        return following(request, context) if span is None else trace(request, context, span)

    return call


def stream_traces(method: Method, following: Call) -> Call:
    """As `traces`, for streams."""
    tracer = method.tracer
    if tracer is None:
        return following

    async def trace(request: Any, context: Context, span: Span) -> AsyncIterator[bytes]:
        tracing.enter(span)
        code = Code.OK
        try:
            async with aclosing(following(request, context)) as replies:
                async for reply in replies:
                    yield reply
        except BaseException as error:
            code = _code_of(error)
            raise
        finally:
            tracing.end_call(span, Code.Name(code))

    def call(request: Any, context: Context) -> Any:
        span = _begin_span(tracer, method, context)
        return following(request, context) if span is None else trace(request, context, span)

    return call


def _begin_span(tracer: Tracer, method: Method, context: Context) -> Span | None:
    parent = find_header(context, "traceparent")
    if not tracer.is_sampled(parent):
        return None
    return tracer.begin_call(method.name, parent, find_header(context, "tracestate"))


def _code_of(error: BaseException) -> int:
    return int(status.of(error).code) if isinstance(error, Exception) else Code.CANCELLED


def refusals(method: Method, following: Call) -> Call:
    """Ends a call that is refused before its message has come. One that is not refused goes on, and is counted when it ends."""

    async def call(request: Any, context: Context) -> Any:
        try:
            return following(request, context)
        except Exception as error:  # noqa: BLE001  # the table has a status for each
            await _abort(method, error, context)

    return call


def stream_errors(method: Method, following: Call) -> Call:
    """Ends a stream that raised with the status of its exception."""

    async def call(request: Any, context: Context) -> AsyncIterator[bytes]:
        try:
            async with aclosing(following(request, context)) as replies:
                async for reply in replies:
                    yield reply
        except Exception as error:  # noqa: BLE001  # the table has a status for each
            await _abort(method, error, context)
        except (asyncio.CancelledError, GeneratorExit):
            _record(method, Code.CANCELLED, context)
            raise
        _record(method, Code.OK, context)

    return call


def access(method: Method, following: Call) -> Call:
    """Refuses callers without a valid token, client certificate or role, before anything else of the call is looked at."""
    access, need, audit = method.access, method.need, method.audit
    if access is None or need is None or access.is_open_to_all(need):
        return following

    def call(request: Any, context: Context) -> Any:
        try:
            access.check(need, method.name, context)
        except SidecarError as error:
            audit.record_refusal(method.name, error, context)
            raise
        return following(request, context)

    return call


def audit(method: Method, following: Call) -> Call:
    """Writes calls of AdminService to the audit log, with their results."""
    access, audit, describe = method.access, method.audit, method.describe
    if access is None or describe is None:
        return following

    async def call(request: Any, context: Context) -> Any:
        # Before the call, as its token may be withdrawn meanwhile.
        caller, failed = access.authenticate(context), None
        try:
            return await following(request, context)
        except BaseException as error:
            failed = error
            raise
        finally:
            arguments = arguments_of(method.name, request, method.deserialize, describe)
            audit.record_call(method.name, arguments, caller, failed)

    return call


def fast_path(method: Method, following: Call) -> Call:
    """Answers hits in memory, which need no admission, parsing or validation."""
    if method.fast_path is None:
        return following
    answer, max_reply = method.fast_path, method.max_reply

    def call(request: Any, context: Context) -> Any:
        reply = answer(request)
        return reply if reply and len(reply) <= max_reply else following(request, context)

    return call


def deadline(method: Method, following: Call) -> Call:
    """Refuses calls whose deadline passed while they waited for their turn: nobody reads the reply any more."""
    if method.limiter is None:
        return following

    def call(request: Any, context: Context) -> Any:
        left = context.time_remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded
        return following(request, context)

    return call


def admission(method: Method, following: Call) -> Call:
    """Refuses calls above the limits on those in progress."""
    if method.limiter is None:
        return following
    limiter = method.limiter

    async def call(request: Any, context: Context) -> Any:
        limiter.acquire()
        try:
            return await following(request, context)
        finally:
            limiter.release()

    return call


def stream_admission(method: Method, following: Call) -> Call:
    """Refuses streams above the limits, and any while the sidecar drains.

    Ends those in progress when the sidecar drains, or when the caller's token, name or role is withdrawn.
    """
    streams, access, need = method.streams, method.access, method.need
    role = need.role if need is not None else None

    async def call(request: Any, context: Context) -> AsyncIterator[bytes]:
        peer = context.peer()
        streams.admit(role, peer)

        def check_access() -> None:
            if access is not None and need is not None:
                access.check(need, method.name, context)

        stream = Stream(role, peer, check_access)
        async with aclosing(following(request, context)) as replies:
            # Nothing is awaited between the check of access and this, so a token withdrawn meanwhile is not missed.
            streams.add(stream)
            try:
                # At once, whenever the first reply comes: some callers wait for it to know that they are served.
                await context.send_initial_metadata(())
                stream.check()
                stream.is_waiting = True
                async for reply in replies:
                    stream.is_waiting = False
                    yield reply
                    stream.check()
                    stream.is_waiting = True
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or stream.ended_by is None or context.cancelled():
                    raise
                task.uncancel()
                raise stream.ended_by from None
            finally:
                streams.discard(stream)

    return call


def reply_bound(method: Method, following: Call) -> Call:
    """Serializes the reply, and refuses one that clients don't accept; services refuse what they know to be larger earlier."""
    max_reply = method.max_reply

    async def call(request: Any, context: Context) -> bytes:
        reply = await following(request, context)
        data: bytes = reply if type(reply) is bytes else reply.SerializeToString()
        if len(data) > max_reply:
            raise ReplyTooLarge(len(data), max_reply)
        return data

    return call


def stream_reply_bound(method: Method, following: Call) -> Call:
    """As `reply_bound`, for each reply of a stream."""
    max_reply = method.max_reply

    async def bound(replies: AsyncGenerator[Message]) -> AsyncIterator[bytes]:
        async with aclosing(replies):
            async for reply in replies:
                data = reply.SerializeToString()
                if len(data) > max_reply:
                    raise ReplyTooLarge(len(data), max_reply)
                yield data

    # The following layers are called here, not by the first iteration: a stream with an invalid request is not begun.
    return lambda request, context: bound(following(request, context))


def parse(method: Method, following: Call) -> Call:
    """Parses the request, or each one of a stream."""
    deserialize = method.deserialize

    def to_message(data: bytes) -> Message:
        try:
            return deserialize(data)
        except DecodeError:
            raise InvalidRequest({"": "the bytes are not a message of this method"}) from None

    return _on_requests(method, to_message, following)


def validation(method: Method, following: Call) -> Call:
    """Checks the request, or each one of a stream, against the rules in the protos."""

    def valid(request: Message) -> Message:
        validate(request)
        return request

    return _on_requests(method, valid, following)


def _on_requests(method: Method, step: Callable[[Any], Message], following: Call) -> Call:
    """Returns a layer that takes a step with each request."""

    async def each(requests: AsyncIterator[Any]) -> AsyncIterator[Message]:
        async for request in requests:
            yield step(request)

    if method.has_request_stream:
        return lambda requests, context: following(each(requests), context)
    return lambda request, context: following(step(request), context)


async def _abort(method: Method, error: Exception, context: Context, *, seconds: float | None = None) -> NoReturn:
    """Ends a call with the status of an error; `seconds` is how long a unary call took."""
    result = status.of(error)
    reason = status.reason_of(result)
    _record(method, result.code, context, seconds, reason=reason)
    method.stats.reasons[reason] += 1
    if not isinstance(error, SidecarError):
        # Also of a trace that is not sampled: the caller's own logs have its id.
        known = {"trace_id": trace_id} if (trace_id := find_trace(context)) and tracing.current() is None else {}
        telemetry.log.error("call failed", method=method.name, request_id=_request_id(context), **known, exc_info=error)
    await context.abort(status.grpc_code(result), result.message, ((status.DETAILS_KEY, result.SerializeToString()),))


def _record(method: Method, code: int, context: Context, seconds: float | None = None, *, reason: str = "") -> None:
    """Counts a call that has ended, and logs it if the level is `debug`: nothing of its request or its reply."""
    method.stats.record(code, seconds, context)
    if telemetry.own_level.shows_debug:
        facts: dict[str, object] = {} if seconds is None else {"seconds": round(seconds, 6)}
        if reason:
            facts["reason"] = reason
        telemetry.log.debug("call ended", method=method.name, code=Code.Name(code), request_id=_request_id(context), **facts)


def _request_id(context: Context) -> str:
    given = dict(context.invocation_metadata() or ()).get("x-request-id", "")
    return given[:64] if isinstance(given, str) and given else uuid4().hex
