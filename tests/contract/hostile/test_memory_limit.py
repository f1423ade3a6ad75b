"""No client drives the sidecar past 80 % of the memory limit that the injector sets, with a full L1, and honest callers are served.

Without bounds over all connections, each of these attacks would take a multiple of that. The peak is the kernel's (VmHWM).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from cache_sidecar.core import container_memory
from cache_sidecar.injector import options, quantity
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.bench import frames
from tests.contract.hostile.client import HELLO, Client, clients
from tests.contract.hostile.victim import Attacked, Victim
from tests.contract.test_reply_sizes import insert
from tests.support.raw import encoded_text, header_block, message
from tests.support.until import until

GET = "/cache_sidecar.v1.ProductService/GetProduct"
BATCH = "/cache_sidecar.v1.ProductService/BatchGetProducts"
INJECTED = options.Options()
LIMIT = container_memory.USED_SHARE * int(quantity.parse(INJECTED.memory_limit))
LARGE = 16_000
"Bytes of a product."
STREAMS = 1900
"Calls of a connection, nearly as many as it may have."
CONTINUATION = 9
# Says that replies may be sent without end; a client that then does not read leaves them with the sidecar.
EAGER = (
    frames.PREFACE + frames.settings({frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: 2**30}) + frames.window_update(2**30)
)


def whole(path: str, request: bytes) -> Callable[[int], bytes]:
    """Returns a function of a stream that returns a complete call."""
    block, body = header_block(path), message(request)
    return lambda stream: (
        frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        + frames.frame(frames.DATA, frames.END_STREAM, stream, body)
    )


def calls(make: Callable[[int], bytes], count: int = STREAMS) -> list[bytes]:
    """Returns the bytes of calls, in pieces of fifty."""
    streams = range(1, 2 * count, 2)
    return [b"".join(make(stream) for stream in streams[start : start + 50]) for start in range(0, count, 50)]


async def attack(victim: Victim, connections: int, pieces: list[bytes], said: bytes = HELLO, *, reads: bool = True) -> None:
    """Sends the same on many connections, for as long as the sidecar takes it, and holds them until it has settled."""

    async def feed(client: Client) -> None:
        # A sidecar that takes no more has had enough.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                for piece in pieces:
                    if not await client.send(piece):
                        return

    async with clients(victim.address, connections * victim.scale, said) as opened:
        for client in opened:
            if not reads:
                client.transport.pause_reading()
        await asyncio.gather(*(feed(client) for client in opened))
        await victim.settle()


async def endless_bodies(victim: Victim) -> None:
    """Calls whose message is announced, and never comes; each with 12 KB of metadata that take 4 bytes."""
    first = header_block(GET) + b"\x40" + encoded_text(b"x-more") + encoded_text(b"x" * 3000)
    later = header_block(GET) + b"\xbe" * 4

    def begun(stream: int) -> bytes:
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, first if stream == 1 else later)
        return head + frames.frame(frames.DATA, 0, stream, message(b"", length=1000))

    await attack(victim, 30, calls(begun))


async def small_endless_bodies(victim: Victim) -> None:
    """The same with as little metadata as possible, as many calls as possible."""
    block = header_block(GET)
    await attack(victim, 30, calls(lambda stream: frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)))


async def endless_messages(victim: Victim) -> None:
    """Messages of 4 MB that come but for their end, as far as they are taken."""
    block, piece = header_block(GET), b"x" * frames.DEFAULT_FRAME_BYTES

    def begun(stream: int) -> bytes:
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        start = frames.frame(frames.DATA, 0, stream, message(piece[5:], length=4_000_000))
        return head + start + frames.frame(frames.DATA, 0, stream, piece) * 2

    await attack(victim, 150, calls(begun, 20))


async def unread_large_replies(victim: Victim) -> None:
    request = pb.BatchGetProductsRequest(product_ids=[f"{victim.engine}{number:04}" for number in range(40)])
    await attack(victim, 4, calls(whole(BATCH, request.SerializeToString()), 600), EAGER, reads=False)


async def unread_small_replies(victim: Victim) -> None:
    request = pb.GetProductRequest(product_id=f"small-{victim.engine}")
    await attack(victim, 40, calls(whole(GET, request.SerializeToString())), EAGER, reads=False)


async def unread_refusals(victim: Victim) -> None:
    await attack(victim, 60, calls(whole(GET, b"")), EAGER, reads=False)


async def open_header_blocks(victim: Victim) -> None:
    """Header blocks that do not end."""
    more = frames.frame(CONTINUATION, 0, 1, b"\x00" + encoded_text(b"x-more") + encoded_text(b"x" * 12_000))
    await attack(victim, 800, [frames.frame(frames.HEADERS, 0, 1, header_block(GET)) + more * 5])


async def many_connections(victim: Victim) -> None:
    """Three times as many as there may be."""
    await attack(victim, 3000, [])


async def one_byte_frames(victim: Victim) -> None:
    """A message in frames of one byte, 10 on the wire."""
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, header_block(GET))
    start = frames.frame(frames.DATA, 0, 1, message(b"", length=1_000_000))
    await attack(victim, 20, [head + start, *[frames.frame(frames.DATA, 0, 1, b"x") * 1000] * 60])


# What honest callers may see of the native engine while there are more calls than can be answered.
OVERLOADED = "RESOURCE_EXHAUSTED: overloaded: calls wait too long"
ATTACKS: list[Callable[[Victim], Awaitable[Any]]] = [
    endless_bodies,
    small_endless_bodies,
    endless_messages,
    unread_large_replies,
    unread_small_replies,
    unread_refusals,
    open_header_blocks,
    many_connections,
    one_byte_frames,
]


@pytest.fixture(scope="module")
async def injected(attacked: Attacked, shared_database: str) -> AsyncIterator[Victim]:
    """A sidecar with the memory that the injector gives it, of which L1 has filled its part."""
    async with attacked(l1_max_bytes=INJECTED.l1_bytes) as victim:
        count = int(1.1 * INJECTED.l1_bytes) // LARGE
        ids = await insert(shared_database, count, description="x" * LARGE, prefix=victim.engine)
        await victim.shop.create(f"small-{victim.engine}", description="x" * 100)
        for start in range(0, count, 100):
            await victim.shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=ids[start : start + 100]))
        yield victim


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_memory_stays_below_its_limit(injected: Victim, attack: Callable[[Victim], Awaitable[Any]]) -> None:
    injected.forget_peak()
    row = await injected.during(attack.__name__.replace("_", " "), attack)
    assert injected.peak() < LIMIT, f"{row['rss_before'] >> 20} MiB before, {row['rss_growth'] >> 20} MiB more"
    for seen in row["during"].values():
        assert injected.excuses(error for error in seen["errors"] if error != OVERLOADED or injected.engine != "native")
    # The last calls of the attack may still be in its way.
    await until(lambda: _is_served(injected))


async def _is_served(victim: Victim) -> bool:
    try:
        reply = await victim.shop.get(f"small-{victim.engine}", bypass=True)
    except grpc.aio.AioRpcError as error:
        assert error.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        return False
    return bool(reply.product.product_id == f"small-{victim.engine}")
