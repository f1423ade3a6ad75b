"""Server-sent events: one snapshot for all, and who is too slow for them."""

import asyncio
from typing import Any

import pytest

from cache_sidecar.page.feed import MAX_UNREAD, Feed
from tests.support.until import DEADLINE, until


class Counting:
    """A source that counts what it is asked for."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.made = self.begun = self.ended = 0

    def begin(self) -> None:
        self.begun += 1

    def end(self) -> None:
        self.ended += 1

    async def whole(self) -> dict[str, Any]:
        return {"whole": True}

    async def news(self) -> dict[str, Any]:
        self.made += 1
        return {"number": self.made, "text": "x" * self.size}


async def serve(feed: Feed) -> tuple[asyncio.Server, int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        feed.admit()
        await feed.send(reader, writer, refusal=lambda: "", more={"more": 1}, head={})
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def numbers(reader: asyncio.StreamReader, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        line = (await asyncio.wait_for(reader.readline(), DEADLINE)).decode()
        if '"number"' in line:
            found.append(line.partition('"number":')[2].partition(",")[0])
    return found


async def test_all_readers_share_one_snapshot_and_none_is_made_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.page.feed.EVERY", 0.02)
    source = Counting()
    feed = Feed(source)
    server, port = await serve(feed)
    async with server:
        assert (source.begun, source.made) == (0, 0)
        pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        await until(lambda: feed.readers == 3)
        since = source.made
        seen = [await numbers(reader, 5) for reader, _ in pairs]
        common = set.intersection(*map(set, seen))
        assert len(common) >= 2
        assert source.begun == 1
        assert source.made >= since
        for _, writer in pairs:
            writer.close()
        await until(lambda: source.ended == 1)
        made = source.made
        assert feed.readers == 0
        _, again = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: source.made > made)
        assert source.begun == 2
        again.close()
        await feed.stop()


async def test_a_reader_that_does_not_read_is_dropped_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.page.feed.EVERY", 0.02)
    source = Counting(size=8 * MAX_UNREAD)
    feed = Feed(source)
    server, port = await serve(feed)
    async with server:
        # Its buffer is small, and nobody empties it.
        _, slow = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        await until(lambda: feed.readers == 1)
        await until(lambda: feed.readers == 0)
        source.size = 1
        reader, quick = await asyncio.open_connection("127.0.0.1", port)
        assert len(await numbers(reader, 2)) == 2
        slow.close()
        quick.close()
        await until(lambda: feed.readers == 0)
        await feed.stop()
