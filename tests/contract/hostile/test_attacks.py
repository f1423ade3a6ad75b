"""Each attack: the sidecar's memory is bounded, and others see no error. `make hostile` prints their latencies."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cache_sidecar.v1 import product_service_pb2 as pb
from tests.bench import frames
from tests.contract.hostile.client import HELLO, clients
from tests.contract.hostile.victim import PRODUCT, Attacked, Victim
from tests.contract.test_hostile_bombs import bomb
from tests.support.raw import RawConnection, encoded_text, header_block, message

GET = "/cache_sidecar.v1.ProductService/GetProduct"
WATCH = "/cache_sidecar.v1.ProductService/WatchProducts"
WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
OPEN = header_block(GET)
INVALID_ARGUMENT, EXHAUSTED = 3, 8
MIB = 1024 * 1024
CONTINUATION = 9
PING = frames.frame(frames.PING, 0, 0, b"01234567")
CANCEL = (8).to_bytes(4)


async def gzip_bomb(victim: Victim) -> None:
    packed = message(bomb(1024 * MIB, bits=31), compressed=True)
    async with RawConnection.open(victim.address) as raw:
        for _ in range(3 * victim.scale):
            assert (await raw.call(GET, packed, encoding="gzip")).status == EXHAUSTED


async def announced_400_mb(victim: Victim) -> None:
    async with RawConnection.open(victim.address) as raw:
        for _ in range(20 * victim.scale):
            stream = await raw.begin(GET)
            await raw.send(stream, message(b"x" * 1000, length=400 * MIB))
            assert (await raw.reply(stream)).status == EXHAUSTED


async def idle_connections(victim: Victim) -> None:
    async with clients(victim.address, 10_000) as opened:
        await asyncio.gather(*(client.send(PING) for client in opened))
        assert not any(client.closed.is_set() for client in opened)


async def slow_handshakes(victim: Victim) -> None:
    async with clients(victim.address, 1000 * victim.scale, frames.PREFACE[:10]) as opened:
        for byte in frames.PREFACE[10:20]:
            await asyncio.gather(*(client.send(bytes([byte])) for client in opened))


async def slow_tls_handshakes(victim: Victim) -> None:
    record = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)  # the beginning of a ClientHello of 512 bytes
    async with clients(victim.address, 1000 * victim.scale, record[:5]) as opened:
        for byte in record[5:]:
            await asyncio.gather(*(client.send(bytes([byte])) for client in opened))
        assert not any(client.received for client in opened)


async def rapid_resets(victim: Victim) -> None:
    for _ in range(5 * victim.scale):
        async with clients(victim.address, 1) as (client,):
            for stream in range(1, 10_000, 2):
                call = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, OPEN)
                if not await client.send(call + frames.frame(frames.RST_STREAM, 0, stream, CANCEL)):
                    break


async def late_resets(victim: Victim) -> None:
    async with RawConnection.open(victim.address) as raw:
        for _ in range(10 * victim.scale):
            streams = [await raw.begin(WATCH) for _ in range(100)]
            for stream in streams:
                await raw.send(stream, message(b""), end=True)
            await raw.call(GET, message(b""))  # they have arrived
            for stream in streams:
                raw.cancel(stream)


async def continuation_flood(victim: Victim) -> None:
    more = frames.frame(CONTINUATION, 0, 1, b"\x00" + encoded_text(b"x-more") + encoded_text(b"x" * 1000))
    async with clients(victim.address, 5) as opened:
        for client in opened:
            await client.send(frames.frame(frames.HEADERS, 0, 1, OPEN))
            await client.flood(more * 20, 500 * victim.scale)


async def control_flood(victim: Victim, frame: bytes) -> None:
    async with clients(victim.address, 5) as opened:
        await asyncio.gather(*(client.flood(frame * 1000, 100 * victim.scale) for client in opened))


async def ping_flood(victim: Victim) -> None:
    await control_flood(victim, PING)


async def settings_flood(victim: Victim) -> None:
    await control_flood(victim, frames.settings({frames.INITIAL_WINDOW_SIZE: 1000}))


async def header_bombs(victim: Victim) -> None:
    entry = b"\x40" + encoded_text(b"x-bomb") + encoded_text(b"x" * 3000)
    bombed = OPEN + entry + b"\xbe" * 10_000  # the entry, 10,000 times: 30 MB
    async with clients(victim.address, 20 * victim.scale) as opened:
        for client in opened:
            await client.send(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, bombed))


async def stalled_streams(victim: Victim) -> None:
    async with RawConnection.open(victim.address, stream_window=0) as raw:
        for _ in range(100):
            await raw.send(await raw.begin(WATCH), message(b""), end=True)
        for number in range(20 * victim.scale):
            await victim.shop.create(f"stalled-{victim.engine}-{number}", description="x" * 10_000)


async def zero_windows(victim: Victim) -> None:
    """Unary calls whose replies may never be sent."""
    request = message(pb.GetProductRequest(product_id=PRODUCT).SerializeToString())
    async with RawConnection.open(victim.address, stream_window=0) as raw:
        streams = [await raw.begin(GET) for _ in range(500 * victim.scale)]
        for stream in streams:
            await raw.send(stream, request, end=True)
        await raw.call("/cache_sidecar.v1.ProductService/Nothing", b"")  # a reply without a message is sent: they have arrived
        assert not any(raw.received(stream).ended.is_set() for stream in streams)


async def half_closed_sockets(victim: Victim) -> None:
    call = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, OPEN)
    async with clients(victim.address, 500 * victim.scale, HELLO + call) as opened:
        for client in opened:
            client.transport.write_eof()


async def connection_flood(victim: Victim) -> None:
    for _ in range(20 * victim.scale):
        async with clients(victim.address, 200):
            pass


async def anonymous_watches(victim: Victim) -> None:
    """Health watches, which need no token, on several connections; the watches of others are still admitted."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4 * victim.scale):
            raw = await stack.enter_async_context(RawConnection.open(victim.address))
            for _ in range(100):
                await raw.send(await raw.begin(WATCH_HEALTH), message(b""), end=True)
            assert (await raw.call(GET, message(b""))).status == INVALID_ARGUMENT  # they have arrived
        watch = victim.shop.products.WatchProducts(pb.WatchProductsRequest(), timeout=30)
        assert isinstance(await watch.read(), pb.WatchProductsResponse)
        watch.cancel()


# What memory may grow by, in MiB.
ATTACKS: dict[Callable[[Victim], Awaitable[Any]], int] = {
    gzip_bomb: 64,
    announced_400_mb: 64,
    slow_handshakes: 128,
    rapid_resets: 128,
    late_resets: 128,
    continuation_flood: 128,
    ping_flood: 64,
    settings_flood: 64,
    header_bombs: 128,
    stalled_streams: 128,
    anonymous_watches: 64,
    zero_windows: 128,
    half_closed_sockets: 128,
    connection_flood: 128,
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_others_are_served_and_memory_is_bounded(victim: Victim, attack: Callable[[Victim], Awaitable[Any]]) -> None:
    await _endure(victim, attack, ATTACKS[attack])


async def test_ten_thousand_idle_connections(attacked: Attacked, many_files: int) -> None:
    if many_files < 11_000:
        pytest.skip(f"a process may open only {many_files} files here")
    async with attacked(max_connections=11_000) as victim:
        await _endure(victim, idle_connections, 800)


async def test_slow_tls_handshakes(victim_with_tls: Victim) -> None:
    await _endure(victim_with_tls, slow_tls_handshakes, 128)


async def _endure(victim: Victim, attack: Callable[[Victim], Awaitable[Any]], growth: int) -> None:
    row = await victim.during(attack.__name__.replace("_", " "), attack)
    assert row["rss_growth"] < growth * MIB
    for seen in row["during"].values():
        assert victim.excuses(seen["errors"]), seen["errors"]
