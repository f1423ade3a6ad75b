"""A service that returns who calls it, on an engine of its own; it needs neither Redis nor PostgreSQL."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cache_sidecar.server.tls import Tls
from tests.support import engine_params

SERVICE = "test.Who"


def _describe(context: Any) -> bytes:
    identities, properties = context.peer_identities(), context.auth_context()
    return json.dumps(
        {
            "peer": context.peer(),
            "key": context.peer_identity_key(),
            "identities": identities and [name.decode() for name in identities],
            "properties": {name: [value.decode() for value in values] for name, values in properties.items()},
            "metadata": sorted(str(pair[0]) for pair in context.invocation_metadata()),
            "values": {pair[0]: repr(pair[1]) for pair in context.invocation_metadata()},
        }
    ).encode()


async def _call(request: bytes, context: Any) -> bytes:
    return _describe(context)


async def _stream(request: Any, context: Any) -> AsyncIterator[bytes]:
    yield _describe(context)


async def _collect(requests: Any, context: Any) -> bytes:
    return _describe(context)


_HANDLERS = {
    "Call": grpc.unary_unary_rpc_method_handler(_call),
    "Stream": grpc.unary_stream_rpc_method_handler(_stream),
    "Collect": grpc.stream_unary_rpc_method_handler(_collect),
    "Chat": grpc.stream_stream_rpc_method_handler(_stream),
}


def create(engine: str) -> Any:
    """Returns an engine that hosts the service, with no ports yet."""
    made = engine_params.create(engine)
    made.add_registered_method_handlers(SERVICE, _HANDLERS)
    return made


@contextlib.asynccontextmanager
async def hosted(engine: str, tls: Tls | None = None) -> AsyncIterator[str]:
    """Serves it; the value is the address."""
    host = create(engine)
    try:
        port = host.add_insecure_port("127.0.0.1:0") if tls is None else host.add_secure_port("127.0.0.1:0", tls)
        await host.start()
        yield f"localhost:{port}"
    finally:
        await host.stop(0)


async def ask(channel: grpc.aio.Channel, method: str = "Call", **more: Any) -> Any:
    """Returns what the service sees of a call of a method, or of `gzip`, a call with a compressed request."""
    if method == "gzip":
        method, more = "Call", more | {"compression": grpc.Compression.Gzip}
    path, more = f"/{SERVICE}/{method}", {"timeout": 10.0} | more
    if method == "Call":
        return json.loads(await channel.unary_unary(path)(b"", **more))
    if method == "Collect":
        return json.loads(await channel.stream_unary(path)(iter([b""]), **more))
    if method == "Stream":
        return json.loads(await anext(aiter(channel.unary_stream(path)(b"", **more))))
    return json.loads(await anext(aiter(channel.stream_stream(path)(iter([b""]), **more))))


METHODS = ("Call", "gzip", "Stream", "Collect", "Chat")
