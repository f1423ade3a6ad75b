"""What clients, interceptors and meshes send along changes no reply, and on the native engine no call's way; what gRPC requires
to be otherwise is refused by both engines alike."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract import who
from tests.support import inside
from tests.support.raw import RawConnection, RawReply, message
from tests.support.shop import L1, Shop, product
from tests.support.until import until

SERVICE = "/cache_sidecar.v1.ProductService"
HEALTH = "/grpc.health.v1.Health/Check"
OK, INVALID, NOT_FOUND, EXHAUSTED, INTERNAL = 0, 3, 5, 8, 13
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
KIB = 1024

HARMLESS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "baggage": {"metadata": [(b"baggage", b"user=7")]},
    "a sampled trace": {"metadata": [(b"traceparent", b"00-" + TRACE + b"-00f067aa0ba902b7-01"), (b"tracestate", b"a=1")]},
    "a trace of Zipkin": {"metadata": [(b"x-b3-traceid", TRACE), (b"x-b3-sampled", b"1")]},
    "a token that nobody asks for": {"metadata": [(b"authorization", b"Bearer x")]},
    "what a mesh adds": {"metadata": [(b"x-forwarded-proto", b"https"), (b"x-envoy-attempt-count", b"1")]},
    "what a client adds": {"metadata": [(b"grpc-accept-encoding", b"gzip"), (b"grpc-previous-rpc-attempts", b"1")]},
    "binary metadata": {"metadata": [(b"grpc-trace-bin", b"AABL+S81d7NNo6POkp0ODkc2AQ"), (b"x-bin", b"AA=="), (b"y-bin", b"")]},
    "an encoding that is not used": {"encoding": "gzip"},
}
PACKED = {"gzip": gzip.compress, "deflate": zlib.compress}
# Whether C-core reads a value of binary metadata.
BINARY = {
    b"": True,
    b"AAAA": True,
    b"AAA=": True,
    b"AAA": True,
    b"AA==": True,
    b"AA": True,
    b"AA=": True,
    b"+/+/": True,
    b"AAA==": True,
    b"A": False,
    b"AAAAA": False,
    b"AAB": False,
    b"AB": False,
    b"-_-_": False,
    b"!!!!": False,
    b"AAAA,AAAA": False,
}


@pytest.fixture
async def raw(shop: Shop) -> AsyncIterator[RawConnection]:
    async with RawConnection.open(shop.address) as opened:
        yield opened


@pytest.fixture
async def remembered(shop: Shop) -> str:
    """A product in memory."""
    await until(shop.app.coherence.is_trusted)
    id = (await shop.create()).product_id

    async def is_remembered() -> bool:
        await shop.get(id)
        return shop.remembers(id)

    await until(is_remembered)
    return id


def get(id: str) -> bytes:
    return pb.GetProductRequest(product_id=id).SerializeToString()


def counter(shop: Shop, engine: str) -> Callable[[], tuple[int, int]]:
    """Returns what reads the calls answered by Python and by way of grpc.aio; always 0 where grpc.aio answers all."""
    if engine == "aio":
        return lambda: (0, 0)
    counters = inside.engine_of(shop.app.server).counters
    return lambda: (counters()["handed"], counters()["proxied"])


def is_hit(reply: RawReply) -> bool:
    assert reply.status == OK, reply
    return pb.GetProductResponse.FromString(reply.body[5:]).cache.source == L1


@pytest.mark.parametrize("options", HARMLESS.values(), ids=HARMLESS)
async def test_what_is_sent_along_changes_no_call(
    shop: Shop, engine: str, raw: RawConnection, remembered: str, options: dict[str, Any]
) -> None:
    count = counter(shop, engine)
    handed, proxied = count()
    assert is_hit(await raw.call(f"{SERVICE}/GetProduct", message(get(remembered)), **options))
    assert count() == (handed, proxied), "the hit was answered without Python"
    assert (await raw.call(HEALTH, message(b""), **options)).status == OK
    handed += engine == "native"
    assert count() == (handed, proxied), "Python answers the others, without grpc.aio"


@pytest.mark.parametrize("encoding", PACKED)
async def test_a_compressed_request_takes_the_same_way(
    shop: Shop, engine: str, raw: RawConnection, remembered: str, encoding: str
) -> None:
    pack, count = PACKED[encoding], counter(shop, engine)
    handed, proxied = count()
    packed = message(pack(get(remembered)), compressed=True)
    assert is_hit(await raw.call(f"{SERVICE}/GetProduct", packed, encoding=encoding))
    stream = await raw.begin(f"{SERVICE}/GetProduct", encoding=encoding)
    for part in (packed[:3], packed[3:9], packed[9:]):
        await raw.send(stream, part)
        await asyncio.sleep(0)
    await raw.send(stream, b"", end=True)
    assert is_hit(await raw.reply(stream))
    assert count() == (handed, proxied)
    missed = message(pack(get("nobody")), compressed=True)
    assert (await raw.call(f"{SERVICE}/GetProduct", missed, encoding=encoding)).status == NOT_FOUND
    handed += engine == "native"
    assert count() == (handed, proxied)


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("size", [24 * KIB, 32 * KIB, 100 * KIB])
async def test_a_compressed_request_of_any_size_is_read(shop: Shop, raw: RawConnection, encoding: str, size: int) -> None:
    # Text of which a third is left, and of which nearly nothing is.
    text = "".join(f"{number * 2654435761 % 2**32:08x}" for number in range(size // 8))
    for description in (text[:size], "x" * size):
        request = pb.CreateProductRequest(product=product(f"packed-{encoding}", description=description))
        packed = PACKED[encoding](request.SerializeToString())
        reply = await raw.call(f"{SERVICE}/CreateProduct", message(packed, compressed=True), encoding=encoding)
        assert reply.status == INVALID, "the description is too long, which only who has read it knows"
        assert "description" in reply.message


@pytest.mark.parametrize("encoding", PACKED)
async def test_what_cannot_be_unpacked_is_refused(shop: Shop, raw: RawConnection, remembered: str, encoding: str) -> None:
    packed = PACKED[encoding](get(remembered))
    changed = packed[:-1] + bytes([packed[-1] ^ 1])
    for odd in (packed[:-1], packed[:5], packed + b"\0", changed, packed[1:], get(remembered)):
        reply = await raw.call(f"{SERVICE}/GetProduct", message(odd, compressed=True), encoding=encoding)
        assert (reply.status, reply.reset in (None, 0)) == (INTERNAL, True), odd
    assert is_hit(await raw.call(f"{SERVICE}/GetProduct", message(packed, compressed=True), encoding=encoding))


@pytest.mark.parametrize(("value", "is_read"), BINARY.items())
async def test_binary_metadata_are_read_as_c_core_reads_them(
    shop: Shop, raw: RawConnection, remembered: str, value: bytes, is_read: bool
) -> None:
    for name in (b"x-bin", b"grpc-trace-bin"):
        reply = await raw.call(f"{SERVICE}/GetProduct", message(get(remembered)), metadata=[(name, value)])
        assert (reply.status, reply.reset in (None, 0)) == (OK if is_read else INTERNAL, True)


async def test_a_service_sees_binary_metadata_decoded(engine: str) -> None:
    sent = [("x-shop", "eu"), ("x-bin", b"\0\xff"), ("y-bin", b"")]
    async with who.hosted(engine) as address, grpc.aio.insecure_channel(address) as channel:
        for method in who.METHODS:
            seen = (await who.ask(channel, method, metadata=sent))["values"]
            assert [seen[name] for name, _ in sent] == ["'eu'", r"b'\x00\xff'", "b''"], method
