"""The proxy of the failure tests does what it says, in front of a real TCP server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """The address of a server that says what it hears, then, at the end of it, good-bye."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
            writer.write(b"bye")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class _Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))

    async def hears_nothing(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.readexactly(1), 0.1)
        except TimeoutError:
            return True
        return False


@contextlib.asynccontextmanager
async def _caller(proxy: Proxy) -> AsyncIterator[_Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield _Caller(reader, writer)
    finally:
        writer.transport.abort()


async def test_it_forwards_both_ways_to_the_last_byte(echo: str) -> None:
    async with Proxy(echo) as proxy, _caller(proxy) as caller:
        assert await caller.say(b"hello") == b"hello"
        assert proxy.connections == 1
        caller.writer.write_eof()
        assert await caller.reader.read() == b"bye"


async def test_cut_drops_and_refuses_until_healed_on_the_same_port(echo: str) -> None:
    async with Proxy(echo) as proxy:
        address = proxy.address
        async with _caller(proxy) as caller:
            assert await caller.say(b"hello") == b"hello"
            proxy.cut()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await caller.reader.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.cut()
        await proxy.heal()
        assert proxy.address == address
        async with _caller(proxy) as caller:
            assert await caller.say(b"again") == b"again"


async def test_stall_holds_old_and_new_connections_until_healed(echo: str) -> None:
    async with Proxy(echo) as proxy, _caller(proxy) as old:
        assert await old.say(b"hello") == b"hello"
        proxy.stall()
        async with _caller(proxy) as new:
            old.writer.write(b"1")
            new.writer.write(b"2")
            assert await old.hears_nothing()
            assert await new.hears_nothing()
            await proxy.heal()
            assert await old.reader.readexactly(1) == b"1"
            assert await new.reader.readexactly(1) == b"2"


async def test_delay_slows_each_direction(echo: str) -> None:
    async with Proxy(echo) as proxy, _caller(proxy) as caller:
        proxy.delay(30.0)
        caller.writer.write(b"1")
        assert await caller.hears_nothing()
    async with Proxy(echo) as proxy, _caller(proxy) as caller:
        proxy.delay(0.01)
        assert await caller.say(b"late") == b"late"


async def test_a_server_that_is_away_closes_the_callers_connection(echo: str) -> None:
    async with Proxy("127.0.0.1:1") as proxy, _caller(proxy) as caller:
        assert await caller.reader.read() == b""
