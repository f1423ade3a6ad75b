"""What a service says through its context reaches callers, whichever way a call takes through an engine."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tests.interop.grpc.testing import empty_pb2, messages_pb2, test_pb2_grpc
from tests.interop.service import INITIAL, TRAILING, Place

BINARY = bytes(range(256))
FAILURES = [code for code in StatusCode if code is not StatusCode.OK]
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈, 100 %\t\n"


@pytest.fixture
async def service(place: Place, transport: str) -> AsyncIterator[Any]:
    """A stub."""
    target = place.target(transport)
    credentials = grpc.ssl_channel_credentials(place.ca.read_bytes())
    opened = grpc.aio.secure_channel(target, credentials) if transport == "tls" else grpc.aio.insecure_channel(target)
    async with opened as channel:
        yield test_pb2_grpc.TestServiceStub(channel)


def asked(size: int = 1, **more: Any) -> Any:
    return messages_pb2.SimpleRequest(response_size=size, **more)


def failing(code: StatusCode, message: str = SPECIAL) -> Any:
    return asked(response_status=messages_pb2.EchoStatus(code=code.value[0], message=message))


def payloads(*sizes: int) -> list[Any]:
    return [messages_pb2.StreamingInputCallRequest(payload=messages_pb2.Payload(body=bytes(size))) for size in sizes]


async def test_a_reply_is_sent_with_what_goes_ahead_of_it_and_behind(service: Any) -> None:
    call = service.UnaryCall(asked(), metadata=((INITIAL, "first"),))
    assert dict(await call.initial_metadata())[INITIAL] == "first"
    assert len((await call).payload.body) == 1
    call = service.UnaryCall(asked(), metadata=((INITIAL, "first"), (TRAILING, BINARY)))
    assert dict(await call.initial_metadata())[INITIAL] == "first"
    assert dict(await call.trailing_metadata())[TRAILING] == BINARY


@pytest.mark.parametrize("metadata", [(), ((INITIAL, "first"),), ((INITIAL, "first"), (TRAILING, BINARY))])
async def test_so_is_an_error(service: Any, metadata: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.UnaryCall(failing(StatusCode.ABORTED), metadata=metadata)
    assert (caught.value.code(), caught.value.details()) == (StatusCode.ABORTED, SPECIAL)
    sent = (*caught.value.initial_metadata(), *caught.value.trailing_metadata())
    assert {key: value for key, value in sent if key.startswith("x-grpc-test")} == dict(metadata)


async def test_every_status_comes_over(service: Any) -> None:
    for code in FAILURES:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.UnaryCall(failing(code, code.name))
        assert (caught.value.code(), caught.value.details()) == (code, code.name)


async def test_what_a_service_leaves_out_is_unimplemented(service: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.UnimplementedCall(empty_pb2.Empty())
    assert caught.value.code() == StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("compression", list(grpc.Compression))
async def test_requests_may_be_compressed(service: Any, compression: grpc.Compression) -> None:
    request = asked(314_159, payload=messages_pb2.Payload(body=bytes(271_828)))
    assert len((await service.UnaryCall(request, compression=compression)).payload.body) == 314_159
    reply = await service.StreamingInputCall(payloads(27_182, 0, 45_904), compression=compression)
    assert reply.aggregated_payload_size == 73_086


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_a_client_that_blocks_is_served_too(place: Place, transport: str) -> None:
    assert await asyncio.to_thread(_blocking, place.target(transport)) == [1, 31_415, 9]


def _blocking(target: str) -> list[int]:
    with grpc.insecure_channel(target) as channel:
        service: Any = test_pb2_grpc.TestServiceStub(channel)
        wanted = messages_pb2.StreamingOutputCallRequest()
        for size in (31_415, 9):
            wanted.response_parameters.add(size=size, interval_us=1000)
        unary = service.UnaryCall(asked(), timeout=20)
        return [len(reply.payload.body) for reply in (unary, *service.FullDuplexCall(iter([wanted]), timeout=20))]
