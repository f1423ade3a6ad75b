"""gRPC's interop service, written like our services, on an engine without middleware."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from cache_sidecar.server.tls import Tls
from tests.interop.grpc.testing import empty_pb2, messages_pb2, test_pb2_grpc
from tests.support import engine_params
from tests.support.authority import Authority, listen

INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
_SECONDS = 2.0
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class InteropService(test_pb2_grpc.TestServiceServicer):
    """Does what gRPC's interop test descriptions want of a server; UnimplementedCall is left as it was generated."""

    async def EmptyCall(self, request: Any, context: Any) -> Any:
        await _echo_metadata(context)
        return empty_pb2.Empty()

    async def UnaryCall(self, request: Any, context: Any) -> Any:
        await _echo_metadata(context)
        await _echo_status(request, context)
        return messages_pb2.SimpleResponse(payload=await _payload(request.response_size, context))

    CacheableUnaryCall = UnaryCall

    async def StreamingOutputCall(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for reply in _replies(request, context):
            yield reply

    async def StreamingInputCall(self, requests: Any, context: Any) -> Any:
        await _echo_metadata(context)
        size = 0
        async for request in requests:
            size += len(request.payload.body)
        return messages_pb2.StreamingInputCallResponse(aggregated_payload_size=size)

    async def FullDuplexCall(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for request in requests:
            async for reply in _replies(request, context):
                yield reply

    async def HalfDuplexCall(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        for request in [request async for request in requests]:
            async for reply in _replies(request, context):
                yield reply


async def _replies(request: Any, context: Any) -> AsyncIterator[Any]:
    await _echo_status(request, context)
    for wanted in request.response_parameters:
        await asyncio.sleep(wanted.interval_us / 1e6)
        yield messages_pb2.StreamingOutputCallResponse(payload=await _payload(wanted.size, context))


async def _payload(size: int, context: Any) -> Any:
    if size < 0:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a reply cannot have {size} bytes")
    return messages_pb2.Payload(body=bytes(size))


async def _echo_metadata(context: Any) -> None:
    sent = dict(context.invocation_metadata())
    if INITIAL in sent:
        await context.send_initial_metadata(((INITIAL, sent[INITIAL]),))
    if TRAILING in sent:
        context.set_trailing_metadata(((TRAILING, sent[TRAILING]),))


async def _echo_status(request: Any, context: Any) -> None:
    if request.response_status.code:
        await context.abort(_CODES[request.response_status.code], request.response_status.message)


class Place(NamedTuple):
    """Where an engine listens."""

    port: int
    path: Path
    tls_port: int
    ca: Path
    "File with the certificate of the authority."

    def target(self, transport: str) -> str:
        """Returns the name of it."""
        return {"tcp": f"127.0.0.1:{self.port}", "unix": f"unix:{self.path}", "tls": f"localhost:{self.tls_port}"}[transport]


@contextlib.asynccontextmanager
async def hosted(engine: str, folder: Path) -> AsyncIterator[Place]:
    """Hosts the service on an engine: on TCP, on a unix socket, and with TLS."""
    server = engine_params.create(engine, max_message_bytes=16 << 20)
    test_pb2_grpc.add_TestServiceServicer_to_server(InteropService(), server)
    path, ca, authority = folder / f"{engine}.sock", folder / "ca.pem", Authority()
    ca.write_bytes(authority.cert)
    tls = Tls(*listen(folder, authority.server()).values())
    place = Place(server.add_insecure_port("127.0.0.1:0"), path, server.add_secure_port("127.0.0.1:0", tls), ca)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    yield place
    await server.stop(_SECONDS)
