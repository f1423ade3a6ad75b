"""A proxy between clients and a sidecar that loses replies, ends streams and delays, as `clients/conformance/README.md` says.

It forwards the bytes of messages and statuses as they are, so that clients see a real sidecar wherever no fault is set.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import grpc
from aiohttp import web
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from cache_sidecar.v1 import (
    admin_service_pb2,
    cart_service_pb2,
    inventory_service_pb2,
    product_service_pb2,
    recommendation_service_pb2,
    session_service_pb2,
    storefront_service_pb2,
    user_event_service_pb2,
)

_FILES = (
    admin_service_pb2,
    cart_service_pb2,
    inventory_service_pb2,
    product_service_pb2,
    recommendation_service_pb2,
    session_service_pb2,
    storefront_service_pb2,
    user_event_service_pb2,
)
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"Every method of the protos, by its path."
_KEPT = ("authorization", "traceparent")


class Fault(NamedTuple):
    """What happens to the next calls of a method."""

    code: str
    "Empty for a delay."
    after: bool
    delay: float
    retry_after: float | None
    after_messages: int

    async def abort(self, context: Any) -> None:
        trailers = ()
        if self.retry_after is not None:
            delay = Duration()
            delay.FromMicroseconds(int(self.retry_after * 1e6))
            status = status_pb2.Status(code=getattr(grpc.StatusCode, self.code).value[0], message="injected")
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
            trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(getattr(grpc.StatusCode, self.code), "injected", trailers)


class Faults(grpc.GenericRpcHandler):
    """The faults of one proxy, and the calls that it has seen."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self._seen: dict[str, list[dict[str, str]]] = defaultdict(list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        path = details.method
        method = METHODS.get(path)
        sends, receives = (method.client_streaming, method.server_streaming) if method else (False, False)
        if sends and receives:
            return grpc.stream_stream_rpc_method_handler(self._stream(path, self._channel.stream_stream(path)))
        if receives:
            return grpc.unary_stream_rpc_method_handler(self._stream(path, self._channel.unary_stream(path)))
        if sends:
            return grpc.stream_unary_rpc_method_handler(self._unary(path, method, self._channel.stream_unary(path)))
        return grpc.unary_unary_rpc_method_handler(self._unary(path, method, self._channel.unary_unary(path)))

    def _unary(self, path: str, method: MethodDescriptor | None, stub: Any) -> Callable[..., Any]:
        name = path.rpartition("/")[2]

        async def call(request: Any, context: Any) -> Any:
            seen = {"request_id": _request_id(method, request), "code": "OK"}
            self._seen[name].append(seen)
            fault = self._next(name)
            if fault and fault.code and not fault.after:
                seen["code"] = fault.code
                await fault.abort(context)
            try:
                reply = await stub(request, metadata=_metadata(context), timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                seen["code"] = error.code().name
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata()))
            if fault and fault.code:
                seen["code"] = fault.code
                await fault.abort(context)
            if fault:
                await asyncio.sleep(fault.delay)
            return reply

        return call

    def _stream(self, path: str, stub: Any) -> Callable[..., Any]:
        name = path.rpartition("/")[2]

        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            seen = {"request_id": "", "code": "OK"}
            self._seen[name].append(seen)
            fault = self._next(name)
            messages = 0
            replies = stub(request, metadata=_metadata(context))
            try:
                if fault and not fault.after_messages:
                    seen["code"] = fault.code
                    await fault.abort(context)
                async for reply in replies:
                    yield reply
                    messages += 1
                    if fault and messages >= fault.after_messages:
                        seen["code"] = fault.code
                        await fault.abort(context)
            except grpc.aio.AioRpcError as error:
                seen["code"] = error.code().name
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata()))
            finally:
                replies.cancel()

        return call

    def _next(self, name: str) -> Fault | None:
        return self._faults[name].pop(0) if self._faults[name] else None

    async def add(self, request: web.Request) -> web.Response:
        args = await request.json()
        fault = Fault(
            code=args.get("code", ""),
            after=args.get("when", "before") == "after",
            delay=args.get("delay", 0.0),
            retry_after=args.get("retry_after"),
            after_messages=args.get("after_messages", 0),
        )
        self._faults[args["method"]] += [fault] * args.get("times", 1)
        return web.json_response({})

    async def clear(self, request: web.Request) -> web.Response:
        self._faults.clear()
        self._seen.clear()
        return web.json_response({})

    async def seen(self, request: web.Request) -> web.Response:
        return web.json_response({"calls": self._seen[(await request.json())["method"]]})

    async def close(self) -> None:
        await self._channel.close()


def _metadata(context: Any) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in context.invocation_metadata() if key in _KEPT]


def _request_id(method: MethodDescriptor | None, request: Any) -> str:
    if method is None or not isinstance(request, bytes):
        return ""
    message = message_factory.GetMessageClass(method.input_type).FromString(request)
    return str(getattr(message, "request_id", ""))


class Proxy(NamedTuple):
    """A running proxy."""

    address: str
    url: str
    "Of its control: `add`, `clear`, `seen`."


@contextlib.asynccontextmanager
async def in_front_of(address: str) -> AsyncIterator[Proxy]:
    """Runs a proxy in front of a sidecar."""
    faults = Faults(address)
    server = grpc.aio.server(handlers=[faults])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    app = web.Application()
    app.add_routes([web.post("/add", faults.add), web.post("/clear", faults.clear), web.post("/seen", faults.seen)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Proxy(f"127.0.0.1:{port}", f"http://127.0.0.1:{runner.addresses[0][1]}/")
    finally:
        await runner.cleanup()
        await server.stop(0)
        await faults.close()
