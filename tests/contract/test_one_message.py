"""Methods that take one message, and callers that end their side with none, a part of one, or two: they are told at once."""

import asyncio

import pytest

from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support.raw import RawConnection, RawReply, message
from tests.support.shop import Open, Shop
from tests.support.until import DEADLINE

GET = "/cache_sidecar.v1.ProductService/GetProduct"
WATCH = "/cache_sidecar.v1.ProductService/WatchProducts"
HEALTH = "/grpc.health.v1.Health/Check"
NOBODY = message(pb.GetProductRequest(product_id="nobody").SerializeToString())
NOT_FOUND, UNIMPLEMENTED, INTERNAL = 5, 12, 13
NONE_CAME = (UNIMPLEMENTED, "the method takes one message, and none came")
# What the native engine passes on to grpc.aio, by its metadata.
PASSED_ON = [(b"x-bin", b"AAA==")]

CUT = [b"\0", b"\0\0\0\0", NOBODY[:5], NOBODY[:-1], message(b"", length=2**20)]


async def ended(raw: RawConnection, path: str, *parts: bytes, metadata: list = []) -> RawReply:  # noqa: B006  # it is only read
    """Makes a call whose body comes in parts, the end behind the last of them, on its own; and returns what is answered."""
    stream = await raw.begin(path, metadata=metadata)
    for part in parts:
        await raw.send(stream, part)
    await raw.send(stream, b"", end=True)
    return await raw.reply(stream)


def told(reply: RawReply) -> tuple[int | None, str]:
    return reply.status, reply.message


@pytest.mark.parametrize("path", [GET, WATCH, HEALTH])
@pytest.mark.parametrize("metadata", [[], PASSED_ON], ids=["", "passed on"])
async def test_a_call_without_a_message_is_answered(shop: Shop, path: str, metadata: list) -> None:
    async with RawConnection.open(shop.address) as raw:
        assert told(await ended(raw, path, metadata=metadata)) == NONE_CAME


@pytest.mark.parametrize("path", [GET, WATCH, HEALTH])
@pytest.mark.parametrize("metadata", [[], PASSED_ON], ids=["", "passed on"])
async def test_so_is_one_that_ends_with_its_headers(shop: Shop, path: str, metadata: list) -> None:
    async with RawConnection.open(shop.address) as raw:
        assert told(await raw.reply(await raw.begin(path, metadata=metadata, end=True))) == NONE_CAME


@pytest.mark.parametrize("body", CUT)
@pytest.mark.parametrize("metadata", [[], PASSED_ON], ids=["", "passed on"])
async def test_so_is_one_whose_message_is_cut_short(shop: Shop, engine: str, body: bytes, metadata: list) -> None:
    is_seen = engine == "native" and not metadata
    expected = (INTERNAL, "the request ended within a message") if is_seen else NONE_CAME
    async with RawConnection.open(shop.address) as raw:
        stream = await raw.begin(GET, metadata=metadata)
        await raw.send(stream, body, end=True)
        assert told(await raw.reply(stream)) == expected
        assert told(await ended(raw, GET, body, metadata=metadata)) == expected
        assert told(await ended(raw, GET, body[:1], body[1:], metadata=metadata)) == expected


@pytest.mark.parametrize("more", [NOBODY, b"\0"], ids=["another message", "a byte"])
async def test_so_is_one_with_two_messages(shop: Shop, engine: str, more: bytes) -> None:
    async with RawConnection.open(shop.address) as raw:
        seen = await raw.call(GET, NOBODY + more)
        if engine == "native":
            assert told(seen) == (UNIMPLEMENTED, "the method takes one message, and more came")
        else:
            assert seen.status == NOT_FOUND, "C-core reads no further than the first"
        assert (await raw.call(GET, NOBODY + more, metadata=PASSED_ON)).status == NOT_FOUND


async def test_they_leave_nothing_behind_that_holds_the_sidecar_up(open_shop: Open) -> None:
    async with open_shop(drain_seconds=600) as shop, RawConnection.open(shop.address) as raw:
        for path in (GET, WATCH):
            for metadata in ([], PASSED_ON):
                for body in (b"", NOBODY[:-1]):
                    await ended(raw, path, body, metadata=metadata)  # grpc.aio may lose a call that arrives while it stops
        await asyncio.wait_for(shop.app.server.drain(), DEADLINE)


async def test_a_call_that_is_reset_before_its_message_came_is_no_error(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        async with RawConnection.open(shop.address) as raw:
            streams = [await raw.begin(path, metadata=PASSED_ON) for path in (GET, WATCH) for _ in range(5)]
            for stream in streams:
                raw.cancel(stream)
            assert (await raw.call(GET, NOBODY)).status == NOT_FOUND
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("encoding", ["br", "snappy", "gzip, deflate"])
async def test_an_encoding_that_is_not_known_is_unimplemented(shop: Shop, engine: str, encoding: str) -> None:
    async with RawConnection.open(shop.address) as raw:
        for path in (GET, WATCH, HEALTH):
            reply = await raw.call(path, NOBODY, encoding=encoding)
            if engine == "aio":
                assert reply.status == INTERNAL, "C-core's word, before any of our code sees the call"
            else:
                assert reply.status == UNIMPLEMENTED
                assert encoding in reply.message
                assert reply.headers[b"grpc-accept-encoding"] == b"identity, deflate, gzip"
        assert (await raw.call(GET, NOBODY)).status == NOT_FOUND
