"""Calls whose request has not come: whoever may not call is told by the headers; others are waited for, but not for ever."""

from pathlib import Path

import pytest

from cache_sidecar.server.engines.debts import MAX_WITHOUT_MESSAGE
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support.raw import RawConnection, message
from tests.support.shop import Open, Shop
from tests.support.tokens import secret_file, token
from tests.support.until import until

GET = "/cache_sidecar.v1.ProductService/GetProduct"
WATCH = "/cache_sidecar.v1.ProductService/WatchProducts"
STATS = "/cache_sidecar.v1.AdminService/GetStats"
HEALTH = "/grpc.health.v1.Health/Check"
NOBODY = message(pb.GetProductRequest(product_id="nobody").SerializeToString())
OK, LATE, NOT_FOUND, RESOURCE_EXHAUSTED, UNAUTHENTICATED = 0, 4, 5, 8, 16
# What the native engine passes on to grpc.aio, by its metadata.
PASSED_ON = [(b"x-bin", b"AAA==")]
BEARER = [(b"authorization", f"Bearer {token('cart')}".encode())]


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    return str(secret_file(tmp_path / "tokens", f"cart app {token('cart')}\nops admin {token('ops')}\n"))


async def answers(raw: RawConnection) -> bool:
    """Whether the connection answers; what was sent on it before has arrived then."""
    return (await raw.call(HEALTH, message(b""))).status == OK


@pytest.mark.parametrize("path", [GET, WATCH, STATS])
@pytest.mark.parametrize("metadata", [[], PASSED_ON, [(b"authorization", b"Bearer guessed")]], ids=["", "passed on", "guessed"])
@pytest.mark.parametrize("begun", [b"", NOBODY[:-1]], ids=["nothing", "a part"])
async def test_a_caller_without_a_token_is_refused_before_its_message_comes(
    open_shop: Open, tokens: str, path: str, metadata: list, begun: bytes
) -> None:
    async with open_shop(access_tokens_file=tokens) as shop, RawConnection.open(shop.address) as raw:
        stream = await raw.begin(path, metadata=metadata)
        await raw.send(stream, begun)
        reply = await raw.reply(stream)
        assert (reply.status, reply.reset in (None, 0)) == (UNAUTHENTICATED, True)
        assert b"grpc-status-details-bin" in reply.headers
        assert await answers(raw)


@pytest.mark.parametrize("metadata", [BEARER, BEARER + PASSED_ON], ids=["", "passed on"])
async def test_a_caller_with_a_token_may_take_its_time(open_shop: Open, tokens: str, metadata: list) -> None:
    async with open_shop(access_tokens_file=tokens) as shop, RawConnection.open(shop.address) as raw:
        stream, check = await raw.begin(GET, metadata=metadata), await raw.begin(HEALTH)
        await raw.send(stream, NOBODY[:-1])
        assert await answers(raw)
        assert not raw.received(stream).ended.is_set()
        assert not raw.received(check).ended.is_set(), "health checks need no token"
        await raw.send(stream, NOBODY[-1:], end=True)
        await raw.send(check, message(b""), end=True)
        assert [(await raw.reply(call)).status for call in (stream, check)] == [NOT_FOUND, OK]


async def test_what_is_not_in_the_time_of_the_call_is_not_waited_for(shop: Shop) -> None:
    async with RawConnection.open(shop.address) as raw:
        stream = await raw.begin(GET, metadata=[(b"grpc-timeout", b"20m")])
        await raw.send(stream, NOBODY[:-1])
        reply = await raw.reply(stream)
        assert reply.status == LATE or reply.reset, "C-core resets such a call"
        assert await answers(raw)


async def test_a_message_that_does_not_come_is_given_up(shop: Shop, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "native":
        pytest.skip("`connection.rs` tests this, with time of its own")
    monkeypatch.setattr("cache_sidecar.server.engines.debts.BODY_WITHIN", 0.05)
    async with RawConnection.open(shop.address) as raw:
        for path in (GET, WATCH):
            stream = await raw.begin(path)
            await raw.send(stream, NOBODY[:-1])
            reply = await raw.reply(stream)
            assert (reply.status, reply.message) == (LATE, "the request did not arrive within 10 s, or its deadline")
        assert await answers(raw)


async def test_who_begins_too_many_is_ended_however_rarely_it_is_looked(
    open_shop: Open, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "native":
        pytest.skip("`room.rs` tests this")
    monkeypatch.setattr("cache_sidecar.server.engines.debts.LOOK_EVERY", 3600)
    async with open_shop() as shop, RawConnection.open(shop.address) as honest, RawConnection.open(shop.address) as raw:
        assert [await answers(honest), await answers(raw)] == [True, True]
        files = len(list(Path("/dev/fd").iterdir()))
        asked = await honest.begin(GET)
        await honest.send(asked, NOBODY[:-1])
        for _ in range(MAX_WITHOUT_MESSAGE):
            await raw.begin(GET)
        await until(raw.closed.is_set)
        await honest.send(asked, NOBODY[-1:], end=True)
        assert (await honest.reply(asked)).status == NOT_FOUND
        await until(lambda: len(list(Path("/dev/fd").iterdir())) < files)


@pytest.mark.parametrize("metadata", [[], PASSED_ON], ids=["", "passed on"])
async def test_a_large_message_comes_in_many_pieces(shop: Shop, metadata: list) -> None:
    # Field 99, which nobody knows: 300 KB, more than a window.
    text = pb.GetProductRequest(product_id="nobody").SerializeToString() + b"\x9a\x06\xe0\xa7\x12" + bytes(300_000)
    async with RawConnection.open(shop.address) as raw:
        assert (await raw.call(GET, message(text), metadata=metadata)).status == NOT_FOUND


async def test_further_connections_are_refused_and_others_go_on(open_shop: Open, engine: str) -> None:
    async with open_shop(max_connections=3) as shop:
        assert await shop.create("p0")  # on the first connection
        async with RawConnection.open(shop.address) as first, RawConnection.open(shop.address) as second:
            assert [await answers(raw) for raw in (first, second)] == [True, True]
            async with RawConnection.open(shop.address) as third:
                if engine == "native":  # it answers health checks alone
                    assert (await third.call(GET, NOBODY)).status == RESOURCE_EXHAUSTED
                await until(third.closed.is_set)
                assert await answers(first)
