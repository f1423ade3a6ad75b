"""Headers that other implementations of HTTP/2 send: authorities, paths, and more metadata than is taken."""

from pathlib import Path

import pytest

from tests.contract.test_hostile import EXHAUSTED, GET, NOBODY, NOT_FOUND
from tests.support.raw import RawConnection, message
from tests.support.shop import Open, Shop

UNIMPLEMENTED = 12
KIB = 1024
# Clients of a unix socket send its path, in more ways than one; over TCP they send what they were given.
AUTHORITIES = [
    b"localhost",
    b"/run/cache-sidecar/grpc.sock",
    b"%2Frun%2Fgrpc.sock",
    b"unix:/run/grpc.sock",
    b"unix%3A%2Frun%2Fgrpc.sock",
    b"my_shop.example:50051",
    b"user@shop",
    b"[fe80::1%25eth0]:50051",
]


@pytest.mark.parametrize("is_coded", [False, True], ids=["plain", "huffman"])
@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_whatever_stands_in_authority_is_answered(open_shop: Open, tmp_path: Path, where: str, is_coded: bool) -> None:
    path = str(tmp_path / "s.sock")
    async with (
        open_shop(listen_socket=path) as shop,
        RawConnection.open(shop.address if where == "tcp" else f"unix:{path}") as raw,
    ):
        for authority in AUTHORITIES:
            # Twice, the second time from the table of headers, whose entries have to be of the same size at both ends.
            for _ in range(2):
                reply = await raw.call(GET, message(NOBODY), authority=authority, is_coded=is_coded)
                assert (reply.status, reply.reset) == (NOT_FOUND, None), authority


async def test_a_table_that_is_full_stays_the_same_at_both_ends(shop: Shop) -> None:
    async with RawConnection.open(shop.address) as raw:
        for number in range(200):
            authority = b"/run/%03d/grpc.sock" % number
            assert (await raw.call(GET, message(NOBODY), authority=authority, is_coded=number % 2 == 0)).status == NOT_FOUND


@pytest.mark.parametrize(
    "path", [GET + "?x=1", GET + "?", "/cache_sidecar.v1.AdminService/Invalidate?x=1", GET + "/", "/", "/x"]
)
async def test_a_path_that_is_no_method_is_unimplemented(shop: Shop, path: str) -> None:
    async with RawConnection.open(shop.address) as raw:
        reply = await raw.call(path, message(NOBODY))
        assert (reply.status, reply.reset in (None, 0)) == (UNIMPLEMENTED, True)


@pytest.mark.parametrize("size", [17 * KIB, 40 * KIB, 200 * KIB])
async def test_too_much_metadata_is_refused_and_the_connection_goes_on(shop: Shop, size: int) -> None:
    async with RawConnection.open(shop.address) as raw:
        # C-core counts once its settings are acknowledged.
        assert (await raw.call(GET, message(NOBODY))).status == NOT_FOUND
        waiting = await raw.begin(GET)
        for _ in range(3):
            reply = await raw.call(GET, message(NOBODY), metadata=[(b"cookie", b"x" * size)])
            assert (reply.status, reply.reset in (None, 0)) == (EXHAUSTED, True)
        await raw.send(waiting, message(NOBODY), end=True)
        assert (await raw.reply(waiting)).status == NOT_FOUND
        assert not raw.told_to_go


async def test_as_much_as_is_taken_is_taken(shop: Shop) -> None:
    async with RawConnection.open(shop.address) as raw:
        # Names and values count, and 32 bytes each; so do the headers that every call has.
        assert (await raw.call(GET, message(NOBODY), metadata=[(b"x", b"x" * (15 * KIB))])).status == NOT_FOUND
