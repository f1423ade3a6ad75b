"""A repeat of a request returns its first reply, whatever became of buckets, rows and Redis since."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cache_sidecar.v1 import admin_service_pb2
from tests.support.shop import Open, Shop, refused
from tests.support.stockroom import Stockroom, query, request_id

PIECES = 8


async def sell_out(room: Stockroom) -> dict[str, tuple[Any, Callable[[Stockroom], Awaitable[Any]]]]:
    """Uses every method that changes something until all is sold; returns each request's reply, and what repeats it."""
    await room.set("a", PIECES - 1, bucket_count=PIECES)
    calls: dict[str, tuple[Any, Callable[[Stockroom], Awaitable[Any]]]] = {}

    async def call(name: str, make: Callable[[Stockroom, str], Awaitable[Any]]) -> Any:
        request = request_id()
        reply = await make(room, request)
        calls[name] = reply, lambda other: make(other, request)
        return reply

    await call("set", lambda to, id: to.set("b", 5, request_id=id))
    await call("adjust", lambda to, id: to.adjust("a", 1, request_id=id))
    held = await room.reserve({"a": 1})
    await call("extend", lambda to, id: to.extend(held.reservation_id, 3600, request_id=id))
    await call("release", lambda to, id: to.release(held.reservation_id, request_id=id))
    for number in range(PIECES):
        made = await call(f"reserve {number}", lambda to, id: to.reserve({"a": 1}, request_id=id))
        await call(f"commit {number}", lambda to, id, of=made.reservation_id: to.commit(of, request_id=id))
    return calls


async def remove_buckets(shop: Shop, _database: str) -> None:
    await Stockroom(shop.channel).set("a", 0, bucket_count=1)


async def remove_and_make_buckets(shop: Shop, _database: str) -> None:
    for count in (1, PIECES, 3):
        await Stockroom(shop.channel).set("a", 0, bucket_count=count)


async def delete_stock(_shop: Shop, database: str) -> None:
    await query(database, "DELETE FROM cache_sidecar.inventory")


async def make_stock_anew(shop: Shop, database: str) -> None:
    await delete_stock(shop, database)
    await Stockroom(shop.channel).set("a", 0)


async def forget_in_redis(shop: Shop, _database: str) -> None:
    await shop.admin.Invalidate(admin_service_pb2.InvalidateRequest(dataset="inventory", all=True))


async def delete_reservations(shop: Shop, database: str) -> None:
    await query(database, "DELETE FROM cache_sidecar.reservations")
    # While there is nothing left the gate knows requests by their reservations: store/README.md says so.
    await Stockroom(shop.channel).set("a", 100)


@pytest.mark.parametrize(
    "wreck",
    [remove_buckets, remove_and_make_buckets, delete_stock, make_stock_anew, forget_in_redis, delete_reservations],
    ids=lambda wreck: str(wreck.__name__),
)
@pytest.mark.parametrize("knows", ["knows", "new"])
async def test_a_repeat_returns_the_first_reply(
    open_shop: Open, database: str, wreck: Callable[[Shop, str], Awaitable[None]], knows: str
) -> None:
    async with open_shop() as shop, open_shop() as other:
        room = Stockroom(shop.channel)
        calls = await sell_out(room)
        # Also at a sidecar that has refused before, and so has read who was granted something.
        if knows == "knows":
            assert (await refused(Stockroom(other.channel).reserve({"a": 1}))).reason == "OUT_OF_STOCK"
        await wreck(shop, database)
        left = await query(database, "SELECT id, available, reserved FROM cache_sidecar.inventory ORDER BY id")
        for shop_asked in (other, shop):
            for name, (first, repeat) in calls.items():
                assert await repeat(Stockroom(shop_asked.channel)) == first, name
        assert await query(database, "SELECT id, available, reserved FROM cache_sidecar.inventory ORDER BY id") == left
        if wreck in {remove_buckets, remove_and_make_buckets, make_stock_anew}:
            assert (await refused(Stockroom(other.channel).reserve({"a": 1}))).reason == "OUT_OF_STOCK"
