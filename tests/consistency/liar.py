"""A proxy in front of a sidecar that returns wrong replies: errors that a run must find, however the sidecar is built.

It forwards every call as bytes, except for the methods that it has a lie for.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc

from cache_sidecar.v1 import cart_service_pb2, inventory_service_pb2
from cache_sidecar.v1.inventory_pb2 import Reservation

Forward = Callable[[bytes], Awaitable[bytes]]
Lie = Callable[[bytes, Forward], Awaitable[bytes]]
"""Receives a request and a function that forwards it; returns the reply, or raises Refused."""
StreamLie = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
"""Gets the messages of a stream."""


class Refused(Exception):
    """Refuses the call."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


@asynccontextmanager
async def liar(sidecar: str, lies: Mapping[str, Lie], streams: Mapping[str, StreamLie]) -> AsyncIterator[str]:
    """Runs one in front of the sidecar at host:port, and gives its own; lies go by the name of the method."""
    server = grpc.aio.server()
    async with grpc.aio.insecure_channel(sidecar) as channel:
        server.add_generic_rpc_handlers([_Handler(channel, lies, streams)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(0)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, channel: grpc.aio.Channel, lies: Mapping[str, Lie], streams: Mapping[str, StreamLie]) -> None:
        self._channel = channel
        self._lies = lies
        self._streams = streams

    def service(self, details: Any) -> Any:
        path = details.method
        name = path.rpartition("/")[2]
        if name.startswith("Watch"):
            watched = self._channel.unary_stream(path)
            lie_of_streams = self._streams.get(name)

            async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
                messages = watched(request)
                try:
                    async for message in lie_of_streams(messages) if lie_of_streams else messages:
                        yield message
                except grpc.aio.AioRpcError as error:
                    await _abort(context, error)
                finally:
                    messages.cancel()

            return grpc.unary_stream_rpc_method_handler(watch)
        called, lie = self._channel.unary_unary(path), self._lies.get(name)

        async def call(request: bytes, context: Any) -> bytes:
            async def forward(request: bytes) -> bytes:
                reply: bytes = await called(request, timeout=context.time_remaining())
                return reply

            try:
                return await (lie(request, forward) if lie else forward(request))
            except grpc.aio.AioRpcError as error:
                await _abort(context, error)
            except Refused as refused:
                await context.abort(refused.code, "not true")
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(call)


async def _abort(context: Any, error: grpc.aio.AioRpcError) -> None:
    context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
    await context.abort(error.code(), error.details() or "")


# Lies


def remembers() -> Lie:
    """Repeats the first reply to a request for ever."""
    first: dict[bytes, bytes] = {}

    async def lie(request: bytes, forward: Forward) -> bytes:
        if b"\x12\x02\x10\x01" in request:  # options that ask for PostgreSQL
            return await forward(request)
        if request not in first:
            first[request] = await forward(request)
        return first[request]

    return lie


def is_late(seconds: float) -> Lie:
    """Delays each reply by some seconds and returns it to the next caller, with its old age."""
    last: dict[bytes, tuple[float, bytes]] = {}

    async def lie(request: bytes, forward: Forward) -> bytes:
        now = asyncio.get_running_loop().time()
        if request not in last or now - last[request][0] > seconds:
            last[request] = now, await forward(request)
        return last[request][1]

    return lie


def refuses(code: grpc.StatusCode, *, every: int) -> Lie:
    """Refuses every nth call."""
    calls = 0

    async def lie(request: bytes, forward: Forward) -> bytes:
        nonlocal calls
        calls += 1
        if calls % every == 0:
            raise Refused(code)
        return await forward(request)

    return lie


def adds_twice() -> Lie:
    """Adds to a cart twice."""

    async def lie(request: bytes, forward: Forward) -> bytes:
        await forward(request)
        return await forward(_renamed(cart_service_pb2.AddCartItemRequest, request))

    return lie


def forgets_requests() -> Lie:
    """Takes each reservation for a new one."""

    async def lie(request: bytes, forward: Forward) -> bytes:
        return await forward(_renamed(inventory_service_pb2.ReserveInventoryRequest, request))

    return lie


def _renamed(kind: Any, request: bytes) -> bytes:
    message = kind.FromString(request)
    message.request_id = str(uuid4())
    return bytes(message.SerializeToString())


def grants_everything() -> Lie:
    """Grants what was refused."""

    async def lie(request: bytes, forward: Forward) -> bytes:
        try:
            return await forward(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            reservation = Reservation(reservation_id=str(uuid4()))
            return inventory_service_pb2.ReserveInventoryResponse(reservation=reservation).SerializeToString()

    return lie


def does_nothing(reply: Any) -> Lie:
    """Acknowledges without doing anything."""

    async def lie(_request: bytes, _forward: Forward) -> bytes:
        return bytes(reply.SerializeToString())

    return lie


def counts_wrong() -> Lie:
    """Adds a piece to the stocks of every second batch."""
    calls = 0

    async def lie(request: bytes, forward: Forward) -> bytes:
        nonlocal calls
        calls += 1
        reply = inventory_service_pb2.BatchGetInventoryResponse.FromString(await forward(request))
        for inventory in reply.inventories:
            inventory.available += calls % 2
        return reply.SerializeToString()

    return lie


def repeats_itself() -> StreamLie:
    """Sends every message twice."""

    async def lie(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message
            yield message

    return lie


def leaves_out(every: int) -> StreamLie:
    """Drops every nth message."""

    async def lie(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        number = 0
        async for message in messages:
            number += 1
            if number % every:
                yield message

    return lie


def falls_silent(after: int) -> StreamLie:
    """Sends that many messages, and then none."""

    async def lie(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        number = 0
        async for message in messages:
            number += 1
            if number <= after:
                yield message

    return lie


NOTHING_ADJUSTED = inventory_service_pb2.AdjustInventoryResponse()
