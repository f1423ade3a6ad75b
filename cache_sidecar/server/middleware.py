"""What wraps every method: the layers of `layers.py`, in this order.

They are not gRPC interceptors: those cost a seventh of a call, and the native engine has none. Each handler is wrapped once,
when it is registered; engines hand requests over as bytes and get replies as bytes.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial, reduce
from types import MappingProxyType
from typing import Any

import grpc

from cache_sidecar.core.tracing import Tracer
from cache_sidecar.server import layers
from cache_sidecar.server.audit import Audit, Describe
from cache_sidecar.server.auth import Access, Need
from cache_sidecar.server.call_stats import CallStats
from cache_sidecar.server.engine import Engine
from cache_sidecar.server.layers import Call, FastPath, Method, Streams
from cache_sidecar.server.limiter import Admission, Limiter

Layer = Callable[[Method, Call], Call]
Register = Callable[[Any, Any], None]

# What a unary call passes through, outermost first; after the last one comes the service.
UNARY: Sequence[Layer] = (
    layers.errors,
    layers.access,
    layers.traces,
    layers.audit,
    layers.fast_path,
    layers.deadline,
    layers.admission,
    layers.reply_bound,
    layers.parse,
    layers.validation,
)

# The same for streams. Admission ends them when the sidecar drains, or when a caller's access is withdrawn.
STREAM: Sequence[Layer] = (
    layers.stream_errors,
    layers.access,
    layers.stream_traces,
    layers.stream_admission,
    layers.stream_reply_bound,
    layers.parse,
    layers.validation,
)


# What ends a call before its message has come, if its caller may not make it. Access is checked again when it has: that may
# take seconds, and a token may be withdrawn meanwhile.
CHECK: Sequence[Layer] = (layers.refusals, layers.access)


class Middleware:
    """Wraps the methods of services, and knows which calls are in progress."""

    def __init__(
        self,
        *,
        max_calls: int,
        max_calls_each: int,
        max_streams: int,
        max_streams_each: int,
        max_reply: int,
        access: Access | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`max_calls_each` limits the calls of one limiter, `max_reply` the bytes of a reply.

        `max_streams` limits the streams that need the same role, `max_streams_each` those of one connection among them.
        Without `access`, anyone who can connect may call everything; without `tracer`, no call is traced.
        """
        self.admission = Admission(max_calls, each=max_calls_each)
        self._streams = Streams(max_streams, each=max_streams_each)
        self._max_reply = max_reply
        self._access = access
        self._tracer = tracer
        self.audit = Audit()
        self.calls: dict[str, CallStats] = {}
        "By method, such as `cache_sidecar.v1.CartService/GetCart`."
        self.unary: dict[str, Call] = {}
        "The unary methods with all their layers, by name: for callers who come by another way than through an engine."
        if access is not None:
            access.on_change(self._streams.end_withdrawn)

    def register(
        self,
        add_to_server: Register,
        servicer: object,
        engine: Engine,
        *,
        limiter: Limiter | None = None,
        limiters: Mapping[str, Limiter] = MappingProxyType({}),
        fast_path: Mapping[str, FastPath] = MappingProxyType({}),
        need: Need | None = Need.DATA,
        needs: Mapping[str, Need] = MappingProxyType({}),
        describe: Describe | None = None,
    ) -> None:
        """Registers a servicer, by the function generated for it, with every method wrapped.

        Without a `limiter`, unary calls are always admitted; `limiters` has those of single methods. `fast_path` has a function
        for each method of which some calls can be answered from memory. `need` is what methods need of their callers, unless
        `needs` names another; None is for a service that anyone may call. With `describe`, unary calls are audited.
        """

        def wrap(service: str, name: str, handler: Any) -> Any:
            full_name = f"{service}/{name}"
            method = Method(
                name=full_name,
                stats=self.calls.setdefault(full_name, CallStats()),
                deserialize=handler.request_deserializer,
                has_request_stream=handler.request_streaming,
                streams=self._streams,
                max_reply=self._max_reply,
                access=self._access,
                need=needs.get(name, need),
                audit=self.audit,
                describe=describe,
                fast_path=fast_path.get(name),
                limiter=limiters.get(name, limiter),
                tracer=self._tracer,
            )
            if describe is not None and handler.unary_unary:
                engine.follow_refusals(f"/{method.name}", partial(self.audit.record_overload, method.name))
            if self._access is not None and method.need is not None and not self._access.is_open_to_all(method.need):
                engine.check_headers(method.name, partial(_compose(CHECK, method, _pass), b""))
            wrapped = _wrap(method, handler)
            if wrapped.unary_unary:
                self.unary[full_name] = wrapped.unary_unary
            return wrapped

        add_to_server(servicer, _Registrar(engine, wrap))

    @property
    def open_streams(self) -> int:
        """How many streams are in progress."""
        return len(self._streams)

    @property
    def is_draining(self) -> bool:
        """Whether `drain` was called."""
        return self._streams.is_draining

    def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, and refuses new ones; unary calls in progress go on."""
        self._streams.drain()

    def close(self) -> None:
        """Completes the audit log, when no calls are left."""
        self.audit.close()


class _Registrar:
    """The server that generated code registers handlers with: wraps them, and passes them to the engine."""

    def __init__(self, engine: Engine, wrap: Callable[[str, str, Any], Any]) -> None:
        """`wrap` takes a service, a method's name and its handler."""
        self._engine = engine
        self._wrap = wrap

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Does nothing: generated code also calls `add_registered_method_handlers`, with the same methods."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Registers the wrapped methods with the engine."""
        wrapped = {name: self._wrap(service, name, handler) for name, handler in handlers.items()}
        self._engine.add_registered_method_handlers(service, wrapped)


def _wrap(method: Method, handler: Any) -> Any:
    """Returns a handler of bytes that passes calls through the layers."""
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(_compose(UNARY, method, handler.unary_unary))
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(_compose(STREAM, method, handler.unary_stream))
    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(_compose(STREAM, method, handler.stream_stream))
    # On the wire, this is a stream of one reply.
    return grpc.stream_stream_rpc_method_handler(_compose(STREAM, method, _as_stream(handler.stream_unary)))


def _as_stream(service: Call) -> Call:
    async def call(requests: Any, context: Any) -> AsyncIterator[Any]:
        yield await service(requests, context)

    return call


def _pass(_: Any, __: Any) -> bytes:
    return b""


def _compose(around: Sequence[Layer], method: Method, service: Call) -> Call:
    return reduce(lambda following, layer: layer(method, following), reversed(around), service)
